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
from longrec.core.sealed import SealedKind

PREFIX = "checkpoint-"
CHECKPOINT = SealedKind(
    "a checkpoint",
    "state.json",
    version=1,
    mend="remove the checkpoint's folder and train again without --resume",
    made_by="longrec train",
    with_digests=False,  # it is written each minute, and the tensors' own header tells of a cut
    files=("tensors.safetensors",),
)


def save_checkpoint(run: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint of `run` and drop the older ones."""
    older = _checkpoints(run)
    for leftover in run.glob(f".{PREFIX}*"):  # of a run that was killed
        shutil.rmtree(leftover)
    number = 1 + (int(older[-1].name.removeprefix(PREFIX)) if older else 0)
    temporary = run / f".{PREFIX}new"
    temporary.mkdir()
    save_file({k: v.contiguous() for k, v in tensors.items()}, temporary / "tensors.safetensors")
    (temporary / CHECKPOINT.document).write_text(json.dumps(CHECKPOINT.describe(state)))
    for name in (*CHECKPOINT.files, CHECKPOINT.document):
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
    state = CHECKPOINT.read(folder)
    try:
        tensors = load_file(folder / "tensors.safetensors")
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{folder / 'tensors.safetensors'} is damaged ({error}): {CHECKPOINT.mend}."
        ) from error
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
