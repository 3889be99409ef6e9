"""An export's folder: written whole or not at all, and checked by the digests in its manifest.

FOLDER/
  manifest.json             the tensors, how to score, digests of all files, parity, provenance
  items.parquet             index (from 1), id, count
  item_vectors.npy          (n_items + 1, D) float32, what is scored, row 0 is padding; of models
                            that count there are none
  item_bias.npy             (n_items + 1,) where items have biases; float64 of models that count
  followers.npz             what users' last items add to scores, where they do (export/rows.py)
  read_vectors.npy          what the graphs read, where it is not item_vectors.npy
  step.onnx, prefill.onnx   of a model with a state; or encode.onnx, of one with a window
  user.onnx                 the users' vectors, of a model where these are not h itself
  index.faiss               where the run has an approximate index
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from longrec.artifact.artifact import Artifact
from longrec.artifact.provenance import command, commit
from longrec.core.errors import UsageError, absent
from longrec.core.machine import versions
from longrec.core.sealed import SealedKind
from longrec.data.catalog import Catalog
from longrec.export.graphs import (
    READ_TABLE,
    TABLE,
    WINDOW,
    check_exports,
    graphs_of,
    layout_of,
    write_graph,
)
from longrec.export.parity import BIAS, TOLERANCE, check_parity
from longrec.export.rows import Counted, counted_rows, write_rows
from longrec.models import Model, SequenceModel
from longrec.retrieval.approximate import RESCORED, CellIndex
from longrec.retrieval.cells import arrays_of, cells_of, faiss_package, lists_of
from longrec.retrieval.index_cache import FILE, open_index
from longrec.serving.records.record import flat

ITEMS, INDEX = "items.parquet", "index.faiss"
EXPORT = SealedKind(
    "an export",
    "manifest.json",
    version=1,
    mend="copy the whole folder again, or export the run again",
    made_by="longrec export RUN FOLDER",
    keys={"graphs": dict},
)
NEEDED = ("onnx", "onnxscript", "onnxruntime")
TORCH = (2, 13)
"""What exports: the exporter of 2.11 fixes the number of users in a graph."""

Manifest = dict[str, Any]
Progress = Callable[[float, float, str], None]


def export(
    artifact: Artifact,
    folder: str | Path,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
) -> Manifest:
    """Write what it takes to serve a recommender without PyTorch, compared with the model.

    Parameters
    ----------
    artifact : Artifact
        With a model that streams exactly, counts, or reads a window of last events.
    folder : str or Path
        New, or empty.
    progress : callable or None
        Called with (parts done, of all, what is being done).
    overwrite : bool
        Whether an export that stands there may be replaced, once the new one is whole.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    UsageError
        When the model cannot be exported, a package is missing, or the folder holds anything else.
    LongrecError
        When ONNX Runtime does not give the model's scores; nothing is left behind.
    DataError
        When the folder cannot be written.
    """
    EXPORT.check_replaceable(Path(folder), overwrite=overwrite)
    artifact = artifact.on_cpu()
    model, counted = check_exports(artifact.scorer), counted_rows(artifact.scorer)
    if isinstance(model, SequenceModel):
        _check_graphs(model)
    with EXPORT.writing(Path(folder), overwrite=overwrite) as work:
        return _write(work, artifact, model, counted, progress or (lambda done, total, words: None))


def _check_graphs(model: SequenceModel) -> None:
    """Raise UsageError where a model's graphs cannot be made: its type, packages, PyTorch."""
    if model.items.dtype != torch.float32:
        raise UsageError(
            f"the model is in {model.items.dtype}; an export is of float32: load the run again"
        )
    for package in NEEDED:
        try:
            import_module(package)
        except ModuleNotFoundError as error:
            raise absent("exporting", error, "export") from error
    if torch_version() < TORCH:
        raise UsageError(
            f"exporting needs PyTorch {'.'.join(map(str, TORCH))} or newer, and this is "
            f"{torch.__version__}: export with a newer one, which reads the same runs"
        )


def torch_version() -> tuple[int, ...]:
    """The first two numbers of PyTorch's version."""
    return tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])


def _write(
    work: Path, artifact: Artifact, model: Model, counted: Counted | None, progress: Progress
) -> Manifest:
    """Write all files of an export into a folder."""
    window = artifact.limit if model.streaming == "windowed" else None
    graphs = graphs_of(model, window)
    parts = len(graphs) + 2
    progress(0, parts, "what is known of items")
    _save_items(artifact.catalog, work / ITEMS)
    dim, bias = None, artifact.scorer.bias()
    if isinstance(model, SequenceModel):
        vectors = artifact.item_vectors()
        dim = vectors.shape[1]
        _save_table(vectors, work / TABLE)
        if vectors.data_ptr() != model.items.data_ptr():
            _save_table(model.items, work / READ_TABLE)
        bias = None if bias is None else bias.to(vectors)
    if bias is not None:
        _save_table(bias, work / BIAS)
    rows = None if counted is None else write_rows(counted, work)
    written = {}
    for number, graph in enumerate(graphs, 1):
        progress(number, parts, f"{graph.name} to ONNX")
        written[graph.name] = write_graph(graph, work)
    index = _copy_index(artifact, work)
    progress(parts - 1, parts, "ONNX Runtime against PyTorch")
    scoring = {
        "score": ", plus ".join(
            words
            for words, there in (
                ("the largest inner product of a user's vector and the item's", dim),
                ("the item's bias", bias is not None),
                ("what the user's last items add to it", rows),
            )
            if there
        ),
        "user": None if dim is None else "output" if window is None else "h",
        "user_graph": "user" if "user" in written else None,
        "items": None if dim is None else f"{TABLE}, row i is the item of index i",
        "bias": None if bias is None else BIAS,
        "rows": rows,
        "padding": 0,
        "exclude_seen": artifact.exclude_seen,
        "ties": "of equal scores the smaller index comes first",
    }
    parity = check_parity(artifact.scorer, work, window, rows)
    about: Manifest = {
        "longrec": versions()["longrec"],
        "model": artifact.name,
        "settings": asdict(artifact.model_config),
        "state_digest": artifact.state_digest,
        "catalog_version": artifact.catalog_version,
        "items": artifact.catalog.n_items,
        "dim": dim,
        "reads_times": model.takes_times,
        "events_per_prefill": WINDOW if "prefill" in written else None,
        "events_per_encode": window,
        "state": _empty_state(model) if isinstance(model, SequenceModel) and window is None else [],
        "graphs": written,
        "scoring": scoring,
        "index": index,
        "parity": {
            **parity._asdict(),
            "allowed_of_spread": TOLERANCE,
            "onnxruntime": import_module("onnxruntime").__version__ if written else None,
        },
        "provenance": {
            "command": command(),
            "commit": commit(),
            "versions": versions(),
            "exported": datetime.now(UTC).isoformat(timespec="seconds"),
            "run": artifact.provenance,
        },
    }
    json.dumps(about, allow_nan=False)  # other languages read no NaN
    manifest = EXPORT.describe(about, sorted(work.iterdir()))
    EXPORT.write(work, manifest)
    progress(parts, parts, "written")
    return manifest


def _save_table(table: torch.Tensor, path: Path) -> None:
    np.save(path, table.detach().contiguous().numpy(), allow_pickle=False)


def _save_items(catalog: Catalog, path: Path) -> None:
    """Ids by index, and how often each occurred: what users without events are recommended by."""
    index = np.arange(1, catalog.n_items + 1, dtype=np.int32)
    table = pa.table({"index": index, "id": catalog.ids.to_arrow(), "count": catalog.counts})
    pq.write_table(table, str(path), compression="zstd")


def _copy_index(artifact: Artifact, work: Path) -> dict[str, Any] | None:
    """Write the run's approximate index, built anew if it is of other vectors.

    Returns how it is searched, or None where the run has none.
    """
    if artifact.folder is None or not (artifact.folder / FILE).is_file():
        return None
    index = open_index(artifact, "approximate").index
    assert isinstance(index, CellIndex)
    arrays, width = arrays_of(index.cells), index.cells.d
    # faiss would write where lists stand that processes hold together, and not what is in them.
    whole = cells_of(lists_of(arrays, index.n_items, width), width)
    faiss_package().write_index(whole, str(work / INDEX))
    return {
        "file": INDEX,
        "name": index.name,
        "nprobe": index.probes,
        "bias_is_last": artifact.scorer.has_bias,  # users' vectors get a 1 as their last number
        "rescored_per_item": RESCORED,
        "recall@10": index.recall,
    }


def _empty_state(model: SequenceModel) -> list[dict[str, Any]]:
    """The state's tensors, and the number that each is filled with before the first event.

    Numbers are text, since JSON has no -inf and many of its readers no 64-bit integers.
    """
    tensors = []
    for name, tensor in zip(layout_of(model).fields, flat(model.initial_state(1)), strict=True):
        values = np.unique(tensor.numpy())
        assert len(values) <= 1, f"{name} does not begin as one number"
        tensors.append(
            {
                "name": name,
                "dtype": tensor.numpy().dtype.name,
                "shape": ["B", *tensor.shape[1:]],
                "fill": str(values[0]) if len(values) else "0",
            }
        )
    return tensors
