"""Which events train, and which are predicted: the three protocols by which a model is judged.

A protocol keeps a prefix of every history for training and names some later events as targets. The
input of a target is everything before it in its history, so it takes two short arrays and never
a copy of the data: ``train_end`` (one number per user) and the positions of the targets.

=============  ============================================  =====================================
name           training events                               test targets
=============  ============================================  =====================================
leave-one-out  all but a user's last two                     the last event
global-time    before the .8 quantile of all times           first event from the .9 quantile on
prequential    all but the last fifth of long histories      every event of that last fifth
all            every event                                   none: such a model is not measured
=============  ============================================  =====================================

Only numpy is needed here, so that training imports it on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from longrec.core.arrays import Ints
from longrec.core.cuts import cut_times, moment
from longrec.core.errors import UsageError

if TYPE_CHECKING:
    from longrec.data.histories import Histories

Bools = NDArray[np.bool_]
Notes = dict[str, int | float | str]

CUTS = (0.8, 0.9)
"""Quantiles of all times at which global-time cuts, for validation and for the test."""
LONG, LAST_SHARE = 501, 0.2
"""Events from which prequential calls a history long, and the share of one that it tests."""
ANOTHER = (
    "use protocol=leave-one-out (train: --set protocol=leave-one-out; evaluate: "
    "--protocol leave-one-out)"
)
"""What helps where a log cannot be cut by a protocol."""
ALL = "all"
"""The split of final runs."""
_BLOCK_EVENTS = 1 << 22  # events looked at together: bounds the memory of the scans below


@dataclass(frozen=True, eq=False)
class Targets:
    """Events to predict, in the order of users and, within a user, of time.

    Attributes
    ----------
    users : int64 (n,)
        Index of the user of each target.
    positions : int64 (n,)
        Where the target lies in ``histories.items``; its input is
        ``items[offsets[user] : position]``, which a split never leaves empty.
    items : int64 (n,)
        Item index of each target; 0 where a recommender's catalog does not have it.
    known : bool (n,)
        False where the target counts as a miss because its item never occurs in training.
    """

    users: Ints
    positions: Ints
    items: Ints
    known: Bools

    def __len__(self) -> int:
        return len(self.users)

    def lengths(self, offsets: Ints) -> Ints:
        """Count the events before each target, (n,) int64."""
        return self.positions - offsets[self.users]

    def where(self, chosen: Ints | Bools) -> Targets:
        """Some of them, by numbers in ascending order or by a mask (n,)."""
        return Targets(
            self.users[chosen], self.positions[chosen], self.items[chosen], self.known[chosen]
        )


@dataclass(frozen=True, eq=False)
class Split:
    """Training prefixes and targets of one protocol.

    Attributes
    ----------
    protocol : str
        "leave-one-out", "global-time", "prequential" or "all".
    train_end : int64 (n_users,)
        Position one past each user's last training event; ``offsets[user]`` where none trains.
    validation, test : Targets
        For choosing a model, and for reporting it.
    notes : dict
        What a table must say: counts of users and events, cuts, shares of targets whose item is
        unseen in training or already in the input (a repeat).
    """

    protocol: str
    train_end: Ints
    validation: Targets
    test: Targets
    notes: Notes


def leave_one_out(histories: Histories) -> Split:
    """Test each user's last event and validate the one before, as the published tables do.

    The test input includes the validation event. Users with one or two events train with all of
    them and are not evaluated. An item unseen in training is still ranked (``known`` is True), as
    published; the share of such targets is noted.
    """
    starts, ends = histories.offsets[:-1], histories.offsets[1:]
    lengths = ends - starts
    users = np.flatnonzero(lengths >= 3)
    train_end = np.where(lengths >= 3, ends - 2, ends)
    return _split(
        "leave-one-out",
        histories,
        train_end,
        validation=(users, ends[users] - 2),
        test=(users, ends[users] - 1),
        unseen_is_a_miss=False,
        notes={"users_too_short": int((lengths < 3).sum())},
    )


def global_time(histories: Histories, cut: str | None = None) -> Split:
    """Train before one moment, predict after it: nobody's future helps anybody's past.

    The cuts are the dates given (`longrec.core.cuts`), or the events at the quantiles ``CUTS`` of
    all times; where one date is given, the validation cut keeps that ratio among the events before.
    An event at exactly a cut lies after it, so ties never straddle a cut. A user's targets are the
    first event between the cuts (validation) and the first from the second cut on (test; its input
    holds the user's events between the cuts). Users with nothing before their target are counted,
    not evaluated. Targets whose item no training event has are misses.

    Raises
    ------
    UsageError
        Without times, when no event lies before the first cut, or for a cut that is no date.
    """
    if histories.times is None:
        raise UsageError(
            f"{histories.path}: the protocol 'global-time' needs times, and this log had none; "
            f"{ANOTHER}, or prepare the log with its time column"
        )
    starts, ends = histories.offsets[:-1], histories.offsets[1:]
    first_cut, second_cut = _cuts(histories.times, cut)
    first = starts + _count_before(histories.times, histories.offsets, first_cut)
    second = starts + _count_before(histories.times, histories.offsets, second_cut)
    if np.array_equal(first, starts):
        raise UsageError(
            f"{histories.path}: no event lies before the validation cut, {moment(first_cut)}: "
            + (
                f"too many events share one time; {ANOTHER}"
                if cut is None
                else f"the first is of {moment(int(histories.times.min()))}; cut later"
            )
        )
    has_validation, has_test = first < second, second < ends
    validating = np.flatnonzero(has_validation & (first > starts))
    testing = np.flatnonzero(has_test & (second > starts))
    return _split(
        "global-time",
        histories,
        first,
        validation=(validating, first[validating]),
        test=(testing, second[testing]),
        unseen_is_a_miss=True,
        notes={
            "validation_cut": first_cut,
            "test_cut": second_cut,
            "users_ended_before_test_cut": int((~has_test).sum()),
            "users_without_input_at_test": int((has_test & (second == starts)).sum()),
        },
    )


def prequential(histories: Histories) -> Split:
    """Score every event of the last fifth of long histories from what came before it.

    Histories of at least ``LONG`` events keep their last fifth (``LAST_SHARE``) for the test and
    the event before that for validation. Of the shorter ones all but the last event train and the
    last validates (below three events: all train). Targets whose item no training event has are
    misses. Targets of one user are not independent: intervals must be clustered by user.

    Raises
    ------
    UsageError
        When no history is long enough.
    """
    starts, ends = histories.offsets[:-1], histories.offsets[1:]
    lengths = ends - starts
    long = lengths >= LONG
    if not long.any():
        raise UsageError(
            f"{histories.path}: the protocol 'prequential' needs histories of {LONG} events or "
            f"more; the longest has {int(lengths.max(initial=0))}; {ANOTHER}"
        )
    tested = np.where(long, np.maximum((lengths * LAST_SHARE).astype(np.int64), 1), 0)
    validating = np.flatnonzero(lengths >= 3)
    validation_at = ends - tested - 1
    train_end = np.where(lengths >= 3, validation_at, ends)
    users = np.repeat(np.arange(len(lengths)), tested)
    within = np.arange(len(users)) - np.repeat(np.cumsum(tested) - tested, tested)
    return _split(
        "prequential",
        histories,
        train_end,
        validation=(validating, validation_at[validating]),
        test=(users, (ends - tested)[users] + within),
        unseen_is_a_miss=True,
        notes={
            "min_length": LONG,
            "last_share": LAST_SHARE,
            "users_too_short": int((~long).sum()),
        },
    )


def all_events(histories: Histories) -> Split:
    """Train on every event and keep no targets apart: another run has measured such a model."""
    none = np.zeros(0, np.int64)
    return _split(
        ALL,
        histories,
        histories.offsets[1:],
        validation=(none, none),
        test=(none, none),
        unseen_is_a_miss=False,
        notes={},
    )


PROTOCOLS: dict[str, Callable[[Histories], Split]] = {
    "leave-one-out": leave_one_out,
    "global-time": global_time,
    "prequential": prequential,
    ALL: all_events,
}


def make_split(protocol: str, histories: Histories, cut: str | None = None) -> Split:
    """Cut histories by a protocol, a key of ``PROTOCOLS``; `cut`: dates, of global-time alone."""
    if not isinstance(protocol, str) or protocol not in PROTOCOLS:
        raise UsageError(f"unknown protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}")
    if cut is None:
        return PROTOCOLS[protocol](histories)
    if protocol != "global-time":
        raise UsageError(
            f"cut is {cut!r}, and the protocol is {protocol!r}: dates cut the protocol global-time "
            "alone; choose that one too, or leave the cut out"
        )
    return global_time(histories, cut)


def repeats(histories: Histories, users: Ints, positions: Ints) -> Bools:
    """Tell which targets repeat an item of their own input, (n,) bool.

    Sorts the events of a block of users by (user, item): no pairs of target and input are formed,
    so many targets in one history cost no more than one.
    """
    result = np.zeros(len(positions), dtype=np.bool_)
    order = np.argsort(positions, kind="stable")
    wanted = positions[order]
    for low, high in _user_blocks(histories.offsets, np.unique(users)):
        begin, end = int(histories.offsets[low]), int(histories.offsets[high])
        here = slice(*np.searchsorted(wanted, [begin, end]))
        if here.start == here.stop:
            continue
        owner = np.repeat(np.arange(high - low), np.diff(histories.offsets[low : high + 1]))
        key = owner * (histories.n_items + 1) + histories.items[begin:end]
        by_key = np.argsort(key, kind="stable")  # stable: earlier events of a key come first
        again = np.zeros(end - begin, dtype=np.bool_)
        again[by_key[1:]] = key[by_key[1:]] == key[by_key[:-1]]
        result[order[here]] = again[wanted[here] - begin]
    return result


def _cuts(times: Ints, cut: str | None) -> tuple[int, int]:
    """The moments of the validation cut and of the test cut."""
    if cut is None:
        return _at_quantile(times, CUTS[0]), _at_quantile(times, CUTS[1])
    try:
        first, second = cut_times(cut)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if first is None:
        before = times[times < second]
        first = _at_quantile(before, CUTS[0] / CUTS[1]) if len(before) else second
    return first, second


def _at_quantile(times: Ints, share: float) -> int:
    place = min(int(share * len(times)), len(times) - 1)
    return int(np.partition(times, place)[place])


def _split(
    protocol: str,
    histories: Histories,
    train_end: Ints,
    *,
    validation: tuple[Ints, Ints],
    test: tuple[Ints, Ints],
    unseen_is_a_miss: bool,
    notes: Notes,
) -> Split:
    """Put a split together: look up which targets are in training and add the shared notes."""
    seen = training_counts(histories, train_end) > 0
    counts: Notes = {
        "users": len(train_end),
        "training_events": int((train_end - histories.offsets[:-1]).sum()),
    }
    made = {}
    for part, (users, positions) in (("validation", validation), ("test", test)):
        users, positions = users.astype(np.int64), positions.astype(np.int64)
        items = histories.items[positions].astype(np.int64)
        in_training = seen[items]
        known = in_training if unseen_is_a_miss else np.ones(len(users), dtype=np.bool_)
        made[part] = Targets(users, positions, items, known)
        counts[f"{part}_users"] = len(np.unique(users))
        counts[f"{part}_targets"] = len(users)
        counts[f"{part}_unseen_share"] = _share(~in_training)
        counts[f"{part}_repeat_share"] = _share(repeats(histories, users, positions))
    return Split(
        protocol, train_end.astype(np.int64), made["validation"], made["test"], counts | notes
    )


def training_events(offsets: Ints, train_end: Ints) -> Bools:
    """Mark the events that train, (n_events,) bool: in each history those before its train_end."""
    pattern = np.tile(np.array([True, False]), len(train_end))
    stretches = np.stack([train_end - offsets[:-1], offsets[1:] - train_end], axis=1)
    return np.repeat(pattern, stretches.ravel())


def training_counts(histories: Histories, train_end: Ints) -> Ints:
    """How many training events each item has, (n_items + 1,) int64; of each event it takes a byte
    of memory."""
    counts = np.zeros(histories.n_items + 1, np.int64)
    mask = training_events(histories.offsets, train_end)
    for begin in range(0, len(mask), _BLOCK_EVENTS):
        block = slice(begin, begin + _BLOCK_EVENTS)
        counts += np.bincount(histories.items[block][mask[block]], minlength=len(counts))
    return counts


def _count_before(times: Ints, offsets: Ints, cut: int) -> Ints:
    """Count each user's events with time < cut, (n_users,); they are a prefix of the history."""
    counts = np.zeros(len(offsets) - 1, dtype=np.int64)
    filled = np.flatnonzero(np.diff(offsets))  # reduceat misreads empty segments
    if len(filled):
        counts[filled] = np.add.reduceat(times < cut, offsets[filled], dtype=np.int64)
    return counts


def _user_blocks(offsets: Ints, users: Ints) -> Iterator[tuple[int, int]]:
    """Cut the range that ``users`` (sorted) span into ranges of about _BLOCK_EVENTS events."""
    if not len(users):
        return
    low, stop = int(users[0]), int(users[-1]) + 1
    while low < stop:
        reach = int(np.searchsorted(offsets, offsets[low] + _BLOCK_EVENTS, side="right")) - 1
        high = min(max(reach, low + 1), stop)
        yield low, high
        low = high


def _share(mask: Bools) -> float:
    return float(mask.mean()) if len(mask) else 0.0
