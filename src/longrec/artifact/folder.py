"""A recommender's folder: replaced whole or not at all, and checked when it is read.

RUN/
  config.json          format, model, settings, digests of the next three files and its own
  model.safetensors    weights
  catalog.parquet      item ids and counts
  provenance.json      data, command, seed, commit, machine, how training ended
  added_score.safetensors       what an added score has counted, if there is one
  log.csv              one row per validation
  metrics.json, ranks.parquet   of the last evaluation
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from longrec.core.errors import DataError, LongrecError, first_line
from longrec.core.files import disk_full
from longrec.core.rights import as_usual
from longrec.core.sealed import SealedKind, read_json
from longrec.data.catalog import Catalog

FILES = ("model.safetensors", "catalog.parquet", "provenance.json")
ADDED = "added_score.safetensors"
RECOMMENDER = SealedKind(
    "a recommender",
    "config.json",
    version=1,
    mend="copy the whole folder again, or retrain",
    made_by="longrec train",
    keys={"model": str, "model_config": dict, "train_config": dict, "items": int},
    files=FILES,
)
EVALUATION = SealedKind(
    "an evaluated recommender",
    "metrics.json",
    version=None,
    mend="evaluate it again",
    made_by="longrec evaluate RUN",
    keys={"tensors": str},  # `tensors_of` what was evaluated
    files=("ranks.parquet",),
)


class Saved(NamedTuple):
    """What a folder holds; `added`: of an added score, {} where there is none."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    catalog: Catalog
    provenance: dict[str, Any]
    added: dict[str, Tensor]
    tensors: str


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    catalog: Catalog,
    provenance: Mapping[str, Any],
    added: Mapping[str, Tensor] | None = None,
) -> str:
    """Write a recommender in place of the one that may be there, at one instant.

    A failure or a kill leaves the old or the new one whole. The evaluation of other scores goes,
    every other file stays. `added`: tensors of an added score, if there is one.

    Returns
    -------
    str
        Which tensors these are (`tensors_of` the folder).

    Raises
    ------
    LongrecError
        When it cannot be written.
    """

    def write(work: Path) -> None:
        _save_tensors(weights, work / FILES[0])
        catalog.save(work / FILES[1])
        (work / FILES[2]).write_text(json.dumps(provenance, indent=1), encoding="utf-8")
        if added is not None:
            _save_tensors(added, work / ADDED)

    before = tensors_of(folder)
    try:
        document = RECOMMENDER.replace(folder, {**config, "items": catalog.n_items}, write)
    except Exception as error:
        if not isinstance(error, OSError | SafetensorError) and disk_full(error) is None:
            raise
        why = first_line(error)
        raise LongrecError(f"{folder}: the recommender was not saved: {why}") from error
    now = _tensors_in(document["digests"])
    if before != now or evaluated_tensors(folder) not in (None, now):
        for name in (EVALUATION.document, *EVALUATION.files):
            with suppress(OSError):  # what stays is known to be of other tensors
                (folder / name).unlink()
    return now


def tensors_of(folder: Path) -> str | None:
    """What tells the tensors that give the scores of a folder's recommender; None without one.

    The SHA-256 of model.safetensors, and that of an added score's tensors if there are any.
    """
    digests = _entry(folder / RECOMMENDER.document, "digests")
    return _tensors_in(digests) if isinstance(digests, dict) else None


def _tensors_in(digests: Mapping[str, str]) -> str:
    return "+".join(digests[name] for name in (FILES[0], ADDED) if name in digests)


def evaluated_tensors(folder: Path) -> str | None:
    """The same of what was evaluated there; None where longrec 0.1.0 did, or nobody."""
    tensors = _entry(folder / EVALUATION.document, "tensors")
    return tensors if isinstance(tensors, str) else None


def _entry(path: Path, key: str) -> object:
    """What a JSON file has under a key; None where it has nothing."""
    try:
        return read_json(path, "").get(key)
    except DataError:
        return None


def read_folder(folder: Path) -> Saved:
    """Read what `write_folder` wrote, every file checked against its digest.

    Raises
    ------
    DataError
        When it is missing, unfinished, truncated, edited, or of another version.
    """
    if (folder / "training.json").is_file() and not (folder / RECOMMENDER.document).is_file():
        raise DataError(
            f"{folder} holds a training run that has not ended: go on with `longrec train "
            f"HISTORIES --out {folder} --resume`."
        )
    return RECOMMENDER.read_whole(folder, lambda config, files: _read(folder, config, files))


def _read(folder: Path, config: dict[str, Any], files: Mapping[str, Path]) -> Saved:
    catalog = Catalog.load(files["catalog.parquet"])
    if catalog.n_items != config["items"]:
        raise DataError(
            f"{folder / 'catalog.parquet'} has {catalog.n_items:,} items, config.json says "
            f"{config['items']}: {RECOMMENDER.mend}."
        )
    provenance = read_json(files["provenance.json"], RECOMMENDER.mend)
    weights = _load_tensors(files[FILES[0]])
    added = _load_tensors(files[ADDED]) if ADDED in files else {}
    return Saved(config, weights, catalog, provenance, added, _tensors_in(config["digests"]))


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, path)
    as_usual(path)


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        # Read, not mapped: who cuts a mapped file short, as copying over it does, ends the process.
        return load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is damaged ({error}): {RECOMMENDER.mend}.") from error


def digest_of_weights(weights: Mapping[str, Tensor], **also: Any) -> str:
    """SHA-256 of weights, their names, types and shapes, and of further plain values, in hex."""
    hasher = hashlib.sha256(json.dumps(also, sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        hasher.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        hasher.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
