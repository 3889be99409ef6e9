"""Explanations: sums, the score's parts, windows, what is skipped, who is refused, and the verb."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from mixers.definitions import define_convolution
from models.small_models import N, make, sequences
from small_histories import tiny_histories, walks
from typer.testing import CliRunner

from longrec.cli.explain import explain as command
from longrec.cli.lists import ListCommand
from longrec.config.training import TrainConfig
from longrec.core.errors import UsageError
from longrec.data.catalog import Catalog
from longrec.inference.encode import Events
from longrec.inference.explain import explain_history
from longrec.mixers import Context
from longrec.mixers.dispatcher_memory import MemoryDispatcherMixer
from longrec.models import MODELS
from longrec.models.common.scorer import Scorer
from longrec.recommender import Recommender, load

CASES = {
    "plain": {},
    "one layer, one head": {"layers": 1, "heads": 1},
    "three layers, no convolution": {"layers": 3, "convolution": 0},
    "by time": {"forgetting": "time"},
    "with gaps": {"gaps": True},
    "no forgetting": {"forgetting": "none"},
    "memory bank": {"memory_slots": 64, "memory_topk": 4, "memory_every": 5},
}


def model_of(kind: torch.dtype = torch.float64, **settings):
    """An elastic model whose norms, and what its memory bank recalls, do not stand at the start."""
    model = make("elastic", kind, **settings)
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 2)
        model.norm.bias.normal_()
        for block in model.blocks:
            if isinstance(block.mixer, MemoryDispatcherMixer):
                block.mixer.recall.weight.normal_()
    return model


def recommender(name: str = "elastic", data=None, context=None, **settings) -> Recommender:
    model = model_of(torch.float32, **settings) if name == "elastic" else make(name, torch.float32)
    about = {} if data is None else {"path": str(data.path), "fingerprint": data.fingerprint}
    training, found = TrainConfig(context=context), {"data": about} if about else {}
    return Recommender(name, model, model.config, training, catalog(), found)


def catalog() -> Catalog:
    return Catalog(pl.Series("id", np.arange(1000, 1000 + N)), np.ones(N, np.int64))


def history(events: int) -> tuple[np.ndarray, np.ndarray]:
    items, times = sequences(1, events)
    return items[0].numpy(), times[0].numpy()


@pytest.fixture
def data(tmp_path):
    rows = walks(6, N, 3, 60)
    times = [(np.arange(len(row)) * 7000).tolist() for row in rows]
    return tiny_histories(tmp_path / "histories", rows, times, N)


@pytest.mark.parametrize("case", CASES)
def test_the_score_is_what_events_bank_and_rest_add_to_it(case):
    model, (items, times) = model_of(**CASES[case]), history(23)
    seen = {}
    for number, block in enumerate(model.blocks):
        for part in ("ffn", "before", "norm"):
            layer = block.get_submodule(part) if part != "norm" else model.norm
            layer.register_forward_hook(
                lambda _, given, out, key=(number, part): seen.update({key: (given[0], out)})
            )
    model.requires_grad_(False)
    ctx = Context(times=torch.from_numpy(times)[None])
    with torch.no_grad():
        h = model.encode(torch.from_numpy(items)[None], ctx)
        scores = model.score(h[:, -1])[0]
    parts = dict(seen)
    found = explain_history(Scorer(model), catalog(), 9, Events(items, times))
    assert found.item == 1008
    assert found.score == pytest.approx(float(scores[9]), abs=1e-9)

    x = parts[0, "norm"][0][0, -1]
    gain = model.norm.weight * model.items[9]
    aim = (gain - gain.mean()) / (x.var(correction=0) + model.norm.eps).sqrt()
    rest = float(model.norm.bias @ model.items[9] + aim @ model.items[items[-1]] * model.scale)
    if model.gaps is not None:
        rest += float(aim @ model.gaps(ctx.times)[0, -1] * model.scale)
    for layer, block in enumerate(model.blocks):
        read, _ = define_convolution(block.mixer.convolution, parts[layer, "before"][1][0])
        value = read @ block.mixer.inputs.weight.chunk(4)[3].t()
        rest += float(aim @ parts[layer, "ffn"][1][0, -1])
        along = (value * (aim @ block.mixer.output.weight)).unflatten(-1, (block.mixer.heads, -1))
        wanted = found.attention[layer] * along.sum(-1).t().numpy()
        np.testing.assert_allclose(found.contribution[layer], wanted, rtol=1e-5, atol=1e-7)
    assert found.rest == pytest.approx(rest, abs=1e-5)
    assert found.memory_contribution.any() == found.memory_attention.any() == ("bank" in case)


@settings(max_examples=25)
@given(
    case=st.sampled_from(list(CASES)),
    events=st.integers(1, 60),
    window=st.integers(1, 60),
    late=st.booleans(),
    unknown=st.booleans(),
)
def test_attention_sums_to_one_in_any_windows(case, events, window, late, unknown):
    model, (items, times) = model_of(**CASES[case]), history(events)
    random = np.random.default_rng(events)
    times = random.permutation(times) if late else times
    items = np.where(random.random(events) < 0.3 * unknown, 0, items)
    items[0] = 1
    whole = explain_history(Scorer(model), catalog(), 9, Events(items, times))
    found = explain_history(Scorer(model), catalog(), 9, Events(items, times), window=window)
    total = found.attention.sum(-1, dtype=np.float64) + found.memory_attention
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert found.events["attention"].sum() + found.memory == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(found.events["position"], np.flatnonzero(items) + 1)
    np.testing.assert_array_equal(found.events["time"], times[items > 0])
    np.testing.assert_allclose(found.attention, whole.attention, atol=1e-7)
    np.testing.assert_allclose(found.contribution, whole.contribution, atol=1e-7)
    assert found.score == pytest.approx(whole.score, abs=1e-9)


@pytest.mark.parametrize("case", ["plain", "no forgetting", "memory bank"])
def test_20_000_events_in_float32(case):
    model, (items, times) = model_of(torch.float32, **CASES[case]), history(20_000)
    told = []
    found = explain_history(
        Scorer(model), catalog(), 9, Events(items, times), progress=lambda *done: told.append(done)
    )
    whole = explain_history(Scorer(model), catalog(), 9, Events(items, times), window=20_000)
    total = found.attention.sum(-1, dtype=np.float64) + found.memory_attention
    np.testing.assert_allclose(total, 1, atol=1e-4)
    most = whole.attention.max()
    np.testing.assert_allclose(found.attention, whole.attention, rtol=1e-3, atol=1e-4 * most)
    assert found.score == pytest.approx(whole.score, abs=1e-4)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1] == (40_000, 40_000)
    assert found.to_dict(3)["events_read"] == 20_000


@pytest.mark.parametrize("case", CASES)
def test_the_score_is_the_one_recommended_with(case, data):
    rec = recommender(data=data, **CASES[case])
    for user in data.user_ids:
        best = rec.recommend([user], exclude_seen=False, k=2)
        for item, score in zip(best["item"], best["score"], strict=True):
            found = rec.explain(item, user)
            assert found.item == item
            assert found.score == pytest.approx(score, abs=1e-4)
            row = int(data.find_users([user])[0])
            bounds = slice(*data.offsets[row : row + 2])
            assert found.events["item"].to_list() == (data.items[bounds] + 999).tolist()
            assert found.events["time"].to_list() == data.times[bounds].tolist()


def test_a_history_that_is_given_is_explained_as_a_users():
    rec = recommender()
    items, times = history(12)
    ids = (items + 999).tolist()
    plain = rec.explain(1005, history=ids)
    assert plain.events["time"].null_count() == 12
    timed = rec.explain("1005", history=[str(i) for i in ids], times=times)
    assert timed.score == plain.score
    np.testing.assert_array_equal(timed.attention, plain.attention)
    by_time = recommender(forgetting="time")
    now = by_time.explain(1005, history=ids, times=times.tolist())
    later = by_time.explain(1005, history=ids, times=times * 100)
    assert not np.allclose(now.attention, later.attention)


def test_unknown_items_are_skipped_and_counted():
    with pytest.warns(UserWarning, match=r"2 of 7 items .* unknown to the model: 7, 8"):
        found = recommender().explain(1009, history=[1001, 7, 1002, 1003, 8, 1004, 1005])
    assert found.events["position"].to_list() == [1, 3, 4, 6, 7]
    assert found.unknown_events == found.to_dict()["unknown_events"] == 2
    alone = recommender().explain(1009, history=[1001, 1002, 1003, 1004, 1005])
    np.testing.assert_array_equal(found.attention, alone.attention)
    assert alone.unknown_events == 0


def test_the_whole_history_is_read_since_that_is_what_serves():
    rec = recommender(context=2)  # which cuts training alone: states take in every event
    assert len(rec.explain(1009, history=[1001, 1002, 1003]).events) == 3


def test_an_item_that_was_seen_is_said_to_be():
    rec = recommender()
    assert rec.explain(1002, history=[1002, 1001]).to_dict()["seen"] is True
    assert rec.explain(1003, history=[1001, 1002]).seen is False


def test_as_a_dictionary_it_is_json_and_the_events_with_most_attention_come_first():
    found = recommender(**CASES["memory bank"]).explain(1009, history=list(range(1000, 1030)))
    whole = json.loads(json.dumps(found.to_dict()))
    assert [event["position"] for event in whole["events"]] == list(range(1, 31))
    top = json.loads(json.dumps(found.to_dict(4, detail=True)))
    by_attention = sorted(whole["events"], key=lambda event: -event["attention"])
    assert [e["position"] for e in top["events"]] == [e["position"] for e in by_attention[:4]]
    assert top["item"] == 1009
    assert "not cause" in top["note"]
    assert "30 events" in top["note"]
    assert 0 < top["memory"] < 1
    for event in top["events"]:
        by_head = np.array(event["attention_by_head"])
        assert by_head.shape == found.memory_attention.shape
        assert by_head.mean() == pytest.approx(event["attention"], abs=1e-6)
        assert np.sum(event["contribution_by_head"]) == pytest.approx(
            event["contribution"], abs=1e-5
        )
    parts = sum(event["contribution"] for event in whole["events"])
    assert parts + whole["memory_contribution"] + whole["rest"] == pytest.approx(whole["score"])
    with pytest.raises(UsageError, match="top is 0"):
        found.to_dict(0)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"elastic"}))
def test_other_models_are_refused_by_name(name):
    with pytest.raises(UsageError, match=f"not available for {name}: .*available for: elastic"):
        recommender(name).explain(1001, history=[1002])


def test_a_call_that_is_wrong_says_what_to_mend(data, make_histories):
    rec = recommender(data=data)
    user = data.user_ids[0]
    for wrong, call in {
        "item 7 is not in the catalog": {"item": 7, "user": user},
        "user 'nobody' is not in": {"item": 1001, "user": "nobody"},
        "nothing to explain: of 0 events": {"item": 1001, "history": []},
        "nothing to explain: of 2 events": {"item": 1001, "history": [7, 8]},
        "give either user": {"item": 1001},
        "give either user ": {"item": 1001, "user": user, "history": [1001]},
        "leave data out": {"item": 1001, "history": [1001], "data": data},
        "times go with a history": {"item": 1001, "user": user, "times": [1]},
        "for each of the 2 events": {"item": 1001, "history": [1001, 1002], "times": [1]},
        "a whole number of seconds": {"item": 1001, "history": [1001], "times": [0.5]},
        "a list of item ids": {"item": 1001, "history": "1001"},
    }.items():
        with pytest.raises(UsageError, match=wrong):
            rec.explain(**call)
    with pytest.raises(UsageError, match="have no times"):
        recommender(forgetting="time").explain(1001, history=[1001])
    timeless = make_histories([[1, 2, 3]], None, N)
    assert rec.explain(1001, "user00000", timeless).events["time"].null_count() == 3


def run(*argv: object):
    app = typer.Typer()
    app.command(cls=ListCommand)(command)
    return CliRunner().invoke(app, [str(word) for word in argv], catch_exceptions=True)


def test_the_command_prints_json_or_a_table(tmp_path, data):
    folder = recommender(data=data, **CASES["memory bank"]).save(tmp_path / "run")
    rec, user = load(folder), data.user_ids[1]
    done = run(folder, "--item", 1005, "--user", user, "--top", 3, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads(json.dumps(rec.explain(1005, user).to_dict(3)))

    other = run(folder, "--item", 1005, "--user", user, "--data", data.path, "--top", 3, "--json")
    assert other.stdout == done.stdout
    given = run(folder, "--item", 1005, "--history", 1001, 1002, 1003, "--json")
    assert [e["item"] for e in json.loads(given.stdout)["events"]] == [
        rec.explain(1005, history=[1001, 1002, 1003]).events["item"][int(row)]
        for row in rec.explain(1005, history=[1001, 1002, 1003]).top(3)
    ]
    shown = run(folder, "--item", 1005, "--user", user, "--top", 2).stdout
    assert "item 1005, score" in shown
    assert "1970-01-0" in shown
    assert "not cause" in shown
    assert "on the memory bank" in shown


def test_ids_that_steer_a_terminal_are_shown_as_text(tmp_path, data):
    rec = recommender(data=data)
    ids = pl.Series("id", [f"[red]\x1b[2J{n}" for n in range(N)])
    rec.catalog = Catalog(ids, np.ones(N, np.int64))
    folder = rec.save(tmp_path / "run")
    done = run(folder, "--item", ids[3], "--history", ids[1], ids[2])
    assert done.exit_code == 0, done.output
    assert "\x1b[2J" not in done.stdout
    assert "[red]\\x1b[2J2" in done.stdout
