"""Simulated histories from a generative model whose exact posterior can be computed.

The model, in the words of ``docs/simulator.md`` (which derives it step by step). Event ``t`` of a
user stands at ``p = t mod (h + D)`` of a public cycle, ``h = visit``, ``D = evidence_distance``::

    p < h              home:   the user follows private, lifelong interests
    h <= p < h + D - 1 away:   the user runs errands, from a law that all users share
    p = h + D - 1      gate:   one fixed item that announces the return (only if D > 0)

    subset    s   ~ prod_{c in s} (c + 1)^(-1/2)     the m = per_user interests that a user owns
    session   b_t ~ Bernoulli(1 / session)           seen in the log as a gap of half an hour
    interest  a_t = a_{t-1}, but at b_t = 1 with probability `switch` another of the owned ones
    facet     f_t = f_{t-1}, but at b_t = 1 drawn anew
    item      x_t ~ (1 - eps) W[(a_t, f_t), .] / Z + eps W[background, .] / Z

over the items that had arrived when event ``t - 1`` happened (``Z`` renormalises over them). Away
events follow the same chain over the errands. Two more regimes replace the home law: ``recall``
replays a private playlist, item for item, at every visit; ``order`` draws the next interest from
the ordered pair of the last two. What is hidden is small and discrete, so
`longrec.simulator.ceiling` computes the law of the next item given a history exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from longrec.core.arrays import Ints
from longrec.data.histories import Histories
from longrec.data.prepare import prepare
from longrec.simulator.config import (
    ORDER_NOISE,
    SESSION_GAP,
    START,
    Flags,
    SimulationConfig,
    World,
    build_world,
    endings,
    numbered_ids,
    offer_epochs,
)

__all__ = ["Simulation", "SimulationConfig", "simulate"]

JOIN_SECONDS = 300 * 86_400  # users' first events spread over this long
LENGTH_SPREAD = 1.4  # sigma of the lognormal factor that gives lengths their long tail


@dataclass(frozen=True)
class Simulation:
    """Simulated events with what made them.

    Attributes
    ----------
    config : SimulationConfig
    world : World
    events : polars frame
        ``user`` ("u0012"), ``item`` ("i345"), ``time`` (int64 seconds, growing within a user),
        users in order, each user's events in order.
    latent : polars frame
        Row by row beside `events`: ``component`` (the law that the user's state called for),
        ``background`` (whether the item came from overall popularity instead), ``home``, ``gate``,
        ``session_start``.
    lengths : (users,) int64
    """

    config: SimulationConfig
    world: World
    events: pl.DataFrame
    latent: pl.DataFrame
    lengths: Ints

    def to_histories(self, path: str | Path) -> Histories:
        """Prepare the events as a histories folder; user number i is its row i.

        Item number j has the catalog index of id j; items that never occurred have none.
        """
        return prepare(self.events, path, user="user", item="item", time="time", time_unit="s")


def simulate(config: SimulationConfig) -> Simulation:
    """Draw users' hidden states, times and items; never a loop over users.

    Parameters
    ----------
    config : SimulationConfig

    Returns
    -------
    Simulation
        The same for the same configuration (numpy's PCG64 streams seeded by ``[seed, 0]`` for
        the laws and ``[seed, 1]`` for the users).
    """
    world = build_world(config)
    rng = np.random.default_rng([config.seed, 1])
    lengths = _lengths(rng, config)
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    user = np.repeat(np.arange(config.users), lengths)
    counts = np.arange(user.size) - first[user]
    home, away, gate = world.is_home(counts), world.is_away(counts), world.is_gate(counts)
    starts = (rng.random(user.size) < 1 / config.session) | world.surely_starts(counts)
    times = _times(rng, starts, first, user)
    facets = world.away // config.errands

    if config.regime == "recall":
        playlists = rng.choice(world.home, (config.users, config.visit), p=world.playlist_prior)
        component = playlists[user, np.minimum(counts % config.cycle, config.visit - 1)]
    elif config.regime == "order":
        component = _interests_by_pairs(rng, world, user, home)
    else:
        owned = world.subsets[
            rng.choice(len(world.subsets), size=config.users, p=world.subset_prior)
        ]
        slot, facet = _sessions(rng, config, starts, home, counts == 0, config.per_user, facets)
        component = owned[user, slot] * facets + facet
    arrives = counts == config.visit
    errand, facet = _sessions(rng, config, starts, away, arrives, config.errands, facets)
    component = np.where(home, component, world.home + errand * facets + facet)
    component = np.where(gate, world.gate, component)
    noise = (rng.random(user.size) < config.background) & ~gate
    laws = np.where(noise, world.background, component)
    items = _draw_items(rng, world, laws, offer_epochs(times, first))
    events = pl.DataFrame(
        {
            "user": numbered_ids("u", config.users).gather(user),
            "item": world.item_ids().gather(items),
            "time": times,
        }
    )
    latent = pl.DataFrame(
        {
            "component": component,
            "background": noise,
            "home": home,
            "gate": gate,
            "session_start": starts,
        }
    )
    return Simulation(config, world, events, latent, lengths)


def _lengths(rng: np.random.Generator, config: SimulationConfig) -> Ints:
    """Lengths (users,): whole cycles and the first few events of one more visit."""
    places = np.asarray(endings(config.visit))
    last = rng.choice(places, size=config.users)
    rate = max((config.mean_length - 1 - places.mean()) / config.cycle - 1, 0.0)
    factor = rng.lognormal(-(LENGTH_SPREAD**2) / 2, LENGTH_SPREAD, config.users)  # mean 1
    cycles = 1 + rng.poisson(rate * factor)
    return np.asarray(cycles * config.cycle + last + 1, dtype=np.int64)


def _times(rng: np.random.Generator, starts: Flags, first: Ints, user: Ints) -> Ints:
    within = rng.integers(5, SESSION_GAP // 3, starts.size)
    between = 7_200 + rng.exponential(64_800, starts.size).astype(np.int64)
    gaps = np.where(starts, between, within)
    gaps[first] = START + rng.integers(0, JOIN_SECONDS, first.size)
    total = np.cumsum(gaps)
    return np.asarray(total - (total[first] - gaps[first])[user], dtype=np.int64)


def _sessions(
    rng: np.random.Generator,
    config: SimulationConfig,
    starts: Flags,
    here: Flags,
    first: Flags,
    slots: int,
    facets: int,
) -> tuple[Ints, Ints]:
    """Slot and facet of each event, (n,) both; the slot moves only where `here` is true.

    A switch adds 1 .. slots-1 modulo `slots`, so a running sum gives all slots; a user's `first`
    event adds a uniform number, which makes the sum over earlier users irrelevant.
    """
    n = starts.size
    switches = here & starts & (rng.random(n) < config.switch)
    shift = np.where(switches, rng.integers(1, max(slots, 2), n), 0)
    shift = np.where(first, rng.integers(0, slots, n), shift)
    slot = np.cumsum(shift) % slots
    drawn = rng.integers(0, facets, n)
    facet = drawn[np.maximum.accumulate(np.where(starts, np.arange(n), 0))]
    return slot.astype(np.int64), facet.astype(np.int64)


def _interests_by_pairs(rng: np.random.Generator, world: World, user: Ints, home: Flags) -> Ints:
    """Interest of each home event in regime "order", (n,); zero elsewhere."""
    c = world.config.interests
    fresh = rng.integers(0, c, user.size)
    ignores = rng.random(user.size) < ORDER_NOISE
    before, last = rng.integers(0, c, (2, world.config.users))
    out = np.zeros(user.size, dtype=np.int64)
    rows = np.flatnonzero(home)
    number = np.arange(rows.size) - np.searchsorted(user[rows], user[rows])  # of the user's events
    by_number = rows[np.argsort(number, kind="stable")]
    for at in np.split(by_number, np.cumsum(np.bincount(number))[:-1]):  # all first, all second, …
        who = user[at]
        out[at] = np.where(ignores[at], fresh[at], world.pair_rule[before[who], last[who]])
        before[who], last[who] = last[who], out[at]
    return out


def _draw_items(rng: np.random.Generator, world: World, component: Ints, offer: Ints) -> Ints:
    """Items (n,) from each event's component, drawn again until they had arrived.

    Drawing again is exactly the law renormalised over the arrived items.
    """
    n_items = world.config.items
    laws = world.weights / world.weights.sum(axis=1, keepdims=True)
    bounds = (np.cumsum(laws, axis=1) + np.arange(len(laws))[:, None]).ravel()
    items = np.zeros(component.size, dtype=np.int64)
    pending = np.arange(component.size)
    while pending.size:
        k = component[pending]
        place = np.searchsorted(bounds, k + rng.random(pending.size), side="right")
        items[pending] = np.clip(place - k * n_items, 0, n_items - 1)
        pending = pending[world.arrival[items[pending]] > offer[pending]]
    return items
