"""Going on from a trained recommender: what is kept, what is new, and what it gained."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from models.small_models import small
from stops import told_of_steps

import longrec
from longrec.config.training import TrainConfig
from longrec.core.errors import DataError, UsageError
from longrec.data.splits import make_split
from longrec.mixers import Context
from longrec.models import MODELS, SequenceModel, build_model
from longrec.recommender import Recommender
from longrec.runs.warm_start import inherit_weights
from longrec.simulator.simulate import SimulationConfig, simulate

TINY = {"dim": 8, "layers": 1, "heads": 1, "experts": 3, "ffn_dim": 8, "dropout": 0}
QUICK = {"learning_rate": 0.01, "warmup_steps": 1, "average": 0.9}


@pytest.fixture(scope="module")
def logs():
    """A simulated log cut in time: users go on, others join, items arrive."""
    events = simulate(
        SimulationConfig(
            users=100, items=60, mean_length=25, evidence_distance=0, new_items=0.8, seed=4
        )
    ).events
    cut = int(events["time"].quantile(0.35))
    return events.filter(pl.col("time") < cut), events.filter(pl.col("time") >= cut)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("warm")


@pytest.fixture(scope="module")
def old_data(logs, place):
    return longrec.prepare(logs[0], place / "old")


@pytest.fixture(scope="module")
def both(logs, old_data, place):
    return longrec.prepare(logs[1], place / "both", extend=old_data)


@pytest.fixture(scope="module")
def run(old_data, place):
    return longrec.train(old_data, "elastic", place / "run", max_epochs=2, **TINY, **QUICK)


@pytest.fixture(scope="module")
def other(old_data):
    """Another recommender of the same histories, in memory; tests may save it."""
    return longrec.train(old_data, "elastic", max_epochs=1, seed=5, **TINY)


@pytest.fixture(scope="module")
def warm(both, run, place):
    return longrec.train(both, out=place / "warm", warm_start=run.folder, max_epochs=2)


def rows_of(recommender):
    return pl.read_csv(recommender.folder / "log.csv").to_dicts()


def weights(rec):
    return {k: v.clone() for k, v in rec.model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ---- what is kept


def test_known_items_keep_their_vectors_and_new_ones_start_amid_them(both, run, tmp_path):
    start = longrec.train(both, out=tmp_path / "r", warm_start=run, max_epochs=0)
    before, after = weights(run), weights(start)
    assert start.catalog.n_items > run.catalog.n_items
    where = run.catalog.find(start.catalog.ids)
    known = np.append(False, where > 0)
    assert torch.equal(after["items"][known], before["items"][where[where > 0]])
    assert not after["items"][0].any()
    new = after["items"][1:][where == 0]
    spread = new - before["items"][1:].mean(0)
    assert len(new) == start.provenance["warm_start"]["new_items"] > 5
    assert 0.01 < spread.std() < 0.03
    del before["items"], after["items"]
    assert same(before, after)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_says_of_known_items_what_it_said(name):
    from longrec.data.catalog import Catalog

    torch.manual_seed(0)
    config = small(name).config
    ids = np.arange(100, 112)
    order = np.random.default_rng(0).permutation(20)
    new_ids = np.concatenate([ids, np.arange(200, 208)])[order]
    old_catalog = Catalog(pl.Series(ids), np.ones(12, np.int64))
    catalog = Catalog(pl.Series(new_ids), np.ones(20, np.int64))
    was, now = build_model(name, config, 12).eval(), build_model(name, config, 20).eval()
    shapes = now.state_dict()
    moved = [k for k, v in was.state_dict().items() if v.shape != shapes[k].shape]
    if not isinstance(was, SequenceModel):
        return  # counted anew
    assert moved == was.item_tables(), "every table by item is named"
    inherit_weights(now, catalog, Recommender(name, was, config, TrainConfig(), old_catalog))
    items = torch.randint(1, 13, (2, 6))
    index = torch.from_numpy(np.append(0, catalog.find(old_catalog.ids)))
    ctx = Context(times=torch.arange(12).reshape(2, 6) * 1000)
    with torch.inference_mode():
        a, b = was.encode(items, ctx), now.encode(index[items], ctx)
        torch.testing.assert_close(a, b)
        scores = now.score(b[:, -1])[:, index[1:]]
        # Cosines over .05 have twenty times their error.
        torch.testing.assert_close(was.score(a[:, -1])[:, 1:], scores, rtol=1e-5, atol=5e-5)


def test_the_first_validation_is_the_old_models_own(old_data, run, place, tmp_path):
    # The same events under another order of users and items: nothing may depend on indices.
    frame = pl.DataFrame(
        {
            "user": old_data.user_ids.gather(np.repeat(range(old_data.n_users), old_data.lengths)),
            "item": old_data.catalog.take(old_data.items),
            "time": old_data.times,
        }
    )
    halves = frame.filter(pl.col("item") > "i3"), frame.filter(pl.col("item") <= "i3")
    first = longrec.prepare(halves[0], tmp_path / "half")
    moved = longrec.prepare(halves[1], tmp_path / "moved", extend=first)
    assert moved.n_events == old_data.n_events
    assert moved.catalog.ids.to_list() != old_data.catalog.ids.to_list()
    again = longrec.train(moved, out=tmp_path / "again", warm_start=run, max_epochs=0)
    kept = run.provenance["training"]["validation"]
    row = rows_of(again)[0]
    assert (row["epoch"], row["step"]) == (0, 0)
    alone = run.provenance["transitions"]["ndcg10_without"]
    assert row["ndcg10"] == pytest.approx(alone, abs=1e-9)
    assert again.provenance["training"]["validation"]["served/hr@10"] == pytest.approx(
        kept["served/hr@10"]
    )


def test_a_warm_start_never_ends_below_its_first_validation(both, run, tmp_path):
    spoilt = longrec.train(
        both, out=tmp_path / "r", warm_start=run, max_epochs=2, learning_rate=3.0, average=0
    )
    rows = rows_of(spoilt)
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert max(row["ndcg10"] for row in rows[1:]) < rows[0]["ndcg10"]
    alone = spoilt.provenance["transitions"]["ndcg10_without"]
    assert alone == pytest.approx(rows[0]["ndcg10"])
    where = run.catalog.find(spoilt.catalog.ids)
    table = spoilt.model.state_dict()["items"][np.append(False, where > 0)]
    assert torch.equal(table, run.model.state_dict()["items"][where[where > 0]])


def test_settings_are_the_runs_own_and_those_of_training_may_be_given(run, warm):
    assert warm.name == "elastic"
    assert warm.model_config == run.model_config
    assert warm.train_config == run.train_config
    rows = rows_of(warm)
    assert rows[-1]["ndcg10"] > rows[0]["ndcg10"], "it learns"
    assert not same(weights(warm), weights(longrec.load(run.folder)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"model": "sasrec"}, "is of the model 'elastic', not 'sasrec'"),
        ({"dim": 16}, "was built with dim=8, not 16"),
        ({"experts": "4"}, "was built with experts=3, not 4"),
        ({"dims": 16}, "no setting 'dims'"),
    ],
)
def test_what_a_warm_start_cannot_change(both, run, tmp_path, call, words):
    with pytest.raises(UsageError, match=words):
        longrec.train(both, out=tmp_path / "r", warm_start=run.folder, **call)
    assert not (tmp_path / "r").exists()


def test_other_ids_and_no_run(both, run, tmp_path):
    frame = pl.DataFrame({"user": [1, 1, 1], "item": ["x", "y", "z"], "time": [1, 2, 3]})
    foreign = longrec.prepare(frame, tmp_path / "foreign")
    with pytest.raises(DataError, match=r"none of the .* items that .* knows"):
        longrec.train(foreign, out=tmp_path / "r", warm_start=run.folder)
    with pytest.raises(DataError, match="no such folder"):
        longrec.train(both, out=tmp_path / "r", warm_start=tmp_path / "none")
    assert not (tmp_path / "r").exists()


# ---- what is told


def test_the_provenance_counts_what_was_known_and_new(logs, old_data, both, run, warm):
    about = json.loads((warm.folder / "provenance.json").read_text())["warm_start"]
    old_items, all_items = set(logs[0]["item"]), set(logs[0]["item"]) | set(logs[1]["item"])
    assert about["run"] == str(run.folder.resolve())
    assert about["fingerprint"] == old_data.fingerprint
    assert about["known_items"] == len(old_items)
    assert about["new_items"] == len(all_items) - len(old_items)
    assert about["left_out_items"] == 0
    assert about["known_users"] == logs[0]["user"].n_unique()
    assert about["new_users"] == both.n_users - about["known_users"] > 0
    assert about["users_lacking_events"] == 0
    assert about["gain"] == warm.provenance["warm_start"]["gain"]


def test_a_log_without_the_earlier_events_is_told_of(logs, run, old_data, tmp_path, capsys):
    alone = longrec.prepare(logs[1], tmp_path / "alone")
    rec = longrec.train(alone, warm_start=run, max_epochs=0, progress=True)
    about = rec.provenance["warm_start"]
    returning = len(set(logs[0]["user"]) & set(logs[1]["user"]))
    assert about["known_users"] == about["users_lacking_events"] == returning > 0
    assert about["left_out_items"] == len(set(logs[0]["item"]) - set(logs[1]["item"]))
    told = " ".join(capsys.readouterr().err.split())
    assert f"{returning:,} known users lack earlier events" in told
    assert f"longrec prepare NEW_LOG --extend {old_data.path.resolve()} --out BOTH" in told


def test_targets_that_the_old_run_was_trained_on_are_counted(make_histories, ring, capsys):
    rows = ring(30, 12, 6, 9)
    short = [[1, 2], [3, 4], [5]]
    old = longrec.train(make_histories([*rows, *short]), "elastic", max_epochs=1, **TINY)
    grown = make_histories([*rows, [1, 2, 3], [3, 4, 5, 6], [5, 6, 7]])
    rec = longrec.train(grown, warm_start=old, max_epochs=0)
    about = rec.provenance["warm_start"]
    # Two events all train; one more makes the second of them a validation target.
    assert about["targets_trained_before"] == {"validation": 1, "test": 0}
    assert about["gain"]["targets"] == 3
    notes = longrec.evaluate(rec, grown, "validation").notes
    assert notes["warning"] == (
        "the warm start's old run was trained on 1 of these 33 targets, which flatters the numbers"
    )
    assert "warning" not in longrec.evaluate(rec, grown).notes
    # Whoever goes on once more, on the same histories, is told of it, too.
    rec.provenance["warm_start"]["targets_trained_before"]["test"] = 2
    again = longrec.train(grown, warm_start=rec, max_epochs=0, progress=True)
    assert again.provenance["warm_start"]["targets_trained_before"] == {"validation": 1, "test": 2}
    assert "was trained on 2 of these 33" in longrec.evaluate(again, grown).notes["warning"]
    told = " ".join(capsys.readouterr().err.split())
    assert "warning: what the recommender given went on from was trained on 2 of the test" in told


# ---- what was gained


def ndcg_by_hand(rec, data, targets):
    """NDCG@10 as served: where the target stands in the list that `recommend` gives."""
    ids = data.catalog.take(data.items.astype(np.int64)).to_list()
    events = [
        {"item": item, "time": time} for item, time in zip(ids, data.times.tolist(), strict=True)
    ]
    lists = rec.recommend(
        histories=[events[data.offsets[user] : position] for user, position in targets], k=10
    )
    found = []
    for number, (_, position) in enumerate(targets):
        own = lists.filter(pl.col("user") == number)["item"].to_list()
        rank = own.index(ids[position]) + 1 if ids[position] in own else None
        found.append(0.0 if rank is None else 1 / np.log2(rank + 1))
    return found


def test_the_gain_is_what_both_models_score_on_what_neither_could_know(both, run, warm, old_data):
    gain = warm.provenance["warm_start"]["gain"]
    split = make_split("leave-one-out", both)
    last = int(old_data.times.max())
    targets = [
        (user, position)
        for user, position in zip(split.test.users, split.test.positions, strict=True)
        if both.times[position] > last
    ]
    assert gain["targets"] == gain["users"] == len(targets) > 20
    seen = {
        (user, item, time)
        for user, item, time in zip(
            np.repeat(old_data.user_ids.to_list(), old_data.lengths),
            old_data.catalog.take(old_data.items),
            old_data.times.tolist(),
            strict=True,
        )
    }
    names, users = both.catalog.take(both.items), both.user_ids
    assert not {(users[int(u)], names[int(p)], int(both.times[p])) for u, p in targets} & seen
    unknown = [names[int(p)] not in set(old_data.catalog.ids) for _, p in targets]
    assert gain["unknown_to_old"] == pytest.approx(np.mean(unknown))
    assert 0 < sum(unknown) < len(targets)
    assert not (run.exclude_seen and warm.exclude_seen), "the simulation repeats items"
    old, new = (np.array(ndcg_by_hand(rec, both, targets)) for rec in (run, warm))
    assert gain["served/ndcg@10"]["old"] == pytest.approx(old.mean())
    assert gain["served/ndcg@10"]["new"] == pytest.approx(new.mean())
    assert gain["served/ndcg@10"]["difference"] == pytest.approx((new - old).mean())
    low, high = gain["served/ndcg@10"]["interval"]
    assert low < gain["served/ndcg@10"]["difference"] < high
    known = ~np.array(unknown)
    assert gain["of_known_items"]["targets"] == known.sum()
    assert gain["of_known_items"]["served/ndcg@10"]["old"] == pytest.approx(old[known].mean())


def test_no_newer_target_is_said(old_data, run):
    rec = longrec.train(old_data, warm_start=run, max_epochs=0)
    gain = rec.provenance["warm_start"]["gain"]
    assert gain["targets"] == 0
    assert "no test target of the protocol leave-one-out is newer" in gain["note"]


def test_without_times_the_new_period_is_what_users_had_not_done_yet(make_histories, ring):
    rows = ring(30, 12, 6, 9)
    seen = make_histories(rows)
    old = longrec.train(seen, "elastic", max_epochs=1, **TINY)
    changed = [[*row[1:], 1, 2, 3] for row in rows[20:25]]  # does not begin as it did
    grown = make_histories([*([*row, 1] for row in rows[:20]), *changed, *rows[25:], [1, 2, 3]])
    rec = longrec.train(grown, warm_start=old, max_epochs=0)
    about = rec.provenance["warm_start"]
    assert about["users_lacking_events"] == 5
    assert about["gain"]["targets"] == 20 + 1
    shutil.rmtree(seen.path)
    gone = longrec.train(grown, warm_start=old, max_epochs=0).provenance["warm_start"]
    assert gone["known_users"] is None
    assert gone["gain"]["targets"] == 0
    assert "gone or have changed" in gone["gain"]["note"]


def test_with_times_the_old_histories_may_be_gone(logs, run, warm, both, place, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(run.folder, moved)
    old = longrec.load(moved)
    old.provenance["data"]["path"] = str(tmp_path / "gone")
    about = longrec.train(both, warm_start=old, max_epochs=0).provenance["warm_start"]
    assert about["known_users"] is None
    gain = warm.provenance["warm_start"]["gain"]
    assert about["gain"]["targets"] == gain["targets"]
    assert about["gain"]["served/ndcg@10"]["old"] == gain["served/ndcg@10"]["old"]


def test_counting_models_are_counted_anew(old_data, both):
    old = longrec.train(old_data, "popularity")
    rec = longrec.train(both, warm_start=old)
    fresh = longrec.train(both, "popularity")
    assert same(weights(rec), weights(fresh))
    assert rec.provenance["warm_start"]["gain"]["served/ndcg@10"]["new"] > 0


# ---- resume


class Stop(BaseException):
    pass


def begin(data, out, steps, **settings):
    def stop(status):
        if status.total_steps >= steps:
            raise Stop

    with pytest.raises(Stop), told_of_steps(stop):
        longrec.train(data, out=out, **settings)
    (out / ".lock").unlink(missing_ok=True)


@pytest.mark.parametrize("steps", [0, 5])
def test_a_resumed_warm_start_ends_as_one_that_was_never_stopped(both, run, warm, tmp_path, steps):
    out = tmp_path / "r"
    begin(both, out, steps, warm_start=run.folder, max_epochs=2)
    with pytest.raises(UsageError, match="pass --resume"):
        longrec.train(both, out=out, warm_start=run.folder)
    again = longrec.train(both, out=out, resume=True)
    assert same(weights(again), weights(warm))
    assert [row["epoch"] for row in rows_of(again)] == [0, 1, 2]
    wanted, found = (r.provenance["warm_start"] for r in (warm, again))
    assert found == wanted


def test_resume_wants_the_weights_that_the_run_was_started_from(both, other, run, tmp_path):
    source, out = tmp_path / "run", tmp_path / "r"
    shutil.copytree(run.folder, source)
    begin(both, out, 3, warm_start=source, max_epochs=2)
    with pytest.raises(UsageError, match="started from other weights, not from"):
        longrec.train(both, out=out, resume=True, warm_start=other)
    shutil.rmtree(source)
    with pytest.raises(DataError, match="warm_start has it, and the training needs its weights"):
        longrec.train(both, out=out, resume=True)
    other.save(source)
    with pytest.raises(DataError, match="holds other weights"):
        longrec.train(both, out=out, resume=True)
    begin(both, tmp_path / "plain", 3, model="elastic", max_epochs=2, **TINY)
    with pytest.raises(UsageError, match="started without a warm start"):
        longrec.train(both, out=tmp_path / "plain", resume=True, warm_start=run)


def test_resume_of_a_start_from_memory_wants_it_again(both, other, tmp_path):
    out, old = tmp_path / "r", replace(other, folder=None)
    begin(both, out, 3, warm_start=old, max_epochs=1)
    with pytest.raises(DataError, match="resume it with warm_start="):
        longrec.train(both, out=out, resume=True)
    rec = longrec.train(both, out=out, resume=True, warm_start=old)
    assert rec.provenance["warm_start"]["run"] is None
