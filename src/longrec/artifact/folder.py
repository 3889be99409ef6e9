"""A recommender's folder: replaced whole or not at all, and checked when it is read.

RUN/
  config.json          format, model, settings, digests of the next four files and its own
  model.safetensors    weights
  catalog.parquet      item ids and counts
  provenance.json      data, command, seed, commit, machine, how training ended
  known_answers.json   a few histories, what was scored for them, and a digest of the tensors
  added_score.safetensors       what an added score has counted, if there is one
  log.csv              one row per validation
  metrics.json, ranks.parquet   of the last evaluation
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from longrec.core.errors import DataError, LongrecError, first_line
from longrec.core.files import disk_full
from longrec.core.rights import as_usual
from longrec.core.sealed import SealedKind, is_of_type
from longrec.core.shared import is_held, key_of_file, shared
from longrec.data.catalog import Catalog

FILES = ("model.safetensors", "catalog.parquet", "provenance.json")
ADDED = "added_score.safetensors"
ANSWERS = "known_answers.json"
"""Of runs of format 2; those of format 1, of earlier versions of longrec, have none."""
COPIES = 3
"""Of a file that are in memory at once while it is loaded: as it is, as tensors, and shared."""
LONGEST_HEADER = 4 << 20
"""Bytes of the names and shapes of tensors: a model of 30,000 tensors has fewer."""
RECOMMENDER = SealedKind(
    "a recommender",
    "config.json",
    version=2,
    mend="copy the whole folder again, or retrain",
    made_by="longrec train",
    keys={"model": str, "model_config": dict, "train_config": dict, "items": int},
    files=FILES,
    also_reads=(1,),
    most_bytes=16 << 20,
    whole_in_memory=True,
)
OF_CONFIG: dict[str, tuple[type, ...]] = {
    "base_items": (int, type(None)),
    "exclude_seen": (bool,),
    "columns": (dict,),
    "added_score": (dict,),
}
OF_PROVENANCE: dict[str, tuple[type, ...]] = {
    "plugin": (str, type(None)),
    **dict.fromkeys(("data", "training", "refit", "warm_start"), (dict,)),
}
"""Types of what the documents may have besides, where something else could not be read."""
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
    """What a folder holds.

    added : tensors of an added score, {} where there is none; answers : None in format 1.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
    catalog: Catalog
    provenance: dict[str, Any]
    added: dict[str, Tensor]
    answers: dict[str, Any] | None
    tensors: str


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    catalog: Catalog,
    provenance: Mapping[str, Any],
    answers: Mapping[str, Any],
    added: Mapping[str, Tensor] | None = None,
) -> str:
    """Write a recommender in place of the one that may be there, at one instant.

    A failure or a kill leaves the old or the new one whole. The evaluation of other scores goes,
    every other file stays. `answers`: what `longrec.artifact.answers.ask` gives, and a digest;
    `added`: tensors of an added score, if there is one.

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
        RECOMMENDER.write_json(work / FILES[2], provenance)
        RECOMMENDER.write_json(work / ANSWERS, answers)
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
        return RECOMMENDER.read_json(path).get(key)
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
    where = folder / RECOMMENDER.document
    _check_types(where, config, OF_CONFIG)
    _check_columns(where, config.get("columns", {}))
    about = config.get("added_score")
    if about is not None:
        own = {"name": None, "config": None, **about}
        _check_types(
            where, own, {"name": (str,), "config": (dict,), "module": (str,)}, "added_score."
        )
    items, base = config["items"], config.get("base_items")
    if items < 1 or not (base is None or 1 <= base <= items):
        _damaged(where, f"items is {items!s:.40} and base_items {base!s:.40}")
    provenance = read_provenance(files[FILES[2]])
    answers = RECOMMENDER.read_json(files[ANSWERS]) if ANSWERS in files else None
    if answers is None and config["format"] != 1:
        _damaged(where, f"digests lacks {ANSWERS}")
    # Every model has a number for each item: no catalog is read that is larger than the weights.
    digests, checked = config["digests"], answers is not None
    weights = _load_tensors(files[FILES[0]], digests[FILES[0]], checked)
    numbers = sum(tensor.numel() for tensor in weights.values())
    if items > numbers:
        _damaged(where, f"{FILES[0]} has {numbers:,} numbers, and items is {items:,}")
    try:
        catalog = Catalog.load(files[FILES[1]], items)
    except DataError as error:
        raise DataError(f"{error} {RECOMMENDER.mend.capitalize()}.") from error
    added = _load_tensors(files[ADDED], digests[ADDED], checked) if ADDED in files else {}
    tensors = _tensors_in(digests)
    return Saved(config, weights, catalog, provenance, added, answers, tensors)


def read_provenance(path: Path) -> dict[str, Any]:
    """The provenance in a recommender's folder; DataError where it is damaged."""
    provenance = RECOMMENDER.read_json(path)
    _check_types(path, provenance, OF_PROVENANCE)
    return provenance


def _check_types(
    where: Path,
    document: Mapping[str, Any],
    types: Mapping[str, tuple[type, ...]],
    prefix: str = "",
) -> None:
    """Raise DataError for a key whose value is of none of its types; what is not there may lack."""
    for key, kinds in types.items():
        if key in document and not is_of_type(document[key], kinds):
            _damaged(where, f"{prefix}{key} is {document[key]!r:.40}")


def _check_columns(where: Path, columns: Mapping[str, Any]) -> None:
    for name, words in columns.items():
        of_words = isinstance(words, list) and all(isinstance(word, str) for word in words)
        if words is not None and not of_words:
            _damaged(where, f"columns.{name:.40} is {words!r:.40}")


def _damaged(where: Path, what: str) -> NoReturn:
    raise DataError(f"{where} is damaged ({what:.200}): {RECOMMENDER.mend}.")


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, path)
    as_usual(path)


def _load_tensors(path: Path, digest: str, checked: bool) -> dict[str, Tensor]:
    """The tensors of a file with a digest, held once by processes of one machine.

    Only those are that are compared with known answers afterwards (`checked`).
    """
    read = partial(_read_tensors, path, digest)
    return shared(key_of_file(digest), read) if checked else read()


def _read_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > LONGEST_HEADER:
            _damaged(path, f"its list of tensors would have {header:,} bytes")
        # Read, not mapped: who cuts a mapped file short, as copying over it does, ends the process.
        content = path.read_bytes()
        # It may have been replaced since its digest was taken, and others get what is read now.
        if hashlib.sha256(content).hexdigest() != digest:
            _damaged(path, "its digest differs: it was written over while it was read")
        return load(content)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is damaged ({first_line(error)}): {RECOMMENDER.mend}.") from error


def bytes_to_load(folder: Path) -> int:
    """Bytes that loading a recommender takes, at most; tensors that are held already take none.

    0 where there is no recommender, or none that can be loaded: who tries is told why.
    """
    digests = _entry(folder / RECOMMENDER.document, "digests")
    needed = 0
    for name in (*FILES, ADDED):
        digest = digests.get(name) if isinstance(digests, dict) else None
        held = (
            name in (FILES[0], ADDED) and isinstance(digest, str) and is_held(key_of_file(digest))
        )
        with suppress(OSError):
            needed += 0 if held else COPIES * (folder / name).stat().st_size
    return needed


def digest_of_tensors(weights: Mapping[str, Tensor], added: Mapping[str, Tensor] | None) -> str:
    """Digest of a recommender's tensors by their names, whatever file they stand in."""
    return digest_of_weights({**weights, **{f"added/{k}": x for k, x in (added or {}).items()}})


def digest_of_catalog(catalog: Catalog) -> str:
    """Digest of a catalog's ids and counts, whatever file they stand in."""
    return hashlib.sha256(catalog.digest.encode() + catalog.counts.tobytes()).hexdigest()


def digest_of_weights(weights: Mapping[str, Tensor], **also: Any) -> str:
    """SHA-256 of weights, their names, types and shapes, and of further plain values, in hex."""
    hasher = hashlib.sha256(json.dumps(also, sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        hasher.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        hasher.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
