"""Sealed folders: one property over every kind of them, whatever happens to the files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
import torch
from serving.maintenance.small_stores import fill
from serving.small_streams import recommender
from small_histories import tiny_histories

from longrec.artifact.folder import RECOMMENDER
from longrec.comparison.plan import COMPARISON, Plan
from longrec.comparison.plan import read_plan as read_comparison
from longrec.core.errors import DataError, UsageError
from longrec.core.sealed import SealedKind, read_json
from longrec.data.histories import HISTORIES, open_histories
from longrec.export.folder import EXPORT
from longrec.recommender import load
from longrec.retrieval import index_cache
from longrec.retrieval.index_cache import SAVED_INDEX, open_index
from longrec.runs.folder import BEGUN_RUN, make_plan, read_plan, write_plan
from longrec.serving.maintenance.backup import BACKUP, backup
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Event
from longrec.training.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint


class Case(NamedTuple):
    """A kind, what writes a folder of it, and what uses one."""

    kind: SealedKind
    write: Callable[[Path], object]
    use: Callable[[Path], object]


def write_histories(folder: Path) -> None:
    tiny_histories(folder, [[1, 2, 3], [3, 2, 1]], [[1, 2, 3], [4, 5, 6]])


def write_backup(folder: Path) -> None:
    store = open_store(str(folder.with_name("store")), "process")
    fill(store, {b"ann": [Event(1, b"milk", None)]})
    backup(store, folder)
    store.close()


def write_index(folder: Path) -> None:
    open_index(load(recommender("elastic").save(folder)), "approximate")


def use_index(folder: Path) -> None:
    """An index is a cache: it is built anew where it cannot be used."""
    with mock.patch.object(index_cache, "_build", side_effect=DataError(SAVED_INDEX.mend)):
        open_index(load(folder), "approximate")


def write_export(folder: Path) -> None:
    """As tests/export writes real ones, but for what stands in the files."""
    folder.mkdir()
    for name in ("step.onnx", "item_vectors.npy", "items.parquet"):
        (folder / name).write_bytes(name.encode() * 9)
    EXPORT.write(folder, EXPORT.describe({"dim": 8, "graphs": {}}, sorted(folder.iterdir())))


def write_begun_run(folder: Path) -> None:
    folder.mkdir()
    data = tiny_histories(folder.with_name("histories"), [[1, 2, 3]])
    write_plan(folder, make_plan(data, "elastic", {}, None))


def write_checkpoint(folder: Path) -> None:
    folder.parent.mkdir(exist_ok=True)
    tensors = {"a": torch.arange(99.0)}
    save_checkpoint(folder.parent, tensors, tensors, {"epoch": 1})
    (folder.parent / "checkpoint-000000001").rename(folder)


def use_checkpoint(folder: Path) -> None:
    run = folder.with_name("run")
    run.mkdir(exist_ok=True)
    shutil.rmtree(run / "checkpoint-000000001", ignore_errors=True)
    shutil.copytree(folder, run / "checkpoint-000000001")
    load_checkpoint(run)


def write_comparison(folder: Path) -> None:
    folder.mkdir()
    Plan("histories", "f", ("elastic",), 2.0, {}, 1, "auto", 1).write(folder)


CASES = {
    "recommender": Case(RECOMMENDER, lambda folder: recommender("elastic").save(folder), load),
    "histories": Case(HISTORIES, write_histories, lambda folder: open_histories(folder).verify()),
    "backup": Case(BACKUP, write_backup, BACKUP.read),
    "export": Case(EXPORT, write_export, EXPORT.read),
    "index": Case(SAVED_INDEX, write_index, use_index),
    "begun run": Case(BEGUN_RUN, write_begun_run, read_plan),
    "checkpoint": Case(CHECKPOINT, write_checkpoint, use_checkpoint),
    "comparison": Case(COMPARISON, write_comparison, read_comparison),
}
BUILT_ANEW = ("index",)
"""Kinds that are caches: whatever is wrong, they are built anew."""
ABSENT_IS_NONE = ("begun run", "comparison")
"""Kinds of which a folder may have none: then nothing was begun there."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Callable[[str], Path]:
    """A folder of each kind, written once."""
    made: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("sealed") / "whole"
            CASES[name].write(made[name])
        return made[name]

    return folder_of


@pytest.fixture(params=CASES)
def name(request) -> str:
    return request.param


@pytest.fixture
def folder(name, whole, tmp_path) -> Path:
    """A copy of it, which a test may spoil."""
    return Path(shutil.copytree(whole(name), tmp_path / "folder"))


def files_of(name: str, folder: Path) -> list[str]:
    """The files besides the document that the folder's kind is about."""
    kind = CASES[name].kind
    digests = read_json(folder / kind.document, "").get("digests", {}) if kind.with_digests else {}
    return sorted({*kind.files, *digests})


def error_of(name: str, folder: Path) -> str | None:
    """What using the folder says is wrong, or None."""
    try:
        CASES[name].use(folder)
    except DataError as error:
        return str(error)
    return None


def fails(name: str, folder: Path, *words: str) -> None:
    """Using the folder says these words, the file's name among them, and what to do."""
    said = error_of(name, folder)
    assert said is not None
    if name in BUILT_ANEW:
        return
    for word in words:
        assert re.search(word, said), said
    assert CASES[name].kind.mend in said or "upgrade longrec" in said, said


def test_a_whole_folder_is_read(name, folder):
    CASES[name].use(folder)


def test_missing_files_are_named(name, folder):
    for file in files_of(name, folder):
        content = (folder / file).read_bytes()
        (folder / file).unlink()
        fails(name, folder, rf"{file} is missing")
        (folder / file).write_bytes(content)
        CASES[name].use(folder)


def test_cut_files_are_named(name, folder):
    for file in files_of(name, folder):
        content = (folder / file).read_bytes()
        for size in (0, len(content) // 2, len(content) - 1):
            (folder / file).write_bytes(content[:size])
            fails(name, folder, file, "truncated|damaged")
        (folder / file).write_bytes(content)


def test_flipped_bits_are_found(name, folder):
    if name == "checkpoint":
        pytest.skip("it has no digests: it is written each minute and read once")
    for file in files_of(name, folder):
        content = (folder / file).read_bytes()
        for place in (0, len(content) // 3, len(content) // 2, len(content) - 1):
            flipped = bytearray(content)
            flipped[place] ^= 1
            (folder / file).write_bytes(flipped)
            if name == "histories":  # what is between the columns of its files is nobody's content
                said = error_of(name, folder)
                assert said is None or str(folder) in said
                continue
            fails(name, folder, rf"{file} is not what was saved \(its digest differs\)")
        (folder / file).write_bytes(content)


def test_a_damaged_document_is_told(name, folder):
    path = folder / CASES[name].kind.document
    content = path.read_bytes()
    for bad in (b"", content[: len(content) // 2], b"[1, 2]", b"null", b"{}", b"\xff\xfe\x00"):
        path.write_bytes(bad)
        fails(name, folder, rf"{path.name} is damaged")


def test_other_versions_are_told(name, folder):
    kind = CASES[name].kind
    if kind.version is None:
        pytest.skip("it has no version")
    path, key = folder / kind.document, kind.version_key
    document = json.loads(path.read_text())
    words = key.replace("_", " ")
    for version, mend in ((99, "upgrade longrec"), (0, kind.mend), (None, kind.mend)):
        path.write_text(json.dumps(document | {key: version}))
        fails(name, folder, f"has {words} {version}, this longrec reads {kind.version}: {mend}")


def test_a_document_edited_by_hand_is_told(name, folder):
    kind = CASES[name].kind
    if not kind.with_digests:
        pytest.skip("its document has no digest")
    path = folder / kind.document
    document = json.loads(path.read_text())
    for key in document:
        if key in ("digest", kind.version_key):
            continue
        other = {} if isinstance(document[key], dict) else "another"
        if other == document[key] or not isinstance(other, kind.keys.get(key, type(other))):
            continue
        path.write_text(json.dumps(document | {key: other}))
        fails(name, folder, f"{path.name} was edited by hand")
    for key in (*kind.keys, "digests", "digest", kind.version_key):
        path.write_text(json.dumps({k: v for k, v in document.items() if k != key}))
        fails(name, folder, f"{path.name} is damaged .*lacks '{key}'")


def test_what_is_no_folder_of_the_kind_is_told(name, tmp_path):
    kind = CASES[name].kind
    with pytest.raises(DataError, match=rf"no such folder; `longrec .*` makes {kind.name}"):
        kind.read(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=rf"file is a file; {kind.name} is a folder that `longrec"):
        kind.read(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=rf"is not {kind.name}: it has no {kind.document}"):
        kind.read(tmp_path / "empty")
    if name in ABSENT_IS_NONE:
        assert CASES[name].use(tmp_path / "empty") is None


def test_only_a_folder_of_the_kind_is_replaced(name, folder, tmp_path):
    kind = CASES[name].kind
    with pytest.raises(UsageError, match=r"exists\. Name another folder.*overwrite=True"):
        kind.check_replaceable(folder, overwrite=False)
    kind.check_replaceable(folder, overwrite=True)
    mine = tmp_path / "mine"
    mine.mkdir()
    kind.check_replaceable(mine, overwrite=False)  # nothing is there
    (mine / kind.document).write_text('{"name": "a web page"}')
    for taken in (mine, mine / kind.document):
        for overwrite in (False, True):
            with pytest.raises(UsageError, match=rf"is not {kind.name}: it is left alone"):
                kind.check_replaceable(taken, overwrite=overwrite)
