"""The index of a recommender: chosen by the size of its catalog, built, measured, and kept.

RUN/index.faiss   cells of item vectors
RUN/index.json    which vectors they are of, how many cells are looked into, the recall measured
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from longrec.artifact.artifact import Artifact
from longrec.core.choices import IndexKind, check_choice
from longrec.core.errors import UsageError
from longrec.core.files import digest_of_file, sync, write_file
from longrec.retrieval.approximate import CellIndex, build_cells, faiss_package, item_model
from longrec.retrieval.exact import ExactIndex
from longrec.retrieval.index import Index
from longrec.retrieval.recall import queries_of, recall, searched

Progress = Callable[[float, float, str], None]

APPROXIMATE_FROM, WITHOUT_SCAN = 2_000_000, 300_000
"""Items from which "auto" takes the approximate index (docs/decisions/0015), and from which where
exact search has no scan in 8 bits, on a processor that does not multiply them fast."""
WANTED = 0.98
"""Recall@10 that an index is set for."""
FORMAT = 2
FILE, ABOUT = "index.faiss", "index.json"


class Built(NamedTuple):
    """An index, and what is known of its making; None of an exact one.

    about : "seconds", "bytes", "queries" (on whom recall was measured), "new" (built now).
    """

    found: Index
    about: dict[str, Any] | None


def open_index(
    artifact: Artifact, kind: IndexKind = "auto", progress: Progress | None = None
) -> Index:
    """The index of a recommender, read from its folder or built and kept there.

    Parameters
    ----------
    artifact : Artifact
    kind : {"auto", "exact", "approximate"}
        "auto": approximate from two million items on, exact below.
    progress : callable or None
        Called with (done, of all, what is done) while it is built.

    Raises
    ------
    UsageError
        When the model has no vectors to search approximately, or faiss is not installed.
    """
    return make_index(artifact, kind, progress).found


def make_index(
    artifact: Artifact, kind: IndexKind = "auto", progress: Progress | None = None
) -> Built:
    """See `open_index`."""
    check_choice("index", kind, IndexKind)
    if kind == "auto":
        kind = "approximate" if _is_large(artifact) else "exact"
    if kind == "exact":
        return Built(ExactIndex(artifact.model), None)
    vectors = item_model(artifact.model).item_vectors().detach().numpy()
    digest = hashlib.sha256(np.ascontiguousarray(vectors).data).hexdigest()
    return _read(artifact, digest) or _build(artifact, vectors, digest, progress)


def _is_large(artifact: Artifact) -> bool:
    """Whether exact search would take long, and there is another one."""
    try:
        item_model(artifact.model)
    except UsageError:
        return False
    items = artifact.catalog.n_items
    if items < min(APPROXIMATE_FROM, WITHOUT_SCAN):
        return False
    return items >= (APPROXIMATE_FROM if ExactIndex(artifact.model).in_8_bits else WITHOUT_SCAN)


def _read(artifact: Artifact, digest: str) -> Built | None:
    """The index that is kept, if there is one, whole, of these vectors."""
    folder = artifact.folder
    if folder is None or not (folder / ABOUT).is_file() or not (folder / FILE).is_file():
        return None
    try:
        about = json.loads((folder / ABOUT).read_text("utf-8"))
        fits = about["format"] == FORMAT and about["vectors"] == digest
        if not fits or about["sha256"] != digest_of_file(folder / FILE):
            return None
        cells = faiss_package().read_index(str(folder / FILE))
        looked_into, share = int(about["looked_into"]), float(about["recall"])
        if cells.ntotal != artifact.catalog.n_items or not 0 < looked_into <= cells.nlist:
            return None
        index = CellIndex(artifact.model, cells, looked_into, share)
    except (ValueError, KeyError, TypeError, RuntimeError, OSError):
        return None  # built anew
    return Built(index, {**_told(about), "new": False})


def _build(
    artifact: Artifact, vectors: np.ndarray, digest: str, progress: Progress | None
) -> Built:
    faiss_package()
    begun = perf_counter()
    cells = build_cells(vectors, progress)
    seconds = perf_counter() - begun
    if progress is not None:
        progress(0, 1, "measuring recall")
    index, words = _set(artifact, CellIndex(artifact.model, cells, 1))
    about = {
        "format": FORMAT,
        "name": index.name,
        "items": index.n_items,
        "vectors": digest,
        "looked_into": index.looked_into,
        "recall": index.recall,
        "queries": words,
        "seconds": round(seconds, 3),
    }
    about["bytes"] = _write(artifact.folder, cells, about)
    return Built(index, {**_told(about), "new": True})


def _set(artifact: Artifact, index: CellIndex) -> tuple[CellIndex, str]:
    """Look into as few cells as recall on one half of some users needs; measure on the other."""
    queries = queries_of(artifact)
    halves = [queries._replace(h=queries.h[at::2], barred=queries.barred[at::2]) for at in (0, 1)]
    whole = ExactIndex(artifact.model)
    exact = [searched(whole, half) for half in halves]
    cells = index.cells.nlist
    while recall(searched(index, halves[0]), exact[0]) < WANTED and index.looked_into < cells:
        index.looked_into = min(2 * index.looked_into, cells)
    index.recall = round(recall(searched(index, halves[1]), exact[1]), 4)
    return index, queries.words


def _write(folder: Path | None, cells: Any, about: dict[str, Any]) -> int:
    """Keep it if there is a folder that can be written to; -> its bytes."""
    faiss = faiss_package()
    if folder is None or not folder.is_dir():
        return len(faiss.serialize_index(cells))
    new = folder / f".{FILE}.tmp"
    try:
        faiss.write_index(cells, str(new))
        sync(new)
        size = new.stat().st_size
        about |= {"bytes": size, "sha256": digest_of_file(new)}
        # The one that stands there fits no description until the new one does.
        (folder / ABOUT).unlink(missing_ok=True)
        new.replace(folder / FILE)
        write_file(folder / ABOUT, json.dumps(about, indent=2) + "\n")
    except (OSError, RuntimeError):  # a folder that is only to be read: built again next time
        size = len(faiss.serialize_index(cells))
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)
    return int(size)


def _told(about: dict[str, Any]) -> dict[str, Any]:
    return {key: about.get(key) for key in ("seconds", "bytes", "queries", "looked_into")}
