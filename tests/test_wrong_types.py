"""Whatever is given to a public function instead of what it takes is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from serving.small_streams import FIRST, recommender
from small_histories import tiny_histories, walks

import longrec
from longrec.core.errors import LongrecError
from longrec.core.shown import Picture

WRONG: dict[str, Callable[[], Any]] = {
    "generator": lambda: (one for one in [1]),
    "text": lambda: "nonsense",
    "bytes": lambda: b"\xff",
    "whole number": lambda: 5,
    "negative number": lambda: -1,
    "number": lambda: 2.5,
    "nan": lambda: float("nan"),
    "boolean": lambda: True,
    "mapping": lambda: {"a": 1},
    "set": lambda: {1},
    "table": lambda: pl.DataFrame({"a": [1]}),
    "pandas table": lambda: pd.DataFrame({"a": [1]}),
    "array": lambda: np.zeros((2, 2)),
    "array of objects": lambda: np.full((2, 2), None),
    "lists": lambda: [[[1]]],
    "some lists": lambda: [1, [2]],
    "object": object,
    "function": lambda: print,
    "nothing": lambda: None,
}
ID = {"text", "bytes", "whole number", "negative number"}
OPTIONAL = {"nothing"}
CALLED = OPTIONAL | {"function"}
COUNT = {"whole number"}
MANY = {"generator", "set"}
FLAG = {"boolean"}
TEXT = OPTIONAL | {"text"}
LOG = pl.DataFrame({"user": [1, 1], "item": [1, 2], "time": [1, 2]})
Call = Callable[[Any, Any], object]

# Of each argument what it takes of the above, and how it is given.
RECOMMENDER: dict[str, tuple[set[str], Call]] = {
    "users": (OPTIONAL, lambda h, x: h.rec.recommend(x, h.data)),
    "data": (set(), lambda h, x: h.rec.recommend(["user00001"], x)),
    "histories": ({"array of objects", "array"}, lambda h, x: h.rec.recommend(histories=x)),
    "histories.0": (set(), lambda h, x: h.rec.recommend(histories=[x])),
    "k": (COUNT, lambda h, x: h.rec.recommend(histories=[[FIRST]], k=x)),
    "exclude_seen": ({"boolean"}, lambda h, x: h.rec.recommend(histories=[], exclude_seen=x)),
    "progress": (CALLED, lambda h, x: h.rec.recommend(histories=[], progress=x)),
    "explained item": (set(), lambda h, x: h.rec.explain(x, history=[FIRST])),
    "explained user": (set(), lambda h, x: h.rec.explain(FIRST, x, h.data)),
    "explained history": (set(), lambda h, x: h.rec.explain(FIRST, history=x)),
    "times": (OPTIONAL, lambda h, x: h.rec.explain(FIRST, history=[FIRST], times=x)),
    "similar item": (set(), lambda h, x: h.rec.similar(x)),
    "similar k": (COUNT, lambda h, x: h.rec.similar(FIRST, x)),
    "ids": (set(), lambda h, x: h.rec.with_items(x)),
    "vectors": (OPTIONAL, lambda h, x: h.rec.with_items([9999], x)),
    "added score": (OPTIONAL, lambda h, x: h.rec.with_added_score(x)),
    "url": ({"text"}, lambda h, x: h.rec.open_stream(x)),
    "durability": (set(), lambda h, x: h.rec.open_stream(str(h.folder / "a"), x)),
    "index": (OPTIONAL, lambda h, x: h.rec.open_stream(str(h.folder / "b"), index=x)),
    "folder": ({"text"}, lambda h, x: h.rec.save(x)),
    "split": (OPTIONAL, lambda h, x: h.rec.recommend(data=h.data, split=x)),
    "protocol": (OPTIONAL, lambda h, x: h.rec.recommend(data=h.data, split="test", protocol=x)),
    "cut": (OPTIONAL, lambda h, x: h.rec.recommend(data=h.data, split="test", cut=x)),
    "exclude": (OPTIONAL | MANY, lambda h, x: h.rec.recommend(histories=[[FIRST]], exclude=x)),
    "among": (OPTIONAL | MANY, lambda h, x: h.rec.recommend(histories=[[FIRST]], among=x)),
    "where": (OPTIONAL, lambda h, x: h.rec.recommend(histories=[[FIRST]], where=x)),
    "items": (OPTIONAL, lambda h, x: h.rec.recommend(histories=[[FIRST]], where="a = 1", items=x)),
    "beside": (FLAG, lambda h, x: h.rec.open_stream(str(h.folder / "b"), beside=x)),
    "data of itself": (OPTIONAL, lambda h, x: h.rec.data(x)),
    "loaded": (set(), lambda h, x: longrec.Recommender.load(x)),
    "picture": ({"text"}, lambda h, x: Picture("a", "<svg></svg>").save(x)),
}
HISTORIES: dict[str, tuple[set[str], Call]] = {
    "user": (set(), lambda h, x: h.data.history(x)),
    "users": ({"some lists"}, lambda h, x: h.data.find_users(x)),
}
STREAM: dict[str, tuple[set[str], Call]] = {
    "user": (ID, lambda h, x: h.stream.observe(x, FIRST, 1)),
    "item": (ID, lambda h, x: h.stream.observe("u", x, 1)),
    "time": (COUNT | {"number", "negative number"}, lambda h, x: h.stream.observe("u", FIRST, x)),
    "event_id": (ID | OPTIONAL, lambda h, x: h.stream.observe("u", FIRST, 1, x)),
    "columns": (OPTIONAL | {"mapping"}, lambda h, x: h.stream.observe("u", FIRST, 1, columns=x)),
    "frame": (set(), lambda h, x: h.stream.observe_many(x)),
    "frame's user": (OPTIONAL, lambda h, x: h.stream.observe_many(LOG, x)),
    "frame's columns": (OPTIONAL, lambda h, x: h.stream.observe_many(LOG, columns=x)),
    "asking user": (ID, lambda h, x: h.stream.recommend(x)),
    "k": (COUNT, lambda h, x: h.stream.recommend("u", x)),
    "exclude": (MANY, lambda h, x: h.stream.recommend("u", exclude=x)),
    "among": (MANY | OPTIONAL, lambda h, x: h.stream.recommend("u", among=x)),
    "exclude_seen": ({"boolean"}, lambda h, x: h.stream.recommend("u", exclude_seen=x)),
    "users": (set(), lambda h, x: h.stream.rank(x)),
    "explained user": (set(), lambda h, x: h.stream.explain(x, FIRST)),
    "explained item": (set(), lambda h, x: h.stream.explain("u", x)),
    "forgotten": (ID, lambda h, x: h.stream.forget(x)),
    "histories": (OPTIONAL, lambda h, x: h.stream.rebuild(x)),
    "progress": (CALLED, lambda h, x: h.stream.rebuild(progress=x)),
    "frame's item": (OPTIONAL, lambda h, x: h.stream.observe_many(LOG, item=x)),
    "frame's time": (OPTIONAL, lambda h, x: h.stream.observe_many(LOG, time=x)),
    "frame's event_id": (OPTIONAL, lambda h, x: h.stream.observe_many(LOG, event_id=x)),
    "frame's time_unit": (OPTIONAL, lambda h, x: h.stream.observe_many(LOG, time_unit=x)),
    "frame's progress": (CALLED, lambda h, x: h.stream.observe_many(LOG, progress=x)),
    "ranking k": (COUNT, lambda h, x: h.stream.rank(["u"], x)),
    "ranking exclude": (MANY, lambda h, x: h.stream.rank(["u"], exclude=x)),
    "ranking exclude_seen": (FLAG, lambda h, x: h.stream.rank(["u"], exclude_seen=x)),
    "explain progress": (CALLED, lambda h, x: h.stream.explain("u", FIRST, x)),
    "new items progress": (CALLED, lambda h, x: h.stream.apply_new_items(x)),
}
VERBS: dict[str, tuple[set[str], Call]] = {
    "load": (set(), lambda h, x: longrec.load(x)),
    "open_histories": (set(), lambda h, x: longrec.open_histories(x)),
    "read_events": (set(), lambda h, x: longrec.read_events(x)),
    "user": (OPTIONAL, lambda h, x: longrec.read_events(LOG, user=x)),
    "time_unit": (OPTIONAL, lambda h, x: longrec.read_events(LOG, time_unit=x)),
    "type": (OPTIONAL, lambda h, x: longrec.read_events(LOG, type=x)),
    "columns": (set(), lambda h, x: longrec.read_events(LOG, columns=x)),
    "prepare": (set(), lambda h, x: longrec.prepare(x, h.folder / "c")),
    "prepare out": ({"text"}, lambda h, x: longrec.prepare(LOG, x)),
    "extend": (OPTIONAL, lambda h, x: longrec.prepare(LOG, h.folder / "d", extend=x)),
    "report": (CALLED, lambda h, x: longrec.prepare(LOG, h.folder / "d", report=x)),
    "train": (set(), lambda h, x: longrec.train(x, "popularity")),
    "model": (OPTIONAL, lambda h, x: longrec.train(h.data, x)),
    "train out": (OPTIONAL | {"text"}, lambda h, x: longrec.train(h.data, "popularity", x)),
    "warm_start": (OPTIONAL, lambda h, x: longrec.train(h.data, warm_start=x)),
    "device": (set(), lambda h, x: longrec.train(h.data, "popularity", device=x)),
    "train progress": (
        OPTIONAL | FLAG,
        lambda h, x: longrec.train(h.data, "popularity", progress=x),
    ),
    "on_epoch": (CALLED, lambda h, x: longrec.train(h.data, "popularity", on_epoch=x)),
    "resume": (FLAG, lambda h, x: longrec.train(h.data, "popularity", h.folder / "f", resume=x)),
    "final": (FLAG, lambda h, x: longrec.train(h.data, "popularity", h.folder / "f", final=x)),
    "recipe": (OPTIONAL, lambda h, x: longrec.train(h.data, "popularity", recipe=x)),
    "a setting": (COUNT, lambda h, x: longrec.train(h.data, "popularity", max_epochs=x)),
    "refit": (set(), lambda h, x: longrec.refit(x)),
    "refit histories": (OPTIONAL, lambda h, x: longrec.refit(h.counted, None, x)),
    "refit out": (TEXT, lambda h, x: longrec.refit(h.counted, x)),
    "refit resume": (FLAG, lambda h, x: longrec.refit(h.counted, h.folder / "f", resume=x)),
    "refit device": (set(), lambda h, x: longrec.refit(h.counted, device=x)),
    "refit progress": (FLAG | OPTIONAL, lambda h, x: longrec.refit(h.counted, progress=x)),
    "refit on_epoch": (CALLED, lambda h, x: longrec.refit(h.counted, on_epoch=x)),
    "evaluate": (set(), lambda h, x: longrec.evaluate(x)),
    "evaluate histories": (OPTIONAL, lambda h, x: longrec.evaluate(h.rec, x)),
    "split": (set(), lambda h, x: longrec.evaluate(h.rec, h.data, split=x)),
    "protocol": (OPTIONAL, lambda h, x: longrec.evaluate(h.rec, h.data, protocol=x)),
    "cut": (OPTIONAL, lambda h, x: longrec.evaluate(h.rec, h.data, cut=x)),
    "baselines": (FLAG, lambda h, x: longrec.evaluate(h.rec, h.data, baselines=x)),
    "ks": (set(), lambda h, x: longrec.evaluate(h.rec, h.data, ks=x)),
    "evaluate exclude_seen": (
        {"boolean"},
        lambda h, x: longrec.evaluate(h.rec, h.data, exclude_seen=x),
    ),
    "evaluate progress": (CALLED | FLAG, lambda h, x: longrec.evaluate(h.rec, h.data, progress=x)),
    "compare": (set(), lambda h, x: longrec.compare(x, "popularity", 1, h.folder / "e")),
    "models": (set(), lambda h, x: longrec.compare(h.data, x, 1, h.folder / "e")),
    "budget": (
        COUNT | {"number", "negative number", "boolean", "nan"},
        lambda h, x: longrec.compare(h.data, "popularity", x, h.folder / "e"),
    ),
    "compare out": ({"text"}, lambda h, x: longrec.compare(h.data, "popularity", 1, x)),
    "compare settings": (OPTIONAL, lambda h, x: compared(h, settings=x)),
    "compare seeds": (COUNT, lambda h, x: compared(h, seeds=x)),
    "compare device": (set(), lambda h, x: compared(h, device=x)),
    "compare bounds": (set(), lambda h, x: compared(h, bounds=x)),
    "compare baselines": (FLAG, lambda h, x: compared(h, baselines=x)),
    "compare progress": (OPTIONAL | FLAG, lambda h, x: compared(h, progress=x)),
    "tune": (set(), lambda h, x: longrec.tune(x, "transitions", budget=1, out=h.folder / "t")),
    "tune model": (OPTIONAL, lambda h, x: tuned(h, model=x)),
    "tune budget": (COUNT | {"number", "boolean"}, lambda h, x: tuned(h, budget=x)),
    "tune out": ({"text"}, lambda h, x: tuned(h, out=x)),
    "tune search": (OPTIONAL, lambda h, x: tuned(h, search=x)),
    "tune config": (OPTIONAL, lambda h, x: tuned(h, config=x)),
    "tune trial_minutes": (OPTIONAL | {"boolean"}, lambda h, x: tuned(h, trial_minutes=x)),
    "tune trials": (OPTIONAL | COUNT, lambda h, x: tuned(h, trials=x)),
    "tune device": (set(), lambda h, x: tuned(h, device=x)),
    "tune overwrite": (FLAG, lambda h, x: tuned(h, overwrite=x)),
    "tune progress": (OPTIONAL | FLAG, lambda h, x: tuned(h, progress=x)),
    "report runs": (set(), lambda h, x: longrec.report(x, h.folder / "r.html")),
    "report out": ({"text"}, lambda h, x: longrec.report(h.run, x)),
    "report data": (OPTIONAL, lambda h, x: reported(h, data=x)),
    "report split": (set(), lambda h, x: reported(h, split=x)),
    "report protocol": (OPTIONAL, lambda h, x: reported(h, protocol=x)),
    "report exclude_seen": (OPTIONAL | FLAG, lambda h, x: reported(h, exclude_seen=x)),
    "report items": (OPTIONAL, lambda h, x: reported(h, items=x)),
    "report title": (TEXT, lambda h, x: reported(h, title=x)),
    "order": (OPTIONAL, lambda h, x: longrec.read_events(LOG, order=x)),
    "k_core": (COUNT | {"boolean"}, lambda h, x: longrec.prepare(LOG, h.folder / "d", k_core=x)),
    "min_length": (COUNT, lambda h, x: longrec.prepare(LOG, h.folder / "d", min_length=x)),
    "TensorBoardLogger": ({"text"}, lambda h, x: longrec.TensorBoardLogger(x)),
    "MLflowLogger experiment": (TEXT, lambda h, x: longrec.MLflowLogger(x)),
    "MLflowLogger run_name": (TEXT, lambda h, x: longrec.MLflowLogger(run_name=x)),
    "MLflowLogger tracking_uri": (TEXT, lambda h, x: longrec.MLflowLogger(tracking_uri=x)),
}


def compared(house: House, **options: Any) -> object:
    return longrec.compare(house.data, "popularity", 1, house.folder / "e", **options)


def tuned(house: House, **options: Any) -> object:
    given = {"model": "transitions", "budget": 1, "out": house.folder / "t"} | options
    return longrec.tune(house.data, **given)


def reported(house: House, **options: Any) -> object:
    return longrec.report(house.run, house.folder / "r.html", **options)


CALLS = {
    f"{where}: {name}": call
    for where, calls in (
        ("recommender", RECOMMENDER),
        ("histories", HISTORIES),
        ("stream", STREAM),
        ("longrec", VERBS),
    )
    for name, call in calls.items()
}


class House:
    """A recommender with histories and a stream of it."""

    def __init__(self, folder) -> None:
        self.folder, self.rec = folder, recommender("elastic")
        self.data = tiny_histories(folder / "h", walks(8, 12, 4, 9), n_items=12)
        self.counted = longrec.train(self.data, "popularity")
        self.run = folder / "run"
        longrec.evaluate(longrec.train(self.data, "popularity", self.run), baselines=False)
        self.stream = self.rec.open_stream(str(folder / "store"), "process")


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    found = House(tmp_path_factory.mktemp("house"))
    yield found
    found.stream.close()


@pytest.mark.parametrize("call", CALLS)
def test_what_is_of_another_type_is_refused_and_nothing_breaks(house: House, call: str):
    taken, give = CALLS[call]
    for kind in WRONG.keys() - taken:
        with pytest.raises(LongrecError):
            print(f"{call} took {kind}:", give(house, WRONG[kind]()))
