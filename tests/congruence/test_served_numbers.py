"""What `evaluate` says as served is what lists give: counted in them, to the last digit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from congruence.exported import Exported
from congruence.logs import KINDS, histories, inputs_of
from congruence.parties import Library, LocalServer, Party, Served, Streamed
from congruence.scripts import Ask, Event
from congruence.systems import LATER, STREAMING, WHOLE, recommender, register
from other_device import other_device
from serving.small_streams import quick_engine
from small_histories import histories_of_ids

import longrec
from longrec.data import splits
from longrec.data.histories import Histories
from longrec.data.splits import ALL, PROTOCOLS, make_split
from longrec.evaluation.metrics import CUTOFFS, MISS, names, per_target
from longrec.evaluation.summary import SERVED
from longrec.export.folder import TORCH, torch_version
from longrec.recommender import Recommender
from longrec.serving.stream import stream as module

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:no item is left|.*items are left|.*users? gets? :UserWarning"
    ),
    pytest.mark.filterwarnings("ignore:.*was trained on the last 6 events:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*are unknown to the model:UserWarning"),
]
GRAPHS = pytest.mark.skipif(torch_version() < TORCH, reason="this PyTorch is too old to export")
K = max(CUTOFFS)
"""Items of a list, more than there are."""
MEASURED = [name for name in PROTOCOLS if name != ALL]
LAST = ["leave-one-out"]
Inputs = list[list[tuple[int, int]]]
"""Histories (item id, time), oldest first."""
Lists = list[list[int]]
"""Per history the ids that are recommended."""


@pytest.fixture(scope="module", autouse=True)
def _registered():
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        patch.setattr(module, "Engine", quick_engine)
        patch.setattr(splits, "LONG", 12)  # else prequential has no history that is long enough
        yield


@pytest.fixture(scope="module")
def log_of(tmp_path_factory) -> Callable[[str, int], Histories]:
    """Call it with a kind of log and a number of users."""
    return cache(
        lambda kind, users: histories(kind, tmp_path_factory.mktemp("log") / "histories", users)
    )


def by_users(rec: Recommender, inputs: Inputs, folder: Path) -> Lists:
    """All at once, as users of other data."""
    users = [f"{number}" for number in range(len(inputs))]
    data = histories_of_ids(folder / "inputs", dict(zip(users, inputs, strict=True)))
    frame = rec.recommend(users, data, k=K)
    found = dict(frame.group_by("user", maintain_order=True).agg("item").iter_rows())
    return [found.get(user, []) for user in users]


def by_library(rec: Recommender, inputs: Inputs, folder: Path) -> Lists:
    """A call for each history."""
    return by_party(Library(rec, folder), inputs)


def by_stream(rec: Recommender, inputs: Inputs, folder: Path) -> Lists:
    """By a stream that has observed the histories."""
    with closing(Streamed(rec, str(folder / "users"))) as party:
        return by_party(party, inputs)


def by_server(rec: Recommender, inputs: Inputs, folder: Path) -> Lists:
    """By a server of such a stream."""
    with closing(LocalServer(folder)) as server:
        return by_party(Served(Streamed(rec, str(folder / "users")), server), inputs)


def by_export(rec: Recommender, inputs: Inputs, folder: Path) -> Lists:
    """By the files of an export."""
    return by_party(Exported(rec, folder), inputs)


def by_party(party: Party, inputs: Inputs) -> Lists:
    """By a party that is told all events, some alone, and then asked for each history."""
    events = [
        Event(f"{n}", item, time) for n, history in enumerate(inputs) for item, time in history
    ]
    half = len(events) // 2
    for part in (events[:half], *([event] for event in events[half : half + 20])):
        party.observe(part)
    party.observe(events[half + 20 :])
    return [party.ask(Ask(f"{n}", k=K)).items for n in range(len(inputs))]


WAYS: dict[str, Callable[[Recommender, Inputs, Path], Lists]] = {
    "all at once": by_users,
    "one by one": by_library,
    "stream": by_stream,
    "server": by_server,
    "export": by_export,
}
"""Where lists come from."""


def check(
    rec: Recommender, data: Histories, protocols: Sequence[str], ways: Sequence[str], folder: Path
) -> None:
    """Hold what `evaluate` says against lists, which are asked for all protocols together."""
    targets = [list(inputs_of(data, make_split(protocol, data).test)) for protocol in protocols]
    inputs = [given for some in targets for given, _ in some]
    said = [longrec.evaluate(rec, data, protocol=protocol) for protocol in protocols]
    for way in ways:
        (folder / way).mkdir(parents=True)
        lists = iter(WAYS[way](rec, inputs, folder / way))
        for protocol, metrics, some in zip(protocols, said, targets, strict=True):
            served = [metrics[SERVED + name] for name in names()]
            places = [
                found.index(target) + 1 if target in found else MISS
                for (_, target), found in zip(some, islice(lists, len(some)), strict=True)
            ]
            counted = per_target(np.array(places)).mean(0).tolist()
            both = {name: pair for name, *pair in zip(names(), served, counted, strict=True)}
            assert counted == served, f"{protocol}, {way}: said and counted are {both}"
        assert next(lists, None) is None


@pytest.mark.parametrize("name", [n for n in (*STREAMING, *WHOLE) if n not in LATER])
def test_evaluate_says_what_lists_give(name: str, log_of, tmp_path: Path):
    number = [*STREAMING, *WHOLE].index(name)
    rec, data = recommender(name, number % 2 == 0), log_of(KINDS[number // 2 % 2], 6)
    check(rec, data, MEASURED, ["stream" if name in STREAMING else "all at once"], tmp_path)


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("last-item", ["all at once", "one by one", "server", "export"]),
        ("elastic and followers", ["all at once", "one by one", "server"]),
        pytest.param("sasrec trained on 6 events", ["export"], marks=(GRAPHS, pytest.mark.slow)),
    ],
)
def test_lists_are_the_same_everywhere(name: str, ways: list[str], log_of, tmp_path: Path):
    check(recommender(name, False), log_of(KINDS[0], 6), LAST, ways, tmp_path)


@pytest.mark.parametrize("name", ["elastic and followers", "target-aware", "last-item"])
def test_on_another_device(name: str, log_of, tmp_path: Path):
    rec = recommender(name)
    with other_device():
        added = None if rec.added is None else deepcopy(rec.added).to("cuda")
        there = replace(rec, model=deepcopy(rec.model).to("cuda"), added=added)
        check(there, log_of(KINDS[0], 6), LAST, ["all at once", "one by one"], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*STREAMING, *WHOLE])
def test_evaluate_says_what_all_lists_give(name: str, kind: str, log_of, tmp_path: Path):
    """Each kind of log with one policy on seen items, other pairs than above."""
    number = [*STREAMING, *WHOLE].index(name)
    above = KINDS[number // 2 % 2]
    rec, data = recommender(name, (number % 2 == 0) != (kind == above)), log_of(kind, 16)
    check(rec, data, MEASURED, ["all at once"], tmp_path)
    others = ["one by one", "stream"][: 2 if name in STREAMING else 1]
    check(rec, data, LAST, others, tmp_path / "others")
