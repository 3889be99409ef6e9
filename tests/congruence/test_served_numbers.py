"""What `evaluate` says as served is what lists give: counted in them, to the last digit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from congruence.logs import KINDS, histories, inputs_of
from congruence.systems import STREAMING, WHOLE, recommender, register
from serving.small_streams import frame_of, quick_engine
from small_histories import histories_of_ids

import longrec
from longrec.data import splits
from longrec.data.histories import Histories
from longrec.data.splits import ALL, PROTOCOLS, make_split
from longrec.evaluation.metrics import CUTOFFS, MISS, names, per_target
from longrec.evaluation.summary import SERVED
from longrec.recommender import Recommender
from longrec.serving.stream import stream as module

pytestmark = [
    pytest.mark.filterwarnings("ignore:no item is left|.*have seen every item:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*was trained on the last 6 events:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*are unknown to the model:UserWarning"),
]
K = max(CUTOFFS)
"""Items of a list, more than there are."""
MEASURED = [name for name in PROTOCOLS if name != ALL]
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
    return _lists(rec.recommend(users, data, k=K), users)


def one_by_one(rec: Recommender, inputs: Inputs, folder: Path) -> Lists:
    """A call for each history."""
    if rec.model.reads_times:
        return [by_users(rec, [one], folder / f"{n}")[0] for n, one in enumerate(inputs)]
    given = [[item for item, _ in one] for one in inputs]
    return [rec.recommend(histories=[one], k=K)["item"].to_list() for one in given]


def by_stream(rec: Recommender, inputs: Inputs, folder: Path) -> Lists:
    """By a stream that has observed the histories."""
    events = [(str(n), *event) for n, one in enumerate(inputs) for event in one]
    with rec.open_stream(str(folder / "users"), "process") as stream:
        half = len(events) // 2
        for user, item, time in events[half : half + 30]:
            stream.observe(f"{user} is alone", item, time)
        stream.observe_many(frame_of(events[:half]))
        stream.observe_many(frame_of(events[half:]))
        return [stream.recommend(n, K)["item"].to_list() for n in range(len(inputs))]


def _lists(frame: pl.DataFrame, users: list[str]) -> Lists:
    found = dict(frame.group_by("user", maintain_order=True).agg("item").iter_rows())
    return [found.get(user, []) for user in users]


WAYS: dict[str, Callable[[Recommender, Inputs, Path], Lists]] = {
    "recommend": by_users,
    "one by one": one_by_one,
    "stream": by_stream,
}
"""Where lists come from."""


def check(
    rec: Recommender, data: Histories, protocol: str, ways: tuple[str, ...], folder: Path
) -> None:
    """Hold what `evaluate` says against lists."""
    metrics = longrec.evaluate(rec, data, protocol=protocol)
    served = [metrics[SERVED + name] for name in names()]
    every = list(inputs_of(data, make_split(protocol, data).test))
    inputs, targets = [given for given, _ in every], [target for _, target in every]
    for way in ways:
        (folder / way).mkdir(parents=True)
        lists = WAYS[way](rec, inputs, folder / way)
        places = [
            found.index(target) + 1 if target in found else MISS
            for found, target in zip(lists, targets, strict=True)
        ]
        counted = per_target(np.array(places)).mean(0).tolist()
        both = {name: pair for name, *pair in zip(names(), served, counted, strict=True)}
        assert counted == served, f"{way}: said and counted are {both}"


@pytest.mark.parametrize("name", [*STREAMING, *WHOLE])
def test_evaluate_says_what_lists_give(name: str, log_of, tmp_path: Path):
    number = [*STREAMING, *WHOLE].index(name)
    rec, data = recommender(name, number % 2 == 0), log_of(KINDS[number // 2 % 2], 8)
    ways = ("stream",) if name in STREAMING else ("recommend",)
    for protocol in MEASURED:
        check(rec, data, protocol, ways, tmp_path / protocol)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*STREAMING, *WHOLE])
def test_evaluate_says_what_all_lists_give(name: str, kind: str, log_of, tmp_path: Path):
    ways = ("recommend", "one by one", "stream")[: 3 if name in STREAMING else 2]
    for exclude_seen in (True, False):
        rec = recommender(name, exclude_seen)
        for protocol in MEASURED:
            folder = tmp_path / f"{exclude_seen} {protocol}"
            check(rec, log_of(kind, 24), protocol, ways, folder)
