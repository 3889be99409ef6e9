"""The index of a recommender: chosen by the size of its catalog, built, measured, and saved.

RUN/index.safetensors   cells of item vectors, as arrays (`longrec.retrieval.cells`)
RUN/index.json          which vectors they are of, how many cells are probed, the recall measured
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from longrec.artifact.artifact import Artifact
from longrec.core.choices import IndexKind, check_choice
from longrec.core.errors import DataError, first_line
from longrec.core.files import digest_of_file, sync, write_file
from longrec.core.rights import as_usual
from longrec.core.sealed import SealedKind
from longrec.core.shared import shared
from longrec.retrieval.approximate import CellIndex
from longrec.retrieval.cells import arrays_of, build_cells, cells_of, lists_of, shapes_of
from longrec.retrieval.exact import ExactIndex
from longrec.retrieval.index import Index
from longrec.retrieval.recall import queries_of, recall, search_each
from longrec.retrieval.vectors import ItemVectors, checked_vectors, vectors_of

Progress = Callable[[float, float, str], None]

APPROXIMATE_FROM, WITHOUT_SCAN = 2_000_000, 300_000
"""Items from which "auto" takes the approximate index (docs/decisions/0015), and from which where
exact search has no scan in 8 bits, on a processor that does not multiply them fast."""
WANTED = 0.98
"""Recall@10 that an index is set for."""
FILE = "index.safetensors"
LONGEST_HEADER = 4096
"""Bytes of the names and shapes of the arrays."""
SAVED_INDEX = SealedKind(
    "a run with an index",
    "index.json",
    version=3,
    mend="it is built anew",
    made_by="longrec index",
    with_digests=False,  # its one digest is called "sha256"
    keys={"vectors": str, "sha256": str, "looked_into": int, "recall": float},
    files=(FILE,),
    most_bytes=1 << 16,
)
FACTS = ("seconds", "bytes", "queries", "looked_into")


@dataclass(frozen=True)
class IndexWithFacts:
    """An index, and how it was made.

    facts : "seconds", "bytes", "queries" (on whom recall was measured), "looked_into" (cells probed
    per user vector), "new" (built now); empty of an exact one.
    """

    index: Index
    facts: dict[str, Any]


def open_index(
    artifact: Artifact, kind: IndexKind = "auto", progress: Progress | None = None
) -> IndexWithFacts:
    """The index of a recommender, read from its folder or built and saved there.

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
    check_choice("index", kind, IndexKind)
    artifact = artifact.on_cpu()
    if kind != "approximate":
        exact = ExactIndex(artifact.scorer)
        large = exact.n_items >= (APPROXIMATE_FROM if exact.in_8_bits else WITHOUT_SCAN)
        if kind == "exact" or not large or vectors_of(artifact.scorer) is None:
            return IndexWithFacts(exact, {})
    vectors = checked_vectors(artifact.scorer)
    digest = vectors.digest()
    saved = _read(artifact, vectors, digest)
    index, document = saved or _build(artifact, vectors, digest, progress)
    if saved is None:  # what was saved can be held together with others
        index, document = _read(artifact, vectors, digest) or (index, document)
    facts = {key: document.get(key) for key in FACTS} | {"new": saved is None}
    return IndexWithFacts(index, facts)


def _read(
    artifact: Artifact, vectors: ItemVectors, digest: str
) -> tuple[CellIndex, dict[str, Any]] | None:
    """The index that was saved, if there is one, whole, of these vectors; and its document."""
    folder = artifact.folder
    if folder is None:
        return None
    n_items, width = artifact.catalog.n_items, vectors.width
    try:
        document = SAVED_INDEX.read(folder)
        if document["vectors"] != digest:
            return None
        size, sha256 = (n_items, width), document["sha256"]
        key = hashlib.sha256(f"{size} {sha256}".encode()).hexdigest()
        lists = shared(
            f"cells-{key}", lambda: lists_of(_read_arrays(folder / FILE, sha256, *size), *size)
        )
        cells = cells_of(lists, width)
    except (DataError, OSError):
        return None  # built anew
    probes, found = document["looked_into"], document["recall"]
    if not (0 < probes <= cells.nlist and 0 <= found <= 1):
        return None
    return CellIndex(artifact.scorer, cells, probes, found), document


def _read_arrays(path: Path, digest: str, n_items: int, width: int) -> dict[str, np.ndarray]:
    """The arrays in a file with a digest, which is not looked into unless it is as large as theirs.

    Raises
    ------
    DataError
        When it is another file.
    """
    shapes = shapes_of(n_items, width).values()
    largest = 8 + LONGEST_HEADER + sum(prod(shape) * kind.itemsize for shape, kind in shapes)
    if path.stat().st_size > largest:
        raise DataError(f"{path} is larger than cells of these vectors are")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError(f"{path} is not what was saved")
    try:
        return load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: a type that NumPy does not have
        raise DataError(f"{path} is damaged ({first_line(error)})") from error


def _build(
    artifact: Artifact, vectors: ItemVectors, digest: str, progress: Progress | None
) -> tuple[CellIndex, dict[str, Any]]:
    """A new index, saved if that can be; and its document."""
    begun = perf_counter()
    cells = build_cells(vectors.part(0, len(vectors)), progress)
    seconds = perf_counter() - begun
    if progress is not None:
        progress(0, 1, "measuring recall")
    index = CellIndex(artifact.scorer, cells, 1)
    queries = _set_probes(artifact, index)
    document = SAVED_INDEX.describe(
        {
            "name": index.name,
            "items": index.n_items,
            "vectors": digest,
            "looked_into": index.probes,
            "recall": index.recall,
            "queries": queries,
            "seconds": round(seconds, 3),
        }
    )
    _save(artifact.folder, cells, document)
    return index, document


def _set_probes(artifact: Artifact, index: CellIndex) -> str:
    """Probe as few cells as recall on one half of some users needs; measure it on the other.

    Returns who these users are.
    """
    queries = queries_of(artifact)
    halves = [queries.some(slice(n, None, 2)) for n in (0, 1)]
    exact_index = ExactIndex(artifact.scorer)
    exact = [search_each(exact_index, half) for half in halves]
    cells = index.cells.nlist
    while recall(search_each(index, halves[0]), exact[0]) < WANTED and index.probes < cells:
        index.probes = min(2 * index.probes, cells)
    index.recall = round(recall(search_each(index, halves[1]), exact[1]), 4)
    return queries.words


def _save(folder: Path | None, cells: Any, document: dict[str, Any]) -> None:
    """Save the cells if there is a folder that can be written to; say in the document how large."""
    arrays = arrays_of(cells)
    if folder is not None and folder.is_dir():
        new, path = folder / f".{FILE}.tmp", folder / SAVED_INDEX.document
        try:
            save_file(arrays, new)
            as_usual(new)
            sync(new)
            document |= {"bytes": new.stat().st_size, "sha256": digest_of_file(new)}
            path.unlink(missing_ok=True)  # it describes the cells that stood there
            new.replace(folder / FILE)
            write_file(path, json.dumps(document, indent=2) + "\n")
        except (
            OSError,
            SafetensorError,
        ):  # a folder that is only to be read: built again next time
            pass
        finally:
            with suppress(OSError):
                new.unlink(missing_ok=True)
    if "bytes" not in document:
        document["bytes"] = sum(array.nbytes for array in arrays.values())
