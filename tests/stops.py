"""Trainings that are stopped between two steps, as a kill or an interrupt stops them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from longrec.training.fit import _Fit
from longrec.training.progress import FitStatus


@contextmanager
def told_of_steps(tell: Callable[[FitStatus], object]) -> Iterator[None]:
    """Within this every training tells its status after each step and validation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Fit, "report", lambda fitting, *_: tell(fitting.status))
        yield
