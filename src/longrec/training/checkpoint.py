"""Checkpoints that a kill at any moment cannot spoil: tensors and JSON, never a pickle.

A checkpoint is a folder `checkpoint-NUMBER` with two files of tensors and `state.json`, written
under a hidden name, synced and renamed; the older one goes only after the newer one stands, and
under a hidden name again, so that no half-written or half-removed folder is ever read. The best
weights have a file of their own: while they stay, it is linked from one checkpoint to the next.
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

from longrec.core.errors import DataError, LongrecError, first_line
from longrec.core.files import sync
from longrec.core.rights import as_usual
from longrec.core.sealed import SealedKind

PREFIX = "checkpoint-"
NEW = f".{PREFIX}new"
"""The folder of a checkpoint that is being written."""
TENSORS, BEST = "tensors.safetensors", "best.safetensors"
CHECKPOINT = SealedKind(
    "a checkpoint",
    "state.json",
    version=2,
    mend="remove the checkpoint's folder and train again without --resume",
    made_by="longrec train",
    with_digests=False,  # it is written each minute, and the tensors' own header tells of a cut
    files=(TENSORS, BEST),
)


def save_checkpoint(
    run: Path,
    tensors: Mapping[str, Tensor],
    best: Mapping[str, Tensor] | None,
    state: Mapping[str, Any],
) -> None:
    """Write a checkpoint of `run` and drop the older ones.

    Parameters
    ----------
    run : Path
    tensors : mapping
        All that the next step depends on.
    best : mapping or None
        The best weights; None: those of the checkpoint before, which then must be there.
    state : mapping
        The rest, as JSON has it.
    """
    try:
        _write(run, tensors, best, state)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(run / NEW, ignore_errors=True)
        raise LongrecError(f"{run}: no checkpoint could be written: {first_line(error)}") from error


def _write(
    run: Path,
    tensors: Mapping[str, Tensor],
    best: Mapping[str, Tensor] | None,
    state: Mapping[str, Any],
) -> None:
    older = _checkpoints(run)
    for leftover in run.glob(f".{PREFIX}*"):  # of a run that was killed
        shutil.rmtree(leftover)
    number = 1 + (int(older[-1].name.removeprefix(PREFIX)) if older else 0)
    temporary = run / NEW
    temporary.mkdir()
    save_file(_contiguous(tensors), temporary / TENSORS)
    as_usual(temporary / TENSORS)
    if best is None:
        _link(older[-1] / BEST, temporary / BEST)
    else:
        save_file(_contiguous(best), temporary / BEST)
        as_usual(temporary / BEST)
    (temporary / CHECKPOINT.document).write_text(json.dumps(CHECKPOINT.describe(state)))
    for name in (*CHECKPOINT.files, CHECKPOINT.document):
        sync(temporary / name)
    sync(temporary)
    os.replace(temporary, run / f"{PREFIX}{number:09d}")
    sync(run)
    _remove(older)


def load_checkpoint(
    run: Path,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]] | None:
    """Newest checkpoint of `run` as (tensors, best weights, state), or None when there is none."""
    found = _checkpoints(run)
    if not found:
        return None
    folder = found[-1]
    state = CHECKPOINT.read(folder)
    del state["format"]
    return _read(folder / TENSORS), _read(folder / BEST), state


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is damaged ({error}): {CHECKPOINT.mend}.") from error


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _link(old: Path, new: Path) -> None:
    """Give a file a second name, or a copy where the file system has no such names."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copyfile(old, new)


def has_checkpoint(run: Path) -> bool:
    """Whether a run can go on from where it was."""
    return bool(_checkpoints(run))


def drop_checkpoints(run: Path) -> None:
    """Remove the checkpoints of a run."""
    _remove(_checkpoints(run))


def _checkpoints(run: Path) -> list[Path]:
    return sorted(run.glob(f"{PREFIX}{'[0-9]' * 9}"))


def _remove(folders: list[Path]) -> None:
    """Remove folders, each first out of sight: a kill half-way leaves nothing that looks whole."""
    for folder in folders:
        hidden = folder.with_name(f".{folder.name}")
        os.replace(folder, hidden)
        shutil.rmtree(hidden)
