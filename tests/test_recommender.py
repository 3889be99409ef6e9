"""The recommender: its folder, what damages to it say, and what it recommends."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

import longrec
import longrec.data.catalog as catalog_module
from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.core.files import digest_of_config, digest_of_file
from longrec.data.catalog import Catalog
from longrec.data.histories import open_histories
from longrec.data.write import write_histories
from longrec.mixers import Context
from longrec.models import MODELS, CountingModel, build_model
from longrec.models.common.settings import parse_settings
from longrec.recommender import Recommender, load

ITEMS = 30
SMALL = {"dim": 8, "layers": 1, "heads": 1, "experts": 3, "ffn_dim": 8, "max_length": 6}


def small_settings(name, **more):
    keys = settings_keys(name)
    return {key: value for key, value in (SMALL | more).items() if key in keys}


def settings_keys(name):
    model, training = parse_settings(name, {})
    return {*vars(model), *vars(training)}


def make(data, name="elastic", **settings):
    """A recommender with random weights: what is recommended does not depend on training."""
    chosen = small_settings(name, **settings)
    if name == "dfar":  # half of its heads stand for either feedback
        chosen["heads"] = 2
    model_config, config = parse_settings(name, chosen)
    torch.manual_seed(1)
    model = build_model(name, model_config, data.catalog.n_items).eval()
    if isinstance(model, CountingModel):
        items = torch.from_numpy(data.items.astype(np.int64))
        times = None if data.times is None else torch.from_numpy(data.times.copy())
        model.count(items, torch.from_numpy(data.lengths), times)
    about = {"data": {"path": str(data.path), "fingerprint": data.fingerprint}}
    return Recommender(name, model, model_config, config, data.catalog, about)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """40 users with integer ids 100.., items with text ids, histories of 1 to 25 events."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, 26, 40)
    items = random.integers(1, ITEMS + 1, lengths.sum()).astype(np.int32)
    return write_histories(
        tmp_path_factory.mktemp("data") / "histories",
        user_ids=pl.Series(np.arange(100, 140), dtype=pl.Int32),
        offsets=np.concatenate([[0], lengths.cumsum()]),
        items=items,
        times=np.concatenate([np.sort(random.integers(0, 10**6, n)) for n in lengths]),
        catalog=Catalog(
            pl.Series([f"i{n:02d}" for n in range(1, ITEMS + 1)]),
            np.bincount(items, minlength=ITEMS + 1)[1:].astype(np.int64),
        ),
        source="test",
        time_unit="s",
    )


@pytest.fixture
def rec(data):
    return make(data)


def history(data, user):
    row = user - 100
    return data.items[data.offsets[row] : data.offsets[row + 1]].astype(np.int64)


def by_hand(rec, items, times=None, k=10, exclude=True):
    """(item ids, scores) by scoring one cut history alone and sorting in Python."""
    cut = items[-rec.limit :] if rec.limit else items
    clock = None if times is None else torch.from_numpy(times[-len(cut) :].copy())[None]
    with torch.inference_mode():
        h = rec.model.encode(torch.from_numpy(cut)[None], Context(times=clock))[:, -1]
        scores = rec.model.score(h)[0].double().tolist()
    allowed = [i for i in range(1, ITEMS + 1) if not (exclude and i in items)]
    best = sorted(allowed, key=lambda i: -scores[i])[:k]
    return [f"i{i:02d}" for i in best], [scores[i] for i in best]


# ---- what is recommended


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_users_in_blocks_get_what_they_get_at_once(data, rec, monkeypatch):
    users = [*range(100, 140), 7, 120, None]  # unknown, twice, and none
    among = ["i01", "i02", "i03"]
    options = {"users": users, "data": data, "k": 4, "exclude_seen": False, "among": among}
    options["exclude"] = [[f"i{1 + n % 9:02d}"] for n in range(len(users))]
    whole = rec.recommend(**options)
    read = []
    monkeypatch.setattr("longrec.retrieval.users_lists.EVENTS", 40)
    monkeypatch.setattr("longrec.retrieval.users_lists.USERS", 3)
    blocks = rec.recommend(progress=lambda *done: read.append(done), **options)
    assert_frame_equal(blocks.drop("score"), whole.drop("score"))
    assert np.allclose(blocks["score"], whole["score"], atol=1e-6)
    assert read == sorted(read)
    assert read[-1][0] == read[-1][1]
    assert len(read) > len(users) // 3
    assert len(rec.recommend([], data)) == 0


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("settings", [{}, {"context": 4}])
def test_equals_scoring_each_history_alone(data, name, settings):
    rec = make(data, name, **settings)
    found = rec.recommend(data=data, k=7)
    assert found.columns == ["user", "rank", "item", "score", "policy"]
    assert found["user"].dtype == pl.Int32
    assert set(found["policy"]) == {"personal"}
    assert found["user"].unique(maintain_order=True).to_list() == list(range(100, 140))
    for user in range(100, 140, 3):
        row = user - 100
        times = data.times[data.offsets[row] : data.offsets[row + 1]]
        items, scores = by_hand(rec, history(data, user), times, k=7)
        mine = found.filter(pl.col("user") == user)
        assert mine["rank"].to_list() == list(range(1, len(mine) + 1))
        np.testing.assert_allclose(mine["score"].to_numpy(), scores, rtol=1e-4, atol=1e-6)
        if isinstance(rec.model, CountingModel):  # exact scores: equal ties, too
            assert mine["item"].to_list() == items
        assert not set(mine["item"]) & {f"i{i:02d}" for i in history(data, user)}


@pytest.mark.parametrize("name", ["elastic", "sasrec"])
def test_a_long_history_is_cut_or_read_whole(data, name):
    rec = make(data, name)
    long = max(range(100, 140), key=lambda u: len(history(data, u)))
    assert rec.limit == (None if name == "elastic" else 6)
    ids = [f"i{i:02d}" for i in history(data, long)]
    cut = rec.recommend(histories=[ids[-6:]], k=5, exclude_seen=False)
    whole = rec.recommend(histories=[ids], k=5, exclude_seen=False)
    same = np.allclose(whole["score"].to_numpy(), cut["score"].to_numpy(), atol=1e-6)
    assert same == (name == "sasrec")


def test_seen_items_come_back_when_asked_for(data, rec):
    found = rec.recommend([100, 101], data, k=ITEMS, exclude_seen=False)
    assert len(found) == 2 * ITEMS
    assert set(found["item"]) == {f"i{n:02d}" for n in range(1, ITEMS + 1)}


def test_seen_beyond_the_context_and_repeats_are_excluded(data):
    rec = make(data, context=2)
    found = rec.recommend(histories=[["i01", "i02", "i01", "i03", "i04"]], k=100)
    assert set(found["item"]) == {f"i{n:02d}" for n in range(5, ITEMS + 1)}


def test_a_history_of_everything_leaves_nothing(rec):
    everything = [f"i{n:02d}" for n in range(1, ITEMS + 1)]
    with pytest.warns(UserWarning, match=r"1 of 3 users gets no item, since .*: 0\. exclude_s"):
        found = rec.recommend(histories=[everything, everything[1:], ["i01"]], k=3)
    assert found.filter(user=0).is_empty()
    assert found.filter(user=1)["item"].to_list() == ["i01"]
    assert len(found.filter(user=2)) == 3


def test_unknown_users_and_histories_are_cold_and_get_popular_items(data, rec):
    order = sorted(range(ITEMS), key=lambda n: -data.catalog.counts[n])[:4]
    popular = [f"i{n + 1:02d}" for n in order]
    with pytest.warns(UserWarning, match=r"1 of 2 users is unknown to .*histories: 999999\. Th"):
        found = rec.recommend([100, 999_999], data, k=4)
    assert found["policy"].to_list() == ["personal"] * 4 + ["cold"] * 4
    assert found.filter(user=999_999)["item"].to_list() == popular
    with pytest.warns(UserWarning, match="1 of 2 items of histories is unknown to the model: 'no"):
        found = rec.recommend(histories=[[], ["no-such"], ["i01"]], k=4)
    assert found["policy"].to_list() == ["cold"] * 8 + ["personal"] * 4
    assert found.filter(pl.col("user") < 2)["item"].to_list() == popular * 2
    assert found.filter(user=0)["score"].to_list() == [data.catalog.counts[n] for n in order]


def test_unknown_items_in_a_history_are_skipped(rec):
    with pytest.warns(UserWarning, match=r"2 of 4 items .* unknown to the model: '\?', '\?\?'"):
        with_them = rec.recommend(histories=[["?", "i01", "??", "i02"]])
    without = rec.recommend(histories=[["i01", "i02"]])
    assert_frame_equal(with_them, without, abs_tol=1e-6)


@pytest.mark.filterwarnings("ignore:.* unknown to ")
def test_the_order_and_repetition_of_a_request_is_kept(data, rec):
    asked = [125, 101, 999_999, 101, 130]
    found = rec.recommend(asked, data, k=2)
    assert found["user"].to_list() == [u for u in asked for _ in range(2)]
    alone = rec.recommend([101], data, k=2)["item"].to_list()
    assert found["item"].to_list()[2:4] == found["item"].to_list()[6:8] == alone


@pytest.mark.parametrize("batch", [[103], list(range(100, 140)), [139, 103, 110]])
def test_neighbours_change_nothing(data, rec, batch):
    alone = rec.recommend([103], data, k=5).filter(user=103)
    among = rec.recommend(batch, data, k=5).filter(user=103)
    assert_frame_equal(alone, among, abs_tol=1e-5)


@pytest.mark.parametrize(
    ("asked", "back"),
    [
        (["100", "101"], [100, 101]),  # as a command line gives them
        ([100, "101"], [100, 101]),
        (["100", "987654"], [100, 987654]),
        (np.array([100, 101]), [100, 101]),
        (pd.Series([100, 101]), [100, 101]),
        (pl.Series([100, 101]), [100, 101]),
        (["100", "bob"], [100, None]),  # bob cannot be a number
        ([100, "bob"], [100, None]),
        ([100, 2**40], [100, None]),
        ([100, None], [100, None]),
    ],
)
@pytest.mark.filterwarnings("ignore:.* unknown to ")
def test_ids_come_back_in_their_own_type(data, rec, asked, back):
    found = rec.recommend(asked, data, k=1)
    assert found["user"].to_list() == back
    assert found["user"].dtype == pl.Int32
    assert found["policy"][0] == "personal"


def test_integer_items_come_back_as_integers(make_histories):
    h = make_histories([[1, 2, 3, 4], [2, 3]], n_items=6)
    rec = make(h)
    assert rec.recommend(["user00001"], h, k=2)["item"].dtype == h.catalog.ids.dtype
    as_text = rec.recommend(histories=[["1001", "1002"]])
    assert_frame_equal(as_text, rec.recommend(histories=[[1001, 1002]]))
    assert set(as_text["item"]) == {1000, 1003, 1004, 1005}


def test_data_with_another_catalog_is_read_by_id(data, rec, tmp_path):
    other = write_histories(
        tmp_path / "other",
        user_ids=pl.Series(["x", "y"]),
        offsets=np.array([0, 3, 4]),
        items=np.array([1, 2, 3, 2]),
        times=np.array([1, 2, 3, 4]),
        catalog=Catalog(pl.Series(["i05", "new", "i02"]), np.array([1, 2, 1])),
        source="test",
        time_unit="s",
    )
    with pytest.warns(UserWarning, match="2 of 4 items of events are unknown to the model: 'new'"):
        found = rec.recommend(["x", "y"], other, k=3)
    assert found["policy"].to_list() == ["personal"] * 3 + ["cold"] * 3
    assert (
        found.filter(user="x")["item"].to_list()
        == rec.recommend(histories=[["i05", "i02"]], k=3)["item"].to_list()
    )


def test_an_empty_request_gives_an_empty_frame_of_the_same_types(data, rec):
    full = rec.recommend([100], data)
    for empty in (rec.recommend([], data), rec.recommend(pl.Series([], dtype=pl.Int32), data)):
        assert empty.schema == full.schema
        assert empty.is_empty()
    assert rec.recommend(histories=[]).is_empty()


@pytest.mark.filterwarnings("ignore:.* unknown to ")
def test_equal_scores_stand_in_item_order(make_histories):
    h = make_histories([[1, 2, 3, 4, 5, 6, 7, 8]], n_items=8)
    rec = make(h, "popularity")
    for k in (1, 3, 8, 20):
        found = rec.recommend(histories=[["none"], [1000]], k=k, exclude_seen=False)
        for user in (0, 1):
            mine = found.filter(user=user)["item"].to_list()
            assert mine == list(range(1000, 1008))[:k]


def test_data_by_default_and_by_path(data, rec):
    given = rec.recommend([100], data)
    assert_frame_equal(rec.recommend([100]), given)
    assert_frame_equal(rec.recommend([100], data.path), given)


def test_progress_reaches_the_end(data, rec):
    told = []
    rec.recommend(data=data, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (data.n_events, data.n_events)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"users": [100], "histories": [["i01"]]}, "not both"),
        ({"users": "100"}, "users is '100'; give a list of user ids"),
        ({"users": iter([100])}, "users is of type list_iterator"),
        ({"users": [100, [101]]}, r"users\.1 is of type list"),
        ({"histories": ["i01", "i02"]}, r"histories\.0 is 'i01'; give a list of histories"),
        ({"histories": [["i01"], 2]}, r"histories\.1 is 2; give a list of histories"),
        ({"histories": (["i01"] for _ in "ab")}, "histories is of type generator"),
        ({"histories": [(i for i in ["i01"])]}, r"histories\.0 is of type generator"),
        ({"histories": {"ann": ["i01"]}}, "histories is of type dict"),
    ],
)
def test_wrong_calls(rec, call, words):
    with pytest.raises(UsageError, match=words):
        rec.recommend(**call)


def test_a_model_that_needs_times_says_so(data):
    rec = make(data, forgetting="time")
    assert len(rec.recommend([100], data, k=3)) == 3
    with pytest.raises(UsageError, match="no times"):
        rec.recommend(histories=[["i01"]])


# ---- the folder


@pytest.mark.parametrize("name", sorted(MODELS))
def test_saved_and_loaded_it_is_the_same(data, tmp_path, name):
    rec = make(data, name, context=9)
    rec.save(tmp_path / "run")
    again = load(tmp_path / "run")
    assert (again.name, again.model_config) == (name, rec.model_config)
    assert again.train_config == rec.train_config
    assert again.provenance == rec.provenance
    assert not again.model.training
    assert_frame_equal(again.recommend(data=data), rec.recommend(data=data))
    assert not [p for p in (tmp_path / "run").iterdir() if p.name.startswith(".")]


def test_saving_twice_keeps_one_and_forgets_another_models_evaluation(data, tmp_path):
    run = tmp_path / "run"
    make(data).save(run)
    (run / "metrics.json").write_text("{}")
    make(data).save(run)
    assert (run / "metrics.json").exists(), "the same weights keep their evaluation"
    make(data, "popularity").save(run)
    assert not (run / "metrics.json").exists()
    assert load(run).name == "popularity"


def test_saving_where_a_file_is(data, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(LongrecError, match="not saved"):
        make(data).save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failed_save_leaves_no_recommender(data, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("longrec.artifact.folder.save_file", full)
    with pytest.raises(LongrecError, match="No space left"):
        make(data).save(tmp_path / "run")
    with pytest.raises(DataError):
        load(tmp_path / "run")


@pytest.fixture
def run(data, tmp_path):
    return make(data).save(tmp_path / "run")


def edit_config(run, sign=True, **values):
    config = json.loads((run / "config.json").read_text()) | values
    config = {key: value for key, value in config.items() if value is not None}
    del config["digest"]
    stale = "0" * 64
    digest = digest_of_config(config) if sign else stale
    (run / "config.json").write_text(json.dumps(config | {"digest": digest}))


def forge(run, name, content):
    """Replace a file and put its right digest into config.json."""
    (run / name).write_bytes(content)
    digests = json.loads((run / "config.json").read_text())["digests"]
    edit_config(run, digests=digests | {name: digest_of_file(run / name)})


DAMAGES = {
    "config with no digest": (lambda r: edit_config(r, digests={}), "is not what"),
    "unknown model": (lambda r: edit_config(r, model="oracle"), "no model 'oracle'"),
    "bad value": (lambda r: edit_config(r, model_config={"dim": 0}), "config.json: dim is 0; it"),
    "unknown key": (lambda r: edit_config(r, model_config={"depth": 3}), "'depth'"),
    "wrong shape": (
        lambda r: edit_config(r, model_config=small_settings("elastic", dim=16)),
        "shape",
    ),
    "other items": (lambda r: edit_config(r, items=5), "has 30 items.*5"),
    "garbage weights": (
        lambda r: forge(r, "model.safetensors", b"no tensors at all"),
        "model.safetensors is damaged",
    ),
    "no weights": (lambda r: forge(r, "model.safetensors", b""), "model.safetensors is damaged"),
    "garbage catalog": (lambda r: forge(r, "catalog.parquet", b"PAR1"), "not a readable Parquet"),
    "garbage provenance": (lambda r: forge(r, "provenance.json", b"{"), "provenance.json is damag"),
    "provenance a number": (
        lambda r: forge(r, "provenance.json", b"1"),
        "provenance.json is damaged",
    ),
}
"""Damage that digests cannot find, since it was signed again; test_sealed has the others."""


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_told(run, damage):
    spoil, words = DAMAGES[damage]
    spoil(run)
    with pytest.raises(DataError, match=f"(?s){words}") as caught:
        load(run)
    assert str(run) in str(caught.value)


def test_a_run_that_has_not_ended_is_no_recommender(tmp_path):
    (tmp_path / "training.json").write_text("{}")
    with pytest.raises(DataError, match=r"has not ended.*--resume"):
        load(tmp_path)


def test_training_data_that_is_gone_or_changed(data, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(data.path, copy)
    rec = make(open_histories(copy))
    assert rec.data().n_users == 40
    shutil.rmtree(copy)
    with pytest.raises(DataError, match=r"(?s)no such folder.*--data"):
        rec.recommend([100])
    write_histories(
        copy,
        user_ids=pl.Series([1]),
        offsets=np.array([0, 1]),
        items=np.array([1]),
        times=None,
        catalog=Catalog(pl.Series(["a"]), np.array([1])),
        source="test",
        time_unit=None,
    )
    with pytest.raises(DataError, match=r"has changed since.*--data"):
        rec.recommend([100])
    rec.provenance = {}
    with pytest.raises(UsageError, match="pass data="):
        rec.recommend([100])


def test_what_shapes_states_has_a_digest(data, rec, tmp_path):
    rec.save(tmp_path / "run")
    assert load(tmp_path / "run").state_digest == rec.state_digest
    others = [
        make(data),
        make(data, experts=4),
        make(data, "hydrarec"),
        make(data, "popularity"),
        make(data, "last-item"),
    ]
    with torch.no_grad():
        others[0].model.items[3] += 1e-6
    digests = [rec.state_digest, *(other.state_digest for other in others)]
    assert len(set(digests)) == len(digests)
    assert {other.catalog_version for other in others} == {rec.catalog_version}


@pytest.mark.parametrize("name", ["elastic", "hydrarec", "sasrec", "bert4rec"])
def test_new_items_change_no_states(data, tmp_path, name):
    rec = make(data, name)
    more = rec.with_items(["new 1", "new 2"], vectors=torch.eye(2, 8) * 50)
    assert more.state_digest == rec.state_digest
    assert more.catalog_version != rec.catalog_version
    assert more.catalog.ids.to_list() == [*rec.catalog.ids, "new 1", "new 2"]
    history = [rec.catalog.ids[3], rec.catalog.ids[5]]
    was = rec.recommend(histories=[history], k=ITEMS)
    now = more.recommend(histories=[history], k=ITEMS + 2)
    known = now.filter(~pl.col("item").str.starts_with("new"))
    assert_frame_equal(known.drop("rank"), was.drop("rank"))
    assert len(now) == len(was) + 2
    assert (more.recommend(histories=[["new 1"]])["policy"] == "personal").all()
    # Saved, loaded and grown again it is still of the same states.
    more.save(tmp_path / "run")
    back = load(tmp_path / "run").with_items(["new 3"])
    assert back.state_digest == rec.state_digest
    assert torch.equal(back.model.items[-1], more.model.items[1:].mean(0))


def test_catalogs_are_hashed_once_and_not_by_every_call(data, monkeypatch):
    hashed = []
    hash_ids = catalog_module.hash_ids
    monkeypatch.setattr(
        catalog_module, "hash_ids", lambda h, ids: (hashed.append(len(ids)), hash_ids(h, ids))[1]
    )
    rec, log = make(data), open_histories(data.path)
    grown = rec.with_items(["new"])
    for _ in range(3):
        for one in (rec, grown):
            one.recommend(users=[100, 101], data=log, k=3)
            one.recommend(data=log, k=3, split="test")
    assert len(hashed) <= 3, "one of the data, and those of both recommenders"


def test_the_likely_cause_of_unknown_ids_is_told(data, rec):
    for user, cause in [
        ("100,101", "looks like 2 ids in one, such as 100"),
        ("100.0", "a decimal number where the id is 100"),
        ("0100", "differs from 100 by leading zeros"),
        ("bob", "whole numbers such as 100, and 'bob' is none"),
    ]:
        with pytest.warns(UserWarning, match=cause):
            rec.recommend([user], data, k=1)
    with pytest.warns(UserWarning, match="'I01' differs from 'i01' by capitals"):
        rec.recommend(histories=[["I01"]], k=1)
    with pytest.raises(UsageError, match=r"not in the catalog.*differs from 'i01' by capitals"):
        rec.similar("I01")


def test_new_items_must_be_new_and_whole(data, rec):
    for ids, vectors, words in [
        ([rec.catalog.ids[0]], None, "does not have"),
        (["a", "a"], None, "given once"),
        (["a", None], None, "type String"),
        ("a", None, "ids is 'a'; give a list"),
        ((one for one in "ab"), None, "ids is of type generator"),
        (["a"], torch.zeros(2, 8), r"vectors has shape \(2, 8\); it must be \(1, 8\)"),
        (["a"], torch.full((1, 8), torch.nan), r"vectors\.0\.0 is nan; every number"),
        (["a"], np.array([[0.0] * 7 + [np.inf]]), r"vectors\.0\.7 is inf"),
        (["a"], np.full((1, 8), 1e300), r"vectors\.0\.0 is 1e\+300; .* finite in torch.float32"),
        (["a"], torch.ones((1, 8), dtype=torch.bool), "vectors is of torch.bool"),
        (["a"], [["x"] * 8], "vectors is of type list; give a tensor"),
        (["a"], "x", "vectors is 'x'"),
    ]:
        with pytest.raises(UsageError, match=words):
            rec.with_items(ids, vectors)
    with pytest.raises(UsageError, match="counts items"):
        make(data, "popularity").with_items(["a"])


def test_public_names():
    assert longrec.load is load
    assert longrec.Recommender is Recommender
    for name in longrec.__all__:
        assert callable(getattr(longrec, name))
        # Importing a package of the same name would have put that in its place.
        assert getattr(longrec, name).__name__ == name
