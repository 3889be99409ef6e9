"""A recommender's folder: written so that it is whole or none, read so that damage is told.

RUN/
  config.json          format, model, settings, digests of the next three files and its own
  model.safetensors    weights
  catalog.parquet      item ids and counts
  provenance.json      data, command, seed, commit, machine, how training ended
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
from longrec.core.files import digest_of_config, digest_of_file, sync, write_file
from longrec.data.catalog import Catalog

FORMAT = 1
FILES = ("model.safetensors", "catalog.parquet", "provenance.json")
OF_EVALUATION = ("metrics.json", "ranks.parquet")
CONFIG = {"model": str, "model_config": dict, "train_config": dict, "items": int, "digests": dict}


class Saved(NamedTuple):
    """What a folder holds."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    catalog: Catalog
    provenance: dict[str, Any]


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    catalog: Catalog,
    provenance: Mapping[str, Any],
) -> None:
    """Write a recommender; config.json, without which the folder is none, comes last.

    Raises
    ------
    LongrecError
        When it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
            work = Path(temporary)
            save_file({k: v.contiguous().cpu() for k, v in weights.items()}, work / FILES[0])
            catalog.save(work / FILES[1])
            (work / FILES[2]).write_text(json.dumps(provenance, indent=1), encoding="utf-8")
            digests = {name: digest_of_file(work / name) for name in FILES}
            before = folder / FILES[0]
            if not before.is_file() or digest_of_file(before) != digests[FILES[0]]:
                for name in OF_EVALUATION:  # of another model, which stood here before
                    (folder / name).unlink(missing_ok=True)
            for name in FILES:
                sync(work / name)
                os.replace(work / name, folder / name)
        whole = {"format": FORMAT, **config, "items": catalog.n_items, "digests": digests}
        whole["digest"] = digest_of_config(whole)
        write_file(folder / "config.json", json.dumps(whole, indent=1))
    except (OSError, SafetensorError) as error:
        raise LongrecError(f"{folder}: the recommender was not saved: {error}") from error


def read_folder(folder: Path) -> Saved:
    """Read what `write_folder` wrote, every file held against its digest.

    Raises
    ------
    DataError
        When it is missing, unfinished, truncated, edited, or of another version.
    """
    config = _read_config(folder)
    for name in FILES:
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} is missing: copy the whole folder again, or retrain.")
        if digest_of_file(folder / name) != config["digests"].get(name):
            raise DataError(
                f"{folder / name} is not what was saved (its digest differs): it was truncated or "
                "edited. Copy the folder again, or retrain."
            )
    catalog = Catalog.load(folder / "catalog.parquet")
    if catalog.n_items != config["items"]:
        raise DataError(
            f"{folder / 'catalog.parquet'} has {catalog.n_items:,} items, config.json says "
            f"{config['items']}: copy the folder again, or retrain."
        )
    name = "provenance.json"
    try:
        provenance = dict(json.loads((folder / name).read_text(encoding="utf-8")))
        name = "model.safetensors"
        weights = load_file(folder / name)
    except (TypeError, ValueError, SafetensorError) as error:
        raise DataError(
            f"{folder / name} is damaged ({error}): copy the folder again, or retrain."
        ) from error
    return Saved(config, weights, catalog, provenance)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; a recommender is a folder that `longrec train` made.")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; train a recommender with `longrec train`.")
    if not path.is_file():
        unfinished = (folder / "training.json").is_file()
        raise DataError(
            f"{folder} holds a training run that has not ended: go on with `longrec train "
            f"HISTORIES --out {folder} --resume`."
            if unfinished
            else f"{folder} is not a recommender: it has no config.json."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        digest, version = config.pop("digest"), config["format"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is damaged ({error}): copy the folder again, or retrain."
        ) from error
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        raise DataError(
            f"{path} has format {version}, this longrec reads {FORMAT}: "
            + ("upgrade longrec." if newer else "retrain.")
        )
    if digest != digest_of_config(config):
        raise DataError(
            f"{path} was edited by hand (its digest differs): restore it, or train with the "
            "settings that you want."
        )
    for key, kind in CONFIG.items():
        if not isinstance(config.get(key), kind):
            raise DataError(f"{path} lacks {key!r}: copy the folder again, or retrain.")
    return dict(config)


def digest_of_weights(weights: Mapping[str, Tensor], **also: Any) -> str:
    """SHA-256 of weights, their names, types and shapes, and of further plain values, in hex."""
    hasher = hashlib.sha256(json.dumps(also, sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        hasher.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        hasher.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
