"""What children replace before they are killed at an instant (see forking.py)."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from serving.small_streams import recommender
from small_histories import tiny_histories

from longrec.artifact.folder import EVALUATION
from longrec.data.write import write_histories as write_histories_folder
from longrec.recommender import Recommender

CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir")
WRITING = os.O_WRONLY | os.O_RDWR


def small_recommender(number: int) -> Recommender:
    """One of many recommenders of the same shape; `number` stands in its provenance."""
    rec = recommender("hydrarec")
    with torch.no_grad():
        rec.model.items.fill_(number)
    rec.provenance = {"number": number}
    return rec


def write_evaluation(folder: Path, number: int) -> None:
    """An evaluation whose two files tell the number."""

    def write(work: Path) -> None:
        (work / "ranks.parquet").write_text(str(number))

    EVALUATION.replace(folder, {"tensors": "t", "number": number}, write)


def write_histories(folder: Path, number: int) -> None:
    """Histories of equal sizes on disk, all of whose items are `number`."""
    overwrite = partial(write_histories_folder, overwrite=True)
    with patch("small_histories.write_histories", overwrite):
        tiny_histories(folder, [[number] * 4, [number] * 4], n_items=9)


WRITERS = {
    "recommender": lambda folder, number: small_recommender(number).save(folder),
    "evaluation": write_evaluation,
    "histories": write_histories,
}


def write_until(say: Any, kind: str, folder: str, number: int, instant: int) -> None:
    """Replace a folder, and be killed before change number `instant` of what is on the disk."""
    done = 0

    def count(event: str, args: tuple[Any, ...]) -> None:
        nonlocal done
        changes = event in CHANGES or (event == "open" and args[2] & WRITING)
        if changes and any(str(arg).startswith(os.path.dirname(folder)) for arg in args):
            done += 1
            if done > instant:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    WRITERS[kind](Path(folder), number)
    say("written")
