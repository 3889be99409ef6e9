"""A recommender's folder: written whole or not at all, and checked when it is read.

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
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from longrec.core.errors import DataError, LongrecError
from longrec.core.files import digest_of_file, sync
from longrec.core.sealed import SealedKind, read_json
from longrec.data.catalog import Catalog

FILES = ("model.safetensors", "catalog.parquet", "provenance.json")
ADDED = "added_score.safetensors"
OF_EVALUATION = ("metrics.json", "ranks.parquet")
RECOMMENDER = SealedKind(
    "a recommender",
    "config.json",
    version=1,
    mend="copy the whole folder again, or retrain",
    made_by="longrec train",
    keys={"model": str, "model_config": dict, "train_config": dict, "items": int},
    files=FILES,
)


class Saved(NamedTuple):
    """What a folder holds; `added`: of an added score, {} where there is none."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    catalog: Catalog
    provenance: dict[str, Any]
    added: dict[str, Tensor]


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    catalog: Catalog,
    provenance: Mapping[str, Any],
    added: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a recommender; config.json, without which the folder is none, comes last.

    `added`: tensors of an added score, if there is one.

    Raises
    ------
    LongrecError
        When it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECOMMENDER.document).unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
            work = Path(temporary)
            _save_tensors(weights, work / FILES[0])
            catalog.save(work / FILES[1])
            (work / FILES[2]).write_text(json.dumps(provenance, indent=1), encoding="utf-8")
            files: tuple[str, ...] = FILES
            if added is not None:
                files = (*FILES, ADDED)
                _save_tensors(added, work / ADDED)
            about = {**config, "items": catalog.n_items}
            document = RECOMMENDER.describe(about, [work / name for name in files])
            if any(_digest(folder / n) != document["digests"].get(n) for n in (FILES[0], ADDED)):
                for name in OF_EVALUATION:  # of other scores, which stood here before
                    (folder / name).unlink(missing_ok=True)
            if added is None:
                (folder / ADDED).unlink(missing_ok=True)
            for name in files:
                sync(work / name)
                os.replace(work / name, folder / name)
        RECOMMENDER.write(folder, document)
    except (OSError, SafetensorError) as error:
        raise LongrecError(f"{folder}: the recommender was not saved: {error}") from error


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
    config = RECOMMENDER.read(folder)
    catalog = Catalog.load(folder / "catalog.parquet")
    if catalog.n_items != config["items"]:
        raise DataError(
            f"{folder / 'catalog.parquet'} has {catalog.n_items:,} items, config.json says "
            f"{config['items']}: {RECOMMENDER.mend}."
        )
    provenance = read_json(folder / "provenance.json", RECOMMENDER.mend)
    weights = _load_tensors(folder / FILES[0])
    added = _load_tensors(folder / ADDED) if ADDED in config["digests"] else {}
    return Saved(config, weights, catalog, provenance, added)


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, path)


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path} is damaged ({error}): {RECOMMENDER.mend}.") from error


def _digest(path: Path) -> str | None:
    return digest_of_file(path) if path.is_file() else None


def digest_of_weights(weights: Mapping[str, Tensor], **also: Any) -> str:
    """SHA-256 of weights, their names, types and shapes, and of further plain values, in hex."""
    hasher = hashlib.sha256(json.dumps(also, sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        hasher.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        hasher.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
