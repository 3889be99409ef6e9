"""Checkpoints that a kill at any moment cannot spoil: tensors and JSON, never a pickle.

A checkpoint is a folder `checkpoint-NUMBER` with `tensors.safetensors` and `state.json`, written
under a hidden name, synced and renamed; the older one goes only after the newer one stands, and
under a hidden name again, so that no half-written or half-removed folder is ever read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from longrec.core.errors import DataError
from longrec.core.files import sync

FORMAT = 1
PREFIX = "checkpoint-"


def save_checkpoint(run: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint of `run` and drop the older ones."""
    older = _checkpoints(run)
    for leftover in run.glob(f".{PREFIX}*"):  # of a run that was killed
        shutil.rmtree(leftover)
    number = 1 + (int(older[-1].name.removeprefix(PREFIX)) if older else 0)
    temporary = run / f".{PREFIX}new"
    temporary.mkdir()
    save_file({k: v.contiguous() for k, v in tensors.items()}, temporary / "tensors.safetensors")
    (temporary / "state.json").write_text(json.dumps({"format": FORMAT, **state}))
    for name in ("tensors.safetensors", "state.json"):
        sync(temporary / name)
    sync(temporary)
    os.replace(temporary, run / f"{PREFIX}{number:09d}")
    sync(run)
    _remove(older)


def load_checkpoint(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Newest checkpoint of `run` as (tensors, state), or None when there is none."""
    found = _checkpoints(run)
    if not found:
        return None
    folder = found[-1]
    try:
        state = dict(json.loads((folder / "state.json").read_text()))
        tensors = load_file(folder / "tensors.safetensors")
    except (OSError, TypeError, ValueError, SafetensorError) as error:
        raise DataError(
            f"{folder}: the checkpoint cannot be read ({error}). Remove this folder and train "
            "again without --resume."
        ) from error
    if state.get("format") != FORMAT:
        raise DataError(
            f"{folder}: the checkpoint has format {state.get('format')}, this longrec reads "
            f"{FORMAT}. Resume with the version that wrote it, or train again."
        )
    del state["format"]
    return tensors, state


def drop_checkpoints(run: Path) -> None:
    """Remove the checkpoints of a run that has ended."""
    _remove(_checkpoints(run))


def _checkpoints(run: Path) -> list[Path]:
    return sorted(run.glob(f"{PREFIX}{'[0-9]' * 9}"))


def _remove(folders: list[Path]) -> None:
    """Remove folders, each first out of sight: a kill half-way leaves nothing that looks whole."""
    for folder in folders:
        hidden = folder.with_name(f".{folder.name}")
        os.replace(folder, hidden)
        shutil.rmtree(hidden)
