"""Types and a weight of events reach a model in every place alike: a whole batch, prefills, steps,
rebuilds from histories, HTTP and evaluation give the same h, for late events, unknown words and
events without columns too, in either store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
from models.column_models import registered
from serving.http.served import server_of
from serving.redis_server import RedisServer

import longrec
from longrec.core.errors import DataError, UsageError
from longrec.data.histories import Histories
from longrec.export.graphs import check_exports
from longrec.inference.encode import encode_targets, requests_of
from longrec.mixers import Context
from longrec.recommender import Recommender
from longrec.serving.maintenance.backup import backup
from longrec.serving.maintenance.replay import Replay
from longrec.serving.maintenance.restore import restore
from longrec.serving.maintenance.verify import verify
from longrec.serving.records.engine import Engine
from longrec.serving.stores.open import open_store
from longrec.serving.stores.packed_columns import unpack_columns
from longrec.serving.stream.catch_up import records_of
from longrec.serving.stream.store_models import register
from longrec.serving.stream.stream import Stream
from longrec.serving.stream.user_log import user_log

QUICK = {"max_epochs": 1, "batch_tokens": 400, "warmup_steps": 1, "dropout": 0.0, "seed": 3}
SMALL = {"dim": 8, "layers": 2, "ffn_dim": 8, "transitions": 0}
KINDS = ("buy", "cart", "view")
USERS, ITEMS, BEGIN = 9, 20, 1_600_000_000


class Trained(NamedTuple):
    """Recommenders by model, the data that they were trained on, and engines, made once."""

    recs: dict[str, Recommender]
    data: Histories
    log: pl.DataFrame
    engines: dict[str, Engine]


def made_log() -> pl.DataFrame:
    random = np.random.default_rng(0)
    rows = [
        (f"u{user}", int(item), BEGIN + 60 * n, KINDS[random.integers(3)], float(weight))
        for user in range(USERS)
        for n, (item, weight) in enumerate(
            zip(random.integers(0, ITEMS, 25 - user), random.random(25 - user), strict=True)
        )
    ]
    schema = ["user", "item", "time", "event_kind", "weight"]
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        event_kind=pl.when(pl.col("weight") > 0.1).then("event_kind"),
        weight=pl.when(pl.col("weight") < 0.9).then("weight"),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("columns")
    with registered():
        log = made_log()
        options: dict[str, Any] = {"type": "event_kind", "columns": ("weight",)}
        data = longrec.prepare(log, folder / "histories", **options)
        recs, engines = {}, {}
        for name, settings in {
            "typed": {},
            "typed-window": {"heads": 2, "max_length": 6},
            "typed-elastic": {"heads": 2, "experts": 3},
        }.items():
            rec = longrec.train(
                data, name, folder / name, progress=False, **QUICK, **SMALL, **settings
            )
            recs[name] = longrec.load(folder / name)
            assert recs[name].state_digest == rec.state_digest
            engines[name] = Engine(recs[name])
        yield Trained(recs, data, log, engines)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), appendfsync="everysec") as server:
        yield server


@pytest.fixture(params=["lmdb", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "lmdb":
        return str(tmp_path / "users")
    server = request.getfixturevalue("redis_server")
    server.client().flushall()
    return server.url


def open_stream(trained: Trained, name: str, url: str) -> Stream:
    """`open_stream` with an engine that is made once."""
    store = open_store(url, "process")
    register(store, trained.recs[name], False)
    return Stream(trained.recs[name], trained.engines[name], store)


Given = tuple[int, int, dict[str, Any]]


def given_events(trained: Trained, user: str) -> list[Given]:
    """What a caller would send: item, time and the columns that are there."""
    rows = trained.log.filter(user=user).iter_rows()
    return [
        (item, time, {k: v for k, v in (("type", kind), ("weight", weight)) if v is not None})
        for _, item, time, kind, weight in rows
    ]


def expected(rec: Recommender, events: list[Given]) -> torch.Tensor:
    """h (D,) after these events, by the whole batch in one go."""
    words = rec.columns["type"].words or ()
    items = torch.from_numpy(rec.catalog.find([item for item, _, _ in events]))
    types = [words.index(t) if (t := c.get("type")) in words else -1 for _, _, c in events]
    weights = torch.tensor([float(c.get("weight", 0)) for _, _, c in events])
    times = torch.tensor([time for _, time, _ in events]).cummax(0).values
    known = items > 0
    items, times, weights, types = (
        x[known][-rec.limit :] if rec.limit else x[known]
        for x in (items, times, weights, torch.tensor(types))
    )
    columns = {"type": types[None], "weight": weights[None]}
    with torch.no_grad():
        return rec.model.encode(items[None], Context(times=times[None], columns=columns))[0, -1]


def states(stream: Stream, users: list[str]) -> torch.Tensor:
    """h (n, D) of users' records."""
    keys = [(user.encode(), ()) for user in users]
    stored = stream.store.read(stream.engine.digest, keys)
    records, _ = records_of(stream.engine, stored, stream.store.damage)
    return stream.engine.read(records)


def near(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=2e-4, atol=2e-5)


EVERYBODY = [f"u{n}" for n in range(USERS)]


def test_what_is_trained_with_is_kept(trained):
    rec = trained.recs["typed"]
    assert rec.model.reads_columns == ("type", "weight")
    assert rec.columns["type"].words == KINDS
    assert rec.columns["weight"].words is None
    again = rec.with_items([555])
    assert again.columns == rec.columns
    assert again.state_digest == rec.state_digest


def test_steps_prefills_rebuilds_and_evaluation_agree(trained, url, tmp_path):
    rec, data = trained.recs["typed"], trained.data
    whole = torch.stack([expected(rec, given_events(trained, user)) for user in EVERYBODY])
    split = longrec.data.splits.make_split("leave-one-out", data)
    evaluated: dict[int, torch.Tensor] = {}
    requests = requests_of(data, split.test, rec.limit, True)
    encode_targets(rec.model, data, requests, lambda n, h: evaluated.update(zip(n, h, strict=True)))

    with open_stream(trained, "typed", url) as stream:
        for user in EVERYBODY:
            for item, time, columns in given_events(trained, user)[:-1]:
                stream.observe(user, item, time, columns=columns)
        near(states(stream, EVERYBODY), torch.stack([evaluated[n] for n in range(USERS)]))
        for user in EVERYBODY:
            item, time, columns = given_events(trained, user)[-1]
            assert stream.observe(user, item, time, "last", columns).new
            assert not stream.observe(user, item, time, "last", {"type": "another"}).new
        near(states(stream, EVERYBODY), whole)

        stream.observe("gone", 3, 1, "an id", {"type": "buy"})
        assert stream.forget("gone")
        assert stream.observe("gone", 3, 1, "an id", {"type": "buy"}).new  # no event id is left
        assert stream.forget("gone")
        stream.store.drop(stream.engine.digest)  # the records are lost, and made by replay
        best = stream.rank(EVERYBODY, ITEMS, exclude_seen=False)
        scores = rec.model.score(whole).gather(1, torch.from_numpy(best.items))
        near(torch.from_numpy(best.scores), scores.detach())
        stream.rebuild()
        near(states(stream, EVERYBODY), whole)
        assert stream.store.meta()["schema"] == 3
        found = verify(stream.store, Replay(rec))
        assert (found.problems, found.compared) == ((), USERS)
        backup(stream.store, tmp_path / "backup")

    other = open_store(str(tmp_path / "restored"), "process")
    restore(tmp_path / "backup", other)
    with Stream(rec, trained.engines["typed"], other) as stream:
        stream.rebuild()
        near(states(stream, EVERYBODY), whole)

    with open_stream(trained, "typed", str(tmp_path / "anew")) as stream:
        stream.rebuild(data)
        near(states(stream, EVERYBODY), whole)
        log = user_log(stream.store, stream.engine.digest, b"u3", 0, 100)
        sent = [columns for _, _, columns in given_events(trained, "u3")]
        assert [unpack_columns(event.columns) for event in log.part] == sent

    with open_stream(trained, "typed", str(tmp_path / "frame")) as stream:
        stream.observe_many(trained.log.rename({"event_kind": "type"}))
        near(states(stream, EVERYBODY), whole)
    with open_stream(trained, "typed", str(tmp_path / "events")) as stream:
        events = longrec.read_events(trained.log, type="event_kind", columns=["weight"])
        stream.observe_many(events)
        near(states(stream, EVERYBODY), whole)


ODD: list[Given] = [
    (3, 100, {"type": "view", "weight": 0.5}),
    (4, 50, {"type": "no such word"}),  # late
    (99, 60, {"type": "buy", "weight": 3}),  # the model does not know the item
    (5, 200, {}),
    (6, 150, {"weight": True, "shop": "x", "n": 7}),  # late
    (7, 300, {"type": "buy", "weight": -2.25}),
]


@pytest.mark.parametrize("name", ["typed", "typed-window"])
def test_late_events_unknown_words_and_missing_columns(trained, name, url):
    rec = trained.recs[name]
    with open_stream(trained, name, url) as stream:
        for end, (item, time, columns) in enumerate(ODD * 3, 1):
            stream.observe("odd", item, time, columns=columns)
            if end in (2, 5, len(ODD * 3)):
                h = expected(rec, (ODD * 3)[:end])[None]
                best = stream.rank(["odd"], ITEMS, exclude_seen=False)
                scores = rec.model.score(h).detach().gather(1, torch.from_numpy(best.items))
                near(torch.from_numpy(best.scores), scores)
        stream.store.drop(stream.engine.digest)
        best = stream.rank(["odd"], ITEMS, exclude_seen=False)
        near(torch.from_numpy(best.scores), scores)
        log = user_log(stream.store, stream.engine.digest, b"odd", 0, len(ODD))
        assert [unpack_columns(event.columns) for event in log.part] == [c for _, _, c in ODD]


def test_scores_depend_on_both_columns(trained):
    rec, events = trained.recs["typed"], given_events(trained, "u1")
    other = [(i, t, c | {"type": "cart"}) for i, t, c in events[:-1]] + events[-1:]
    heavy = [(i, t, c | {"weight": 2.0}) for i, t, c in events]
    for changed in (other, heavy):
        assert (expected(rec, changed) - expected(rec, events)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["typed", "typed-window"])
def test_recommendations_by_data_and_by_stream_are_the_same(trained, name, tmp_path):
    rec = trained.recs[name]
    by_data = rec.recommend(EVERYBODY, trained.data, k=5)
    with open_stream(trained, name, str(tmp_path / "users")) as stream:
        stream.rebuild(trained.data)
        by_stream = pl.concat([stream.recommend(user, k=5) for user in EVERYBODY])
    assert by_stream["item"].to_list() == by_data["item"].to_list()
    np.testing.assert_allclose(by_stream["score"], by_data["score"], rtol=2e-4, atol=2e-5)


def test_other_words_in_other_histories_are_the_same_words(trained, tmp_path):
    rec = trained.recs["typed"]
    log = pl.concat(
        [trained.log, trained.log[:1].with_columns(user=pl.lit("z"), event_kind=pl.lit("a"))]
    )
    other = longrec.prepare(log, tmp_path / "other", type="event_kind", columns=("weight",))
    assert other.columns["type"].words == ("a", *KINDS)
    ours = rec.recommend(EVERYBODY, trained.data, k=3)
    assert ours.equals(rec.recommend(EVERYBODY, other, k=3))
    some = longrec.evaluate(rec, trained.data)
    assert dict(longrec.evaluate(rec, other)) == pytest.approx(dict(some))


def test_a_warm_start_keeps_the_codes_of_words(trained, tmp_path):
    log = trained.log.with_columns(event_kind=pl.col("event_kind").replace("cart", "a new one"))
    new = longrec.prepare(log, tmp_path / "new", type="event_kind", columns=("weight",))
    rec = longrec.train(new, warm_start=trained.recs["typed"], progress=False, **QUICK)
    assert rec.columns["type"].words == (*KINDS, "a new one")
    assert "gain" in rec.provenance["warm_start"]


def test_masked_events_train(trained):
    rec = longrec.train(trained.data, "typed-masked", progress=False, **QUICK, **SMALL)
    assert len(rec.recommend(EVERYBODY, trained.data, k=2)) == 2 * USERS


def test_http(trained, tmp_path):
    rec = trained.recs["typed-elastic"]
    stream = open_stream(trained, "typed-elastic", str(tmp_path / "users"))
    with server_of(stream, tmp_path) as server:
        sent = [
            {"user": user, "item": item, "time": time, "columns": columns}
            for user in EVERYBODY[:2]
            for item, time, columns in given_events(trained, user)
        ]
        assert server.post("/v1/events", {"events": sent}).json()["accepted"] == len(sent)
        near(
            states(stream, EVERYBODY[:2]),
            torch.stack([expected(rec, given_events(trained, u)) for u in EVERYBODY[:2]]),
        )
        shown = server.client.get("/v1/users/u1").json()["log"]
        assert [event["columns"] for event in shown] == [
            columns for _, _, columns in given_events(trained, "u1")
        ]
        history = [
            {"item": event["item"], "time": event["time"]}
            | {"columns": {"type": "?", "weight": 0} | event["columns"]}
            for event in sent
            if event["user"] == "u1"
        ]
        answers = [
            server.post("/v1/recommendations", body | {"k": 5}).json()
            for body in ({"user": "u1"}, {"history": history})
        ]
        assert [row["item"] for row in answers[0]["items"]] == [
            row["item"] for row in answers[1]["items"]
        ]
        asked = {"item": answers[0]["items"][0]["item"], "top": 3}
        told = [
            server.post("/v1/explanations", asked | body).json()
            for body in ({"user": "u1"}, {"history": history})
        ]
        told.append(rec.explain(asked["item"], "u1", trained.data).to_dict(top=3))
        for found in told:
            assert found["score"] == pytest.approx(answers[0]["items"][0]["score"], rel=1e-3)
            assert [e["position"] for e in found["events"]] == [
                e["position"] for e in told[0]["events"]
            ]

        for columns, words in {
            ("weight", "heavy"): "columns.weight: 'heavy' is text",
            ("type", "x" * 257): "columns.type",
            ("x" * 65, 1): "columns",
            ("weight", None): "columns.weight",
            ("type", "é" * 200): "columns.type has 400 bytes",
        }.items():
            event = {"user": "u", "item": 1, "time": 1, "columns": dict([columns])}
            refused = server.post("/v1/events", {"events": [event]})
            assert refused.status_code == 422
            assert words in refused.json()["error"]["message"]
        del history[2]["columns"]["type"]
        refused = server.post("/v1/recommendations", {"history": history})
        assert "history.2: typed-elastic reads type, weight" in refused.json()["error"]["message"]


def test_data_without_a_column_is_refused(trained, tmp_path):
    rec, log = trained.recs["typed"], trained.log
    plain = longrec.prepare(log, tmp_path / "plain", type="event_kind")
    calls = [
        lambda: longrec.train(plain, "typed", progress=False, **QUICK, **SMALL),
        lambda: longrec.evaluate(rec, plain),
        lambda: rec.recommend(EVERYBODY, plain),
    ]
    for call in calls:
        with pytest.raises(UsageError, match=r"typed reads the column 'weight'.*--keep weight"):
            call()
    numbers = longrec.prepare(
        log.drop("weight").with_columns(weight=pl.lit("1kg")),
        tmp_path / "t",
        type="event_kind",
        columns="weight",
    )
    with pytest.raises(UsageError, match="text in it where training had numbers"):
        longrec.evaluate(rec, numbers)
    with pytest.raises(UsageError, match="type, weight of each event"):
        rec.recommend(histories=[[1, 2]])
    with pytest.raises(UsageError, match="type, weight of events, and the graphs"):
        check_exports(rec.scorer)
    with open_stream(trained, "typed", str(tmp_path / "users")) as stream:
        with pytest.raises(UsageError, match="no column 'type'"):
            stream.observe_many(log)
        with pytest.raises(UsageError, match="come without weight"):
            stream.observe_many(log.rename({"event_kind": "type"}), columns=["type"])
        long = log.with_columns(weight=pl.lit("x" * 300)).rename({"event_kind": "type"})
        with pytest.raises(DataError, match=r"row 1: columns.weight has 300 bytes"):
            stream.observe_many(long)
        with pytest.raises(UsageError, match=r"columns.weight: 'heavy' is text"):
            stream.observe("u", 1, 1, columns={"weight": "heavy"})
        assert stream.store.totals().events == 0
