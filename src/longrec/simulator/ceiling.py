"""Exact prediction on simulated histories: what the best possible model would attain.

The hidden state of a simulated user is small and discrete, so a forward filter gives the exact
posterior of the state given the observed items and times, and with it the exact law of the next
item (the posterior predictive). Home and away chains are independent and never emit the same
event, so each is filtered on its own::

    prior_t(z)     = sum_z' P(z | z', b_t) posterior_{t-1}(z')        b_t: read from the time gap
    posterior_t(z) ~ prior_t(z) [(1 - eps) W[z, x_t] / Z[z] + eps W[bg, x_t] / Z[bg]]
    P(x | history) = sum_z prior(z) P(x | z)       prior with P(b = 1) = 1 / session (or certain)

Three callers' choices: the whole history (the ceiling); only the last `window` events (bounds
every windowed model: the filter restarts from the stationary law, and is still told the event
count and the time of the event before its window); or the true hidden state (`latent`, the oracle
that no model can reach). Time is vectorised over users: one numpy pass per event of the longest.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from longrec.core.arrays import Floats, Ints, places
from longrec.core.errors import UsageError
from longrec.data.histories import Histories
from longrec.data.splits import Targets, repeats
from longrec.simulator.config import SESSION_GAP, epochs_of, offer_epochs
from longrec.simulator.markov import chains_of
from longrec.simulator.simulate import Simulation

STRETCHES_AT_ONCE = 256  # filtered together: their states fit in the cache
TARGETS_AT_ONCE = 512  # rows of probabilities in one block
TIE = 1e-12  # relative difference below which two probabilities count as equal


class _Filter:
    """The law of the hidden state of n stretches of events, moved on by one event at a time.

    Home and away have a chain, a law of its state (n, states) and components of their own; an
    event is seen by the chain of its phase alone, and the gate by none.
    """

    def __init__(self, simulation: Simulation, histories: Histories) -> None:
        world = simulation.world
        self.offsets = np.asarray(histories.offsets)
        if histories.times is None:
            raise UsageError("exact filtering needs histories with times")
        if not np.array_equal(np.diff(self.offsets), simulation.lengths):
            raise UsageError("histories do not come from this simulation: other users or lengths")
        # (N,) catalog index of each simulated item, 0 where it never occurred
        self.column = np.asarray(histories.catalog.find(world.item_ids()), dtype=np.int64)
        number = np.full(histories.n_items + 1, -1)
        number[self.column] = np.arange(self.column.size)
        if (number[1:] < 0).any():
            raise UsageError("histories do not come from this simulation: other items")
        times = np.asarray(histories.times)
        self.items = number[histories.items]  # simulated item numbers
        self.offer = offer_epochs(times, self.offsets[:-1])
        self.session = np.diff(times, prepend=times[:1]) >= SESSION_GAP  # whether one starts
        self.world = world
        self.item_weights = np.ascontiguousarray(world.weights.T)  # (N, K): an event reads one row

    def start(self, n: int) -> None:
        """Begin n stretches, of which nothing is known yet."""
        world = self.world
        home, away = chains_of(world)
        self.phases = (
            (world.is_home, home, home.start(n), slice(0, world.home)),
            (world.is_away, away, away.start(n), slice(world.home, world.background)),
        )

    def predict(self, stretches: Ints, counts: Ints) -> Floats:
        """Law of the next event's component, (m, K), in stretches (m,).

        `counts` (m,) are the events of the user before that event, also those before the stretch.
        """
        world, config = self.world, self.world.config
        gate, place = world.is_gate(counts), counts % config.cycle
        law = np.zeros((stretches.size, world.gate + 1))
        law[:, world.background] = np.where(gate, 0.0, config.background)
        law[:, world.gate] = gate
        session = np.where(world.surely_starts(counts), 1.0, 1 / config.session)
        for in_phase, chain, state, components in self.phases:
            rows = np.flatnonzero(in_phase(counts))
            prior = chain.ahead(state[stretches[rows]], session[rows], place[rows])
            law[rows, components] = (1 - config.background) * chain.components(prior)
        return law

    def absorb(self, stretches: Ints, counts: Ints, events: Ints) -> None:
        """Condition the states of stretches (m,) on their next events (m,), absolute places."""
        world, eps = self.world, self.world.config.background
        place = counts % world.config.cycle
        for in_phase, chain, state, components in self.phases:
            rows = np.flatnonzero(in_phase(counts))
            if not rows.size:
                continue
            stretch, event = stretches[rows], events[rows]
            weights = self.item_weights[self.items[event]]
            totals = world.totals[self.offer[event]]
            likelihood = (1 - eps) * weights[:, components] / totals[:, components]
            noise = weights[:, world.background] / totals[:, world.background]
            likelihood += eps * noise[:, None]
            old, session = state[stretch], self.session[event].astype(np.float64)
            # A stretch's first event takes a transition too: its state starts stationary.
            prior = chain.ahead(old, session, place[rows])
            state[stretch] = chain.absorb(old, prior, likelihood, place[rows])


def _component_laws(
    belief: _Filter, users: Ints, positions: Ints, window: int | None
) -> Iterator[tuple[Ints, Floats]]:
    """Yield (rows of targets, law of the component (rows, K)), each target once.

    A stretch is what one filter reads: a user's events, or with a window those before one target.
    Stretches stand longest first, so that at each step those that go on are the first ones.
    """
    if window is None:
        readers, stretch_of = np.unique(users, return_inverse=True)
        first = begin = belief.offsets[readers]
    else:
        stretch_of = np.arange(users.size)
        first = belief.offsets[users]
        begin = np.maximum(first, positions - window)
    step_of = positions - begin[stretch_of]  # events of the stretch before each target
    steps = np.zeros(begin.size, dtype=np.int64)  # events up to the stretch's last target
    np.maximum.at(steps, stretch_of, step_of)
    longest_first = np.argsort(-steps, kind="stable")
    begin, first, steps = begin[longest_first], first[longest_first], steps[longest_first]
    stretch_of = np.argsort(longest_first)[stretch_of]
    before = begin - first  # events of the user before the stretch

    for low in range(0, begin.size, STRETCHES_AT_ONCE):
        high = min(low + STRETCHES_AT_ONCE, begin.size)
        belief.start(high - low)
        targets = np.flatnonzero((stretch_of >= low) & (stretch_of < high))
        targets = targets[np.argsort(step_of[targets], kind="stable")]
        bounds = np.searchsorted(step_of[targets], np.arange(steps[low] + 2))
        for step in range(steps[low] + 1):
            rows = targets[bounds[step] : bounds[step + 1]]
            if rows.size:
                yield rows, belief.predict(stretch_of[rows] - low, before[stretch_of[rows]] + step)
            # The last target itself is not read.
            reading = np.arange(np.searchsorted(-steps[low:high], -step, side="left"))
            events = begin[low + reading] + step
            belief.absorb(reading, before[low + reading] + step, events)


def predictive(
    simulation: Simulation,
    histories: Histories,
    targets: Targets,
    window: int | None = None,
    latent: bool = False,
) -> Iterator[tuple[Ints, Floats]]:
    """Yield the exact law of each target's item, in blocks of targets.

    Parameters
    ----------
    simulation : Simulation
    histories : Histories
        ``simulation.to_histories(…)``, nothing dropped.
    targets : Targets
        `users` and `positions` of what is to be predicted.
    window : int, optional
        Only this many events before the target are seen.
    latent : bool
        The user's true hidden state at the target is seen as well; `window` then changes nothing.

    Yields
    ------
    rows : (n,) int64
        Which targets, as rows of `targets`; every one once, in no particular order.
    probabilities : (n, n_items + 1) float64
        Column = item index; column 0 is 0. A row sums to 1 less the probability of those items
        that exist in the simulation but never occurred, and so have no index.

    Raises
    ------
    UsageError
        When the histories do not come from the simulation, or the window is not positive.
    """
    if window is not None and window < 1:
        raise UsageError(f"window={window} must be at least 1 event")
    world = simulation.world
    belief = _Filter(simulation, histories)
    users, positions = np.asarray(targets.users), np.asarray(targets.positions)
    laws = (
        _true_laws(simulation, positions)
        if latent
        else _component_laws(belief, users, positions, window)
    )
    occurred = np.flatnonzero(belief.column)
    times = np.asarray(histories.times)
    for rows, law in _in_blocks(laws):
        offer = epochs_of(times[positions[rows] - 1])
        by_item = (law / world.totals[offer]) @ world.weights
        by_item *= world.arrival[None, :] <= offer[:, None]
        out = np.zeros((rows.size, histories.n_items + 1))
        out[:, belief.column[occurred]] = by_item[:, occurred]
        yield rows, out


def _true_laws(simulation: Simulation, positions: Ints) -> Iterator[tuple[Ints, Floats]]:
    """Yield the law of the component given the hidden state: certain, but for the background."""
    world, eps = simulation.world, simulation.config.background
    component = simulation.latent["component"].to_numpy()
    for low in range(0, positions.size, TARGETS_AT_ONCE):
        rows = np.arange(low, min(low + TARGETS_AT_ONCE, positions.size))
        true = component[positions[rows]]
        share = np.where(true == world.gate, 0.0, eps)
        law = np.zeros((rows.size, world.gate + 1))
        law[:, world.background] = share
        law[np.arange(rows.size), true] = 1 - share
        yield rows, law


def _in_blocks(parts: Iterator[tuple[Ints, Floats]]) -> Iterator[tuple[Ints, Floats]]:
    """Join small parts to blocks of about TARGETS_AT_ONCE rows."""
    block: list[tuple[Ints, Floats]] = []
    for part in parts:
        block.append(part)
        if sum(rows.size for rows, _ in block) >= TARGETS_AT_ONCE:
            yield np.concatenate([rows for rows, _ in block]), np.concatenate([x for _, x in block])
            block = []
    if block:
        yield np.concatenate([rows for rows, _ in block]), np.concatenate([x for _, x in block])


def ceiling(
    simulation: Simulation,
    histories: Histories,
    targets: Targets,
    window: int | None = None,
    latent: bool = False,
) -> pl.DataFrame:
    """Rank the catalog by the exact law of the next item: what the best model attains.

    Ranking by probability maximises the expectation of every gain that falls with the unfiltered
    rank (HR@k, NDCG@k and MRR alike), over all models that see the same events. With seen items
    filtered it does so over the targets that are not repeats; of a repeat, which competes with
    unseen items only, a score that lifted all seen items could rank it higher without any merit.
    Equal probabilities rank by item index, which says nothing about the item: the best model gives
    no two items the same score, since ties count against it, and any order of them does equally
    well.

    Parameters
    ----------
    simulation, histories, targets, window, latent
        As for `predictive`.

    Returns
    -------
    polars frame
        One row per target in the order of `targets`: ``user``, ``position``, ``length`` (events
        before the target), ``rank`` (seen items filtered), ``rank_unfiltered``, ``rank_hiding``
        and ``rank_showing`` (as served, with seen items hidden, where a repeat is in no list, and
        shown), ``known``, ``repeat``.
    """
    users, positions = np.asarray(targets.users), np.asarray(targets.positions)
    offsets, items = np.asarray(histories.offsets), np.asarray(histories.items)
    lengths = positions - offsets[users]
    ranks = np.zeros((2, users.size), dtype=np.int64)
    index = np.arange(histories.n_items + 1)[None, :]
    for rows, probabilities in predictive(simulation, histories, targets, window, latent):
        row, true = np.arange(rows.size), items[positions[rows]]
        own = probabilities[row, true][:, None]
        above = probabilities > own * (1 + TIE)
        above |= (probabilities >= own * (1 - TIE)) & (index <= true[:, None])
        above[:, 0] = False
        ranks[1, rows] = above.sum(axis=1)
        events = places(offsets[users[rows]], lengths[rows])
        above[np.repeat(row, lengths[rows]), items[events]] = False  # seen items are filtered,
        above[row, true] = True  # the target never
        ranks[0, rows] = above.sum(axis=1)
    again = repeats(histories, users, positions)
    return pl.DataFrame(
        {
            "user": users,
            "position": positions,
            "length": lengths,
            "rank": ranks[0],
            "rank_unfiltered": ranks[1],
            "rank_hiding": np.where(again, np.iinfo(np.int64).max, ranks[0]),
            "rank_showing": ranks[1],
            "known": np.asarray(targets.known),
            "repeat": again,
        }
    )
