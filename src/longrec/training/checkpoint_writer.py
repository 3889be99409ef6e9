"""Checkpoints written beside the training, which waits only while they are copied in memory."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from longrec.training.checkpoint import save_checkpoint


class CheckpointWriter:
    """Writes a run's checkpoints in one thread of its own, at most one at a time.

    What training goes on to change is copied first, into memory that is kept for the next
    checkpoint: as much as weights, their average and the optimiser's moments take, on the CPU. The
    best weights are not copied: whoever changes them calls `best_changes` before. They are written
    once, until they change.

    Used as a context: at its end what is being written is finished, and a failure raised, unless
    another error is on its way.

    Parameters
    ----------
    run : Path
        The folder of the checkpoints.
    best_is_written : bool
        Whether the newest checkpoint there has the best weights.
    """

    def __init__(self, run: Path, best_is_written: bool = False) -> None:
        self.run, self.best_is_written = run, best_is_written
        self._copies: dict[str, Tensor] = {}
        self._thread = ThreadPoolExecutor(1, "longrec-checkpoint")
        self._writing: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._writing is not None and not self._writing.done()

    def save(
        self, tensors: Mapping[str, Tensor], best: Mapping[str, Tensor], state: Mapping[str, Any]
    ) -> None:
        """Begin to write a checkpoint, after the one before; see `save_checkpoint`."""
        self.wait()
        self._copies = {name: self._copy(name, tensor) for name, tensor in tensors.items()}
        new = None if self.best_is_written else best
        self._writing = self._thread.submit(self._write, self._copies, new, state)

    def best_changes(self) -> None:
        """Wait until the best weights are not being read; the next checkpoint writes them anew."""
        self.wait()
        self.best_is_written = False

    def check(self) -> None:
        """Raise what made the last checkpoint fail, if it did."""
        if not self.busy:
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is being written, and check."""
        if (writing := self._writing) is not None:
            wait([writing])  # an interrupt here forgets nothing
            self._writing = None
            writing.result()

    def __enter__(self) -> Self:
        # The thread starts here, where Ctrl-C meanwhile finds nothing half done.
        self._thread.submit(int).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if error is None:
            self.wait()

    def _write(
        self, tensors: Mapping[str, Tensor], best: Mapping[str, Tensor] | None, state: Any
    ) -> None:
        save_checkpoint(self.run, tensors, best, state)
        self.best_is_written = True

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        copy = self._copies.get(name)
        if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
            copy = torch.empty(tensor.shape, dtype=tensor.dtype)
        return copy.copy_(tensor.detach())
