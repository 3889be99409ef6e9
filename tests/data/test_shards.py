"""Histories in shards are read, trained on and evaluated as those of one folder."""

from __future__ import annotations

import json
import pickle
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import longrec
from longrec.core.errors import DataError
from longrec.data.about import about_histories
from longrec.data.catalog import Catalog
from longrec.data.histories import Histories, open_histories
from longrec.data.joined import Joined
from longrec.data.splits import make_split
from longrec.data.write import write_histories, write_shards


def made_up(path: Path, users: int = 30, seed: int = 3) -> Histories:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, 12, users)
    offsets = np.append(0, lengths.cumsum())
    items = draw.integers(1, 21, offsets[-1])
    times = draw.integers(1_600_000_000, 1_600_100_000, offsets[-1])
    for low, high in pairwise(offsets.tolist()):
        times[low:high].sort()
    counts = np.bincount(items, minlength=21)[1:]
    words = draw.integers(-1, 2, offsets[-1]).astype(np.int32)
    return write_histories(
        path,
        user_ids=pl.Series([f"u{n:03}" for n in range(users)]),
        offsets=offsets,
        items=items,
        times=times,
        catalog=Catalog(pl.Series([f"i{n}" for n in range(20)]), counts),
        extra={"weight": draw.random(offsets[-1]), "word": words},
        labels={"word": ["a", "b"]},
        source="made up",
        time_unit="s",
    )


def in_shards(whole: Histories, path: Path, cuts: list[int], overwrite: bool = False) -> Histories:
    """The same histories, cut before some users."""
    bounds = [0, *cuts, whole.n_users]

    def write(folder: Path) -> list[str]:
        names = []
        for number, (low, high) in enumerate(pairwise(bounds)):
            begin, end = int(whole.offsets[low]), int(whole.offsets[high])
            names.append(f"shard-{number:04}")
            write_histories(
                folder / names[-1],
                user_ids=whole.user_ids[low:high],
                offsets=whole.offsets[low : high + 1] - begin,
                items=whole.items[begin:end],
                times=None if whole.times is None else whole.times[begin:end],
                catalog=whole.catalog,
                extra={name: column[begin:end] for name, column in whole.extra.items()},
                labels=whole.meta.labels,
                source="made up",
                time_unit=whole.meta.time_unit,
            )
        return names

    return write_shards(path, write, source="made up", overwrite=overwrite)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Histories, Histories]:
    folder = tmp_path_factory.mktemp("shards")
    whole = made_up(folder / "whole")
    return whole, in_shards(whole, folder / "shards", [7, 8, 20])


def test_shards_have_the_content_of_one_folder(pair: tuple[Histories, Histories]) -> None:
    whole, shards = pair
    assert shards.fingerprint == whole.fingerprint
    assert shards.to_polars().equals(whole.to_polars())
    assert shards.history("u011").equals(whole.history("u011"))
    assert (shards.find_users(["u029", "u000", "no"]) == [29, 0, -1]).all()
    assert np.array_equal(shards.lengths, whole.lengths)
    shards.verify()
    again = pickle.loads(pickle.dumps(shards))  # as a loader's worker gets them
    assert again.fingerprint == whole.fingerprint
    ours, theirs = about_histories(shards), about_histories(whole)
    for key in ("lengths", "repeats", "time", "gaps", "popularity", "columns"):
        assert ours[key] == theirs[key]
    assert shards._repr_html_()


@pytest.mark.parametrize("protocol", ["leave-one-out", "global-time", "all"])
def test_shards_are_cut_as_one_folder(pair: tuple[Histories, Histories], protocol: str) -> None:
    whole, shards = pair
    ours, theirs = make_split(protocol, shards), make_split(protocol, whole)
    assert ours.notes == theirs.notes
    assert np.array_equal(ours.train_end, theirs.train_end)
    assert np.array_equal(ours.test.positions, theirs.test.positions)
    assert np.array_equal(ours.test.items, theirs.test.items)


def test_a_joined_column_reads_as_an_array() -> None:
    whole = np.arange(100, 112)
    joined = Joined([whole[:5], whole[5:5], whole[5:6], whole[6:]])
    assert joined.shape == whole.shape
    for at in (
        *(slice(None), slice(3, 8), slice(5, 5), slice(12, 20), slice(-4, None), slice(1, 11, 3)),
        *(0, -1, np.int64(5), np.array([[4, 5], [6, 11]]), np.array([], int), [-1, 2]),
        whole % 3 == 0,
    ):
        found, wanted = joined[at], whole[at]
        assert np.array_equal(found, wanted), at
        assert np.shape(found) == np.shape(wanted)
        assert found.dtype == wanted.dtype
    assert np.array_equal(joined - 100 > 3, whole - 100 > 3)
    assert np.array_equal(np.arange(200)[joined], np.arange(200)[whole])
    assert np.array_equal(np.isin(joined, [101]), np.isin(whole, [101]))
    assert (joined.min(), joined.max(), len(joined)) == (100, 111, 12)
    for at in (12, -13, [3, 12]):
        with pytest.raises(IndexError):
            joined[at]
    with pytest.raises(IndexError):
        joined[np.ones(3, bool)]


def test_shards_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    one = made_up(tmp_path / "one")
    other = made_up(tmp_path / "other", 20, seed=8)

    def of(*folders: Path) -> None:
        def write(folder: Path) -> list[str]:
            for path in folders:
                shutil.copytree(path, folder / path.name)
            return [path.name for path in folders]

        write_shards(tmp_path / "shards", write, source="made up")

    with pytest.raises(DataError, match="other and one differ in items: no shards of one"):
        of(one.path, other.path)
    shutil.copytree(one.path, tmp_path / "again")
    with pytest.raises(DataError, match="user 'u000' is in two shards"):
        of(one.path, tmp_path / "again")
    with pytest.raises(DataError, match="no events"):
        of()
    assert not (tmp_path / "shards").exists()


def test_a_shard_that_was_changed_is_told(tmp_path: Path) -> None:
    whole = made_up(tmp_path / "whole")
    shards = in_shards(whole, tmp_path / "shards", [10])
    stranger = in_shards(made_up(tmp_path / "s", seed=5), tmp_path / "x", [10])
    (shards.path / "shard-0001" / "users.arrow").touch()
    with pytest.raises(DataError, match=r"shard-0001/users\.arrow was changed"):
        shards.check()
    shutil.rmtree(shards.path / "shard-0001")
    with pytest.raises(DataError, match=r"shard-0001 is missing: prepare the log again"):
        open_histories(shards.path)
    shutil.copytree(stranger.path / "shard-0001", shards.path / "shard-0001")
    with pytest.raises(DataError, match=r"shard-0001 is not the shard that shards.json names"):
        open_histories(shards.path)
    shutil.rmtree(shards.path / "shard-0001")
    (shards.path / "shard-0001").symlink_to(shards.path)
    with pytest.raises(DataError, match=r"shards/shard-0001 is not a histories folder"):
        open_histories(shards.path)
    (shards.path / "shard-0001").unlink()
    document = json.loads((shards.path / "shards.json").read_text())
    document["shards"] = {"shard-0000": document["shards"]["shard-0000"]}
    (shards.path / "shards.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"says 30 users .* its 1 shards have 10"):
        open_histories(shards.path)
    document["shards"] = {"../whole": whole.fingerprint}
    (shards.path / "shards.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"names '../whole', which is no shard's folder"):
        open_histories(shards.path)
    shutil.rmtree(shards.path)
    assert in_shards(whole, shards.path, [10]).meta.shards.keys() == {"shard-0000", "shard-0001"}
    assert in_shards(whole, shards.path, [3], overwrite=True).meta.shards


@pytest.mark.slow
def test_training_on_shards_is_training_on_one_folder(
    tmp_path: Path, pair: tuple[Histories, Histories]
) -> None:
    metrics, lists = [], []
    for name, data in zip(("whole", "shards"), pair, strict=True):
        run = longrec.train(
            data, model="elastic", out=tmp_path / name, max_epochs=3, dim=8, seed=1, experts=2
        )
        metrics.append(longrec.evaluate(run, data, split="test"))
        lists.append(longrec.load(tmp_path / name).recommend(data=data.path, k=3))
    assert metrics[0]["ndcg@10"] == metrics[1]["ndcg@10"]
    assert lists[0].equals(lists[1])


WRONG = {
    "n_users": ["12", None, 1.5, True, -1, 10**30, [], {}, "\ud800"],
    "n_items": ["x", None, -1, 29.0],
    "n_events": [{}, False, 1e308],
    "has_time": ["yes", 1, None, False],
    "time_unit": [5, [], "\ud800"],
    "first_time": ["x", 1.5, None, 1 << 63, 1 << 62],
    "last_time": [[], True, -(1 << 62)],
    "dropped": [[], {"dedup": "x"}, {"dedup": -1}, 5],
    "source": [None, 5, "\udcff"],
    "fingerprint": [5, None, {}, "x", "A" * 64],
    "created": [5, {}],
    "files": [[], {"users.arrow": "x"}, {"users.arrow": True}],
    "labels": [{"type": "x"}, {"type": [1]}, []],
    "options": [None, 5, {"user": 5}, {"columns": "x"}, {"row_order": "no"}, {"odd": 1}],
    "shards": [{"shard-0000": 5}, {"shard-0000": None}, {"\ud800": "0" * 64}],
}
"""Of each field values that no `prepare` writes."""


def test_what_no_prepare_writes_is_told_by_its_field(tmp_path: Path) -> None:
    whole = made_up(tmp_path / "whole")
    shards = in_shards(whole, tmp_path / "shards", [10])
    for place in (whole.path / "meta.json", shards.path / "shards.json"):
        document = json.loads(place.read_text())
        assert WRONG.keys() == {"shards"} | document.keys() - {"schema_version"}
        for name, values in WRONG.items():
            for value in values:
                place.write_text(json.dumps(document | {name: value}))
                with pytest.raises(DataError) as told:
                    open_histories(place.parent)
                assert str(place) in str(told.value), (name, value)
                assert name in str(told.value), (name, value, str(told.value))
                assert "prepare the log again" in str(told.value), (name, value)
                assert "\n" not in str(told.value)
                assert str(told.value).encode(), "it can be printed"
                assert len(str(told.value)) < 400 + len(str(place)), (name, value)
        place.write_text(json.dumps(document))
        open_histories(place.parent).verify()
    place = whole.path / "meta.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"shards": {"x": "0" * 64}}))
    with pytest.raises(DataError, match=r"meta\.json has shards, which shards\.json alone names"):
        open_histories(whole.path)


def test_labels_that_events_have_and_the_document_lacks_are_found(tmp_path: Path) -> None:
    whole = made_up(tmp_path / "whole")
    place = whole.path / "meta.json"
    document = json.loads(place.read_text())
    [name] = document["labels"]
    document["labels"][name].pop()
    place.write_text(json.dumps(document))
    with pytest.raises(DataError, match=f"labels of {name}"):
        open_histories(whole.path).verify()
