"""Training and evaluating from Python: what is written, what is refused, and the numbers."""

from __future__ import annotations

import fcntl
import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from stops import told_of_steps

import longrec
from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.data.catalog import Catalog
from longrec.data.splits import make_split
from longrec.data.write import write_histories
from longrec.evaluation.summary import Metrics
from longrec.mixers import Context
from longrec.runs.baselines import BASELINES
from longrec.runs.evaluations import read_evaluations

TINY = {
    "dim": 8,
    "layers": 1,
    "heads": 1,
    "experts": 3,
    "ffn_dim": 8,
    "max_epochs": 1,
    "dropout": 0,
}
ITEMS = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Histories with times, three of the 30 users too short to be evaluated."""
    return histories(tmp_path_factory.mktemp("api") / "histories", seed=0)


def histories(path, seed, ids=None, times=True):
    random = np.random.default_rng(seed)
    lengths = np.append(random.integers(3, 15, 27), [1, 2, 2])
    items = random.integers(1, ITEMS + 1, lengths.sum()).astype(np.int32)
    clock = np.concatenate([np.sort(random.integers(0, 10**6, n)) for n in lengths])
    return write_histories(
        path,
        user_ids=pl.Series(np.arange(len(lengths))),
        offsets=np.concatenate([[0], lengths.cumsum()]),
        items=items,
        times=clock if times else None,
        catalog=Catalog(
            pl.Series(range(500, 500 + ITEMS) if ids is None else ids),
            np.bincount(items, minlength=ITEMS + 1)[1:].astype(np.int64),
        ),
        source="test",
        time_unit="s" if times else None,
    )


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run that has ended; tests may not change it but for its evaluation."""
    return longrec.train(data, "elastic", tmp_path_factory.mktemp("api") / "run", **TINY)


def weights(rec):
    return {k: v.clone() for k, v in rec.model.state_dict().items()}


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def begin(data, run, **settings):
    """A run that was stopped after its first step, as a kill leaves it: with a checkpoint."""

    class Stop(BaseException):
        pass

    def stop(status):
        if status.total_steps >= 2:
            raise Stop

    with pytest.raises(Stop), told_of_steps(stop):
        longrec.train(
            data,
            "elastic",
            run,
            **(TINY | {"max_epochs": 2, "checkpoint_minutes": 1e-9, "batch_tokens": 64} | settings),
        )
    (run / ".lock").unlink(missing_ok=True)  # a kill -9 may leave it or not: nobody holds it


# ---- train


def test_in_memory_and_in_a_folder_are_the_same(data, trained):
    in_memory = longrec.train(data, model="elastic", **TINY)
    assert in_memory.folder is None
    assert same_weights(weights(in_memory), weights(trained))
    again = longrec.load(trained.folder)
    assert same_weights(weights(again), weights(trained))


def test_a_run_that_ended_holds_the_recommender_and_what_more_epochs_need(trained):
    names = {path.name for path in trained.folder.iterdir()} - {"metrics.json", "ranks.parquet"}
    assert names == {
        "config.json",
        "model.safetensors",
        "catalog.parquet",
        "provenance.json",
        "known_answers.json",
        "log.csv",
        "checkpoint-000000001",
    }
    assert not trained.model.training


def test_provenance_says_where_the_numbers_come_from(data, trained):
    about = json.loads((trained.folder / "provenance.json").read_text())
    assert about["data"]["fingerprint"] == data.fingerprint
    assert about["seed"] == 0
    assert {"command", "commit", "versions", "machine", "started"} <= set(about)
    assert about["protocol"]["users_too_short"] == 3
    assert about["training"]["stop"] == "max_epochs"
    assert about["training"]["converged"] is False
    assert about["training"]["epochs"] == 1
    assert set(about["training"]["validation"]) == {"served/ndcg@10", "served/hr@10"}


def test_counting_models_train(data, tmp_path):
    rec = longrec.train(str(data.path), "popularity", tmp_path / "run", seed=1)
    assert longrec.load(tmp_path / "run").provenance["training"]["stop"] == "counted"
    assert rec.train_config.seed == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"model": "elastik"}, "Did you mean 'elastic'"),
        ({"dims": 3}, "no setting 'dims'"),
        ({"protocol": "random"}, "protocol is 'random'; it must be 'leave-one-out'"),
        ({"device": "abacus"}, "'abacus' cannot be used"),
        ({"protocol": "prequential"}, "prequential"),
        ({"resume": True, "out": None}, "pass out="),
    ],
)
def test_wrong_calls_leave_the_folder_free(data, tmp_path, call, words):
    run = tmp_path / "run"
    with pytest.raises(UsageError, match=words):
        longrec.train(data, **({"out": run} | TINY | call))
    assert not run.exists()
    longrec.train(data, "popularity", run)  # and so the call can be mended


def test_a_folder_that_was_there_stays(data, tmp_path):
    with pytest.raises(UsageError):
        longrec.train(data, out=tmp_path, protocol="random")
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_train_on(make_histories, tmp_path):
    with pytest.raises(LongrecError, match="nothing to train on"):
        longrec.train(make_histories([[1, 2, 3], [2], [3]]), out=tmp_path / "run", **TINY)


def test_forgetting_by_time_needs_times(make_histories, data):
    with pytest.raises(UsageError, match="no times"):
        longrec.train(make_histories([[1, 2, 3, 1]] * 3), forgetting="time", **TINY)
    rec = longrec.train(data, forgetting="time", **TINY)
    assert 0 <= longrec.evaluate(rec, data)["ndcg@10"] <= 1


def test_folders_that_may_not_be_written(data, trained, tmp_path):
    with pytest.raises(UsageError, match="holds a trained recommender; choose another"):
        longrec.train(data, out=trained.folder, **TINY)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        longrec.train(data, out=tmp_path / "file", **TINY)
    with pytest.raises(UsageError, match="holds other files"):
        longrec.train(data, out=tmp_path, **TINY)
    with pytest.raises(LongrecError, match="cannot be written"):
        longrec.train(data, out=tmp_path / "file" / "run", **TINY)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_was_trained_outlives_an_error_behind_it(data, tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("stale file handle")

    monkeypatch.setattr("longrec.runs.train.end_run", broken)
    with pytest.raises(OSError, match="stale"):
        longrec.train(data, "popularity", tmp_path / "run")
    assert longrec.load(tmp_path / "run").name == "popularity"


# ---- resume


def test_a_resumed_run_ends_as_one_that_was_never_stopped(data, tmp_path):
    settings = TINY | {"max_epochs": 2, "batch_tokens": 64}
    whole = longrec.train(data, "elastic", tmp_path / "whole", **settings)
    begin(data, tmp_path / "run")
    assert list((tmp_path / "run").glob("checkpoint-*"))
    again = longrec.train(data, out=tmp_path / "run", resume=True)
    assert same_weights(weights(again), weights(whole))
    # All settings but how often checkpoints were written.
    assert again.train_config.max_epochs == whole.train_config.max_epochs
    assert again.model_config == whole.model_config


def test_a_run_that_was_begun_wants_resume(data, tmp_path):
    begin(data, tmp_path / "run")
    with pytest.raises(UsageError, match="pass --resume"):
        longrec.train(data, out=tmp_path / "run", **TINY)
    with pytest.raises(DataError, match=r"has not ended.*--resume"):
        longrec.load(tmp_path / "run")


def test_resume_refuses_what_differs_and_takes_what_is_the_same(data, tmp_path):
    run = tmp_path / "run"
    begin(data, run)
    with pytest.raises(UsageError, match="started with dim=8, not 16"):
        longrec.train(data, out=run, resume=True, dim="16")
    with pytest.raises(UsageError, match="trains 'elastic', not 'sasrec'"):
        longrec.train(data, "sasrec", run, resume=True)
    other = histories(tmp_path / "other", seed=9)
    with pytest.raises(DataError, match="fingerprint differs"):
        longrec.train(other, out=run, resume=True)
    assert (run / "training.json").exists(), "a refused resume spoils nothing"
    longrec.train(data, out=run, resume=True, dim="8", max_epochs=2)


def test_more_epochs_after_the_end_are_those_of_a_run_that_never_ended(data, tmp_path):
    run, settings = tmp_path / "run", TINY | {"batch_tokens": 64, "max_epochs": 1}
    longrec.train(data, out=run, **settings)
    with pytest.raises(UsageError, match=r"ended after 1 epochs.*--resume --epochs 2"):
        longrec.train(data, out=run, resume=True)
    with pytest.raises(UsageError, match="started with dim=8, not 16"):
        longrec.train(data, out=run, resume=True, max_epochs=3, dim=16)
    assert not (run / "training.json").exists(), "a refused resume spoils nothing"
    more = longrec.train(data, out=run, resume=True, max_epochs=3)
    whole = longrec.train(data, **(settings | {"max_epochs": 3}))
    assert more.provenance["training"]["epochs"] == 3
    assert same_weights(weights(longrec.load(run)), weights(whole))


def test_more_minutes_after_the_end(data, tmp_path):
    run, settings = tmp_path / "run", TINY | {"batch_tokens": 64, "max_minutes": 1e-9}
    longrec.train(data, out=run, **(settings | {"max_epochs": 2}))
    with pytest.raises(UsageError, match=r"ended after .* minutes.*--resume --minutes"):
        longrec.train(data, out=run, resume=True, max_epochs=5)
    more = longrec.train(data, out=run, resume=True, max_minutes=None)
    assert more.provenance["training"]["stop"] == "max_epochs"
    assert more.provenance["training"]["epochs"] == 2


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        ("popularity", {}, "has counted all events"),
        ("elastic", TINY | {"max_epochs": 30, "patience": 1, "average": 0.9}, "has converged"),
    ],
)
def test_resume_says_why_there_is_nothing_to_do(data, tmp_path, model, settings, words):
    longrec.train(data, model, tmp_path / "run", **settings)
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    with pytest.raises(UsageError, match=words):
        longrec.train(data, out=tmp_path / "run", resume=True, max_epochs=100)


def test_overwrite_puts_a_run_in_the_place_of_one_and_nothing_else(data, tmp_path):
    run = tmp_path / "run"
    begin(data, run)
    longrec.train(data, "popularity", run, overwrite=True)
    assert {"config.json"} <= (names := {path.name for path in run.iterdir()})
    assert not {name for name in names if name.startswith(("checkpoint", "training"))}
    with pytest.raises(UsageError, match="cannot be used"):
        longrec.train(data, out=run, overwrite=True, device="abacus", **TINY)
    assert longrec.load(run).name == "popularity", "the old one stands until the new one does"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(UsageError, match="holds other files"):
        longrec.train(data, "popularity", tmp_path / "mine", overwrite=True)
    with pytest.raises(UsageError, match="give one of them"):
        longrec.train(data, out=run, overwrite=True, resume=True)


def test_a_config_file_is_checked_and_kept_and_what_is_given_wins(data, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('model = "sasrec"\ndim = 8\nheads = 1\nmax_epochs = 5\n')
    made = longrec.train(data, config=file, out=tmp_path / "run", max_epochs=0)
    assert (made.name, made.model_config.dim, made.train_config.max_epochs) == ("sasrec", 8, 0)
    assert longrec.load(tmp_path / "run").provenance["config"] == {
        "path": str(file),
        "model": "sasrec",
        "settings": {"dim": 8, "heads": 1, "max_epochs": 5},
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dmi = 8", r"run\.toml: model 'elastic' has no setting 'dmi'\. Did you mean dim"),
        ("lr = 0.1", r"run\.toml: .*Here that is learning_rate: --set learning_rate=0\.1"),
        ("dim = 0", r"run\.toml: dim is 0; it must be"),
        ("dim = [8]", r"run\.toml: dim is a list"),
        ("[model]\ndim = 8", r"run\.toml has a table \[model\]"),
        ("dim = \n", r"run\.toml is no TOML \(.*line 1"),
        (None, r"run\.toml: the config cannot be read"),
    ],
)
def test_a_wrong_config_file_is_told_by_name(data, tmp_path, text, words):
    if text is not None:
        (tmp_path / "run.toml").write_text(text)
    with pytest.raises(LongrecError, match=words):
        longrec.train(data, config=tmp_path / "run.toml", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_resume_in_a_new_folder_begins(data, tmp_path):
    longrec.train(data, out=tmp_path / "run", resume=True, **TINY)
    assert longrec.load(tmp_path / "run").name == "elastic"


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"model": "elastic", "settings": 3}'])
def test_resume_of_a_damaged_plan(data, tmp_path, text):
    (tmp_path / "training.json").write_text(text)
    with pytest.raises(DataError, match=r"training\.json is damaged"):
        longrec.train(data, out=tmp_path, resume=True)


def test_resume_finds_bytes_that_changed_under_the_same_name(data, tmp_path):
    own = histories(tmp_path / "own", seed=3)
    begin(own, tmp_path / "run")
    file = tmp_path / "own" / "events.arrow"
    content = bytearray(file.read_bytes())
    place = content.find(np.asarray(own.items[:8]).tobytes())
    content[place] = content[place] % ITEMS + 1
    del own
    file.write_bytes(bytes(content))
    with pytest.raises(DataError, match="edited or damaged"):
        longrec.train(tmp_path / "own", out=tmp_path / "run", resume=True)


def test_two_trainings_in_one_folder(data, tmp_path):
    run = tmp_path / "run"
    begin(data, run)
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LongrecError, match="another training is writing"):
            longrec.train(data, out=run, resume=True)
        assert (run / ".lock").exists(), "the lock of the other is not ours to remove"
    new = tmp_path / "new"
    new.mkdir()
    with (new / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LongrecError, match="another training is writing"):
            longrec.train(data, out=new, **TINY)


def test_histories_that_change_under_a_run(tmp_path):
    own = histories(tmp_path / "own", seed=3)

    def touch(status):
        (tmp_path / "own" / "catalog.parquet").touch()

    with pytest.raises(DataError, match="while it was in use"), told_of_steps(touch):
        longrec.train(own, out=tmp_path / "run", **TINY)


# ---- evaluate


def by_hand(rec, data, split="test", protocol="leave-one-out"):
    """Both ranks of every target: each history alone, items by id, counted in Python."""
    ids = data.catalog.take(data.items.astype(np.int64)).to_list()
    found = []
    targets = getattr(make_split(protocol, data), split)
    for user, position, ok in zip(targets.users, targets.positions, targets.known, strict=True):
        low = data.offsets[user]
        read = rec.catalog.find(ids[low:position])
        times = None if data.times is None else data.times[low:position][read > 0].copy()
        read, wanted = read[read > 0], int(rec.catalog.find([ids[position]])[0])
        if not (ok and wanted and len(read)):
            found.append((None, None))
            continue
        cut = slice(-rec.limit if rec.limit else None, None)
        clock = None if times is None else torch.from_numpy(times[cut])[None]
        with torch.inference_mode():
            h = rec.model.encode(torch.from_numpy(read[cut])[None], Context(times=clock))
            scores = rec.model.score(h[:, -1])[0].tolist()
        rivals = [i for i in range(1, rec.catalog.n_items + 1) if i != wanted]
        rank = 1 + sum(scores[i] >= scores[wanted] for i in rivals if i not in read)
        found.append((rank, 1 + sum(scores[i] >= scores[wanted] for i in rivals)))
    return found


def expect(metrics, ranks):
    for place, prefix in ((0, ""), (1, "unfiltered/")):
        own = [pair[place] for pair in ranks]
        for k in (10, 20, 50):
            hits = [r for r in own if r is not None and r <= k]
            n = len(own)
            assert metrics[f"{prefix}hr@{k}"] == pytest.approx(len(hits) / n)
            assert metrics[f"{prefix}mrr@{k}"] == pytest.approx(sum(1 / r for r in hits) / n)
            dcg = sum(1 / np.log2(r + 1) for r in hits)
            assert metrics[f"{prefix}ndcg@{k}"] == pytest.approx(dcg / n)


@pytest.mark.parametrize("name", ["elastic", "sasrec", "last-item"])
@pytest.mark.parametrize("split", ["test", "validation"])
def test_metrics_are_what_ranking_by_hand_gives(data, name, split):
    settings = {k: v for k, v in TINY.items() if name != "last-item" and k != "experts"}
    rec = longrec.train(data, name, context=5, **settings)
    metrics = longrec.evaluate(rec, data, split)
    expect(metrics, by_hand(rec, data, split))
    assert metrics.split == split
    assert metrics.counts["targets"] == 27


@pytest.mark.parametrize("protocol", ["leave-one-out", "global-time"])
def test_other_data_with_another_catalog(data, trained, tmp_path, protocol):
    # Half of the items are unknown, the others in another order: they are found by id.
    ids = [n if n % 2 else -n for n in range(519, 499, -1)]
    other = histories(tmp_path / "other", seed=5, ids=ids)
    metrics = longrec.evaluate(trained, other, protocol=protocol)
    ranks = by_hand(trained, other, protocol=protocol)
    assert 0 < sum(pair[0] is None for pair in ranks) < len(ranks)
    expect(metrics, ranks)
    misses = sum(pair[0] is None for pair in ranks)
    assert metrics.counts["targets"] == len(ranks), "an unknown item is a miss, not left out"
    assert metrics.counts["unseen_misses"] == misses
    assert metrics.notes["unknown_events"] > 0
    assert "warning" not in metrics.notes


def test_data_without_one_known_item(trained, tmp_path):
    other = histories(tmp_path / "other", seed=5, ids=[f"x{n}" for n in range(ITEMS)])
    with pytest.raises(DataError, match="knows none of its items"):
        longrec.evaluate(trained, other)


def test_one_known_item(trained, tmp_path):
    other = histories(tmp_path / "other", seed=5, ids=[500, *range(-ITEMS + 1, 0)])
    expect(longrec.evaluate(trained, other), by_hand(trained, other))


def test_evaluation_never_changes_the_model(data, trained):
    before, mode = weights(trained), trained.model.training
    first = longrec.evaluate(trained, data)
    second = longrec.evaluate(trained, data.path)
    assert dict(first) == dict(second)
    assert same_weights(before, weights(trained))
    assert trained.model.training == mode
    again = longrec.load(trained.folder)
    assert same_weights(before, weights(again))
    assert dict(longrec.evaluate(again)) == dict(first)


def test_the_evaluation_is_kept_and_consistent(data, trained):
    metrics = longrec.evaluate(trained, data)
    kept = json.loads((trained.folder / "metrics.json").read_text())
    assert {key: kept[key] for key in metrics} == dict(metrics)
    assert kept["model"] == "elastic"
    assert kept["provenance"]["data"]["fingerprint"] == data.fingerprint
    ranks = pl.read_parquet(trained.folder / "ranks.parquet")
    assert ranks["user"].dtype == data.user_ids.dtype
    assert ranks["user"].to_list() == data.user_ids.filter(pl.Series(data.lengths > 2)).to_list()
    assert ranks["item"].to_list() == data.catalog.take(data.items[ranks["position"]]).to_list()
    assert len(ranks) == metrics.counts["targets"]
    hit = (ranks["rank"] <= 10) & ranks["known"]
    assert hit.mean() == pytest.approx(metrics["hr@10"])
    assert not [p for p in trained.folder.iterdir() if p.name.startswith(".")]


def test_evaluations_stand_side_by_side(data, tmp_path):
    rec = longrec.train(data, "last-item", tmp_path / "run")
    own = longrec.evaluate(rec, data, ks=(3, 10, 20, 50))
    other = longrec.evaluate(rec, data, "validation", exclude_seen=not rec.exclude_seen, ks=[5])
    assert other["served/hr@5"] >= 0
    assert "served/hr@10" not in other
    kept = list(read_evaluations(rec.folder))
    assert [(one["split"], one["exclude_seen"]) for one in kept] == [
        ("validation", not rec.exclude_seen),
        ("test", rec.exclude_seen),
    ]
    for one in kept:
        assert one["protocol"] == "leave-one-out"
        assert one["events"] == one["provenance"]["data"]["fingerprint"] == data.fingerprint
        assert one["information"] == "strict"
        assert set(one["candidates"]) == {"served/", "", "unfiltered/"}
        assert one["provenance"]["started"]
    quoted = Metrics.from_dict(json.loads((rec.folder / "metrics.json").read_text()))
    assert dict(quoted) == dict(own)
    assert quoted.baselines.keys() == set(BASELINES)
    again = longrec.evaluate(rec, data, ks=(3, 10, 20, 50))
    assert again.baselines["popularity"].lead == own.baselines["popularity"].lead
    assert len(list((rec.folder / "evaluations").iterdir())) == 3
    with pytest.raises(UsageError, match=r"ks is \(0,\); it must be whole numbers from 1"):
        longrec.evaluate(rec, data, ks=(0,))


def test_baselines_are_what_they_are_as_models(data, tmp_path):
    rec = longrec.train(data, "popularity")
    found = longrec.evaluate(rec, data).baselines
    for name in BASELINES:
        alone = longrec.evaluate(longrec.train(data, name), data, baselines=False)
        assert alone.baselines == {}
        assert found[name].exclude_seen == alone.exclude_seen
        assert dict(found[name]) == {key: alone[key] for key in found[name]}
        assert found[name].intervals == alone.intervals
    assert found["popularity"].lead.mean == 0
    assert found["popularity"].verdict == "not clear"
    assert found["last-item"].targets == found["last-item"].of == 27


def test_another_protocol_on_the_training_data_is_warned_about(data, trained):
    notes = longrec.evaluate(trained, data, protocol="global-time").notes
    assert "were training events" in notes["warning"]
    assert "warning" not in longrec.evaluate(trained, data).notes


def test_training_data_that_changed(tmp_path):
    own = histories(tmp_path / "own", seed=3)
    rec = longrec.train(own, out=tmp_path / "run", **TINY)
    (tmp_path / "own").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="no such folder"):
        longrec.evaluate(rec)
    histories(tmp_path / "own", seed=4)
    with pytest.raises(DataError, match="has changed since"):
        longrec.evaluate(rec)
    longrec.evaluate(rec, tmp_path / "moved")
    longrec.evaluate(rec, tmp_path / "own")  # named, it is what the user wants


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"split": "train"}, "split is 'train'"),
        ({"protocol": "random"}, "unknown protocol 'random'"),
        ({"protocol": "prequential"}, "needs histories of"),
    ],
)
def test_wrong_evaluations(data, trained, call, words):
    with pytest.raises(UsageError, match=words):
        longrec.evaluate(trained, data, **call)


def test_nobody_to_evaluate(trained, make_histories):
    with pytest.raises(LongrecError, match="no test targets"):
        longrec.evaluate(trained, make_histories([[1, 2], [2, 1]]))


# ---- the whole way, as the README has it


def log():
    random = np.random.default_rng(0)
    return {
        "user_id": [f"u{n}" for n in random.integers(0, 12, 150)],
        "item_id": random.integers(0, 15, 150).tolist(),
        "timestamp": (1_700_000_000 + np.arange(150) * 60).tolist(),
    }


@pytest.mark.parametrize("kind", ["parquet", "polars", "pandas"])
def test_the_whole_way(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    if kind == "parquet":
        pl.DataFrame(log()).write_parquet("log.parquet")
    source = {
        "parquet": "log.parquet",
        "polars": pl.DataFrame(log()),
        "pandas": pd.DataFrame(log()),
    }[kind]
    events = longrec.read_events(source, user="user_id", item="item_id", time="timestamp")
    histories = longrec.prepare(events, "histories/")
    histories = longrec.open_histories("histories/")
    rec = longrec.train(
        histories, model="elastic", out="run/", dim=64, layers=2, experts=16, max_epochs=1
    )
    metrics = longrec.evaluate(rec, histories, split="test")
    assert {"ndcg@10", "hr@10", "mrr@10", "unfiltered/ndcg@10"} <= set(metrics)
    frame = rec.recommend(users=["u1", "u2"], data=histories, k=3)
    assert frame.columns == ["user", "rank", "item", "score", "policy"]
    assert frame["user"].unique(maintain_order=True).to_list() == ["u1", "u2"]
    assert frame["item"].dtype == pl.Int64
    assert len(rec.recommend(histories=[[3, 4]], k=3)) == 3
    rec.save("run/")
    again = longrec.load("run/")
    assert_frame_equal(again.recommend(users=["u1", "u2"], k=3), frame)
    assert dict(longrec.evaluate(again)) == dict(metrics)
    out = again.recommend(users=pd.Series(["u1"]), data=histories, k=3)
    assert_frame_equal(out, frame.head(3))


@pytest.mark.parametrize("name", ["elastic", "last-item"])
@pytest.mark.parametrize("protocol", ["leave-one-out", "global-time"])
def test_evaluate_says_what_recommend_delivers(data, tmp_path, name, protocol):
    settings = {k: v for k, v in TINY.items() if name == "elastic"}
    rec = longrec.train(data, name, tmp_path / "run", protocol=protocol, **settings)
    for split in ("test", "validation"):
        for hides in (True, False):
            metrics = longrec.evaluate(rec, data, split, exclude_seen=hides, baselines=False)
            lists = rec.recommend(data=data, split=split, k=50, exclude_seen=hides)
            kept = sorted((rec.folder / "evaluations").iterdir())[-1] / "ranks.parquet"
            targets = pl.read_parquet(kept)
            hits = lists.filter(pl.col("item") == pl.col("target"))
            found = targets.join(hits, on=["user", "position"], how="left", suffix="_list")
            for k in (10, 20, 50):
                assert metrics[f"served/hr@{k}"] == (found["rank_list"] <= k).sum() / len(targets)
            placed = found.drop_nulls("rank_list")
            assert placed["rank_served"].to_list() == placed["rank_list"].to_list()
            listed = lists.filter(pl.col("rank") <= 10)["item"].n_unique()
            assert metrics["served/coverage@10"] == pytest.approx(listed / rec.catalog.n_items)


def test_lists_of_a_split_are_asked_for_alone(data, trained):
    with pytest.raises(UsageError, match="users, histories or split, one of them"):
        trained.recommend(users=[1], split="test")
    with pytest.raises(UsageError, match="go with split"):
        trained.recommend(users=[1], protocol="global-time")
    with pytest.raises(UsageError, match="split is 'train'"):
        trained.recommend(data=data, split="train")
    with pytest.raises(UsageError, match="dates cut the protocol global-time alone"):
        trained.recommend(data=data, split="test", cut="2020-01-01")
    with pytest.raises(UsageError, match="cut is 20200101"):
        trained.recommend(data=data, split="test", protocol="global-time", cut=20200101)
    with pytest.raises(LongrecError, match="the protocol 'all' has no test targets"):
        trained.recommend(data=data, split="test", protocol="all")


def test_lists_of_a_split_tell_what_is_unknown_and_who_has_none(data, trained, tmp_path):
    known = data.catalog.ids[0]

    def logged(name, *items):
        users, times = [1] * 3 + [2] * 3, [1, 2, 3] * 2
        log = pl.DataFrame({"user": users, "item": [*items], "time": times})
        return longrec.prepare(log, tmp_path / name)

    with pytest.raises(DataError, match="knows none of its items"):
        trained.recommend(data=logged("strange", -1, -2, -3, -1, -2, -3), split="test")
    partly = logged("partly", known, known, known, known, -1, known)
    with pytest.warns(UserWarning, match="1 of 6 items of events is unknown"):
        trained.recommend(data=partly, split="test")
    one = logged("one", known, known, known, known, known, known)
    rec = longrec.train(one, "popularity")
    with pytest.warns(UserWarning, match="2 of 2 users get no item"):
        assert not len(rec.recommend(split="test", exclude_seen=True, data=one))
