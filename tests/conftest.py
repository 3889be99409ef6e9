"""What all tests share: one thread, no deadlines, and tiny histories on disk."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from forking import ONE_THREAD, address_of_session
from hypothesis import settings
from small_histories import MakeHistories, tiny_histories, walks

from longrec.data.histories import Histories

gc.disable()  # while tests are imported and collected, of which next to nothing is freed
os.environ.pop("COLUMNS", None)  # readline sets it to 80, which workers inherit
torch.set_num_threads(1)
os.environ.update(ONE_THREAD)  # also in processes that tests start
LONG = (
    "test_scripts",
    "test_graphs",
    "test_properties",
    "test_resume",
    "test_other_device",
    "test_tune",
)
"""Files that take longest, in one of the suites: begun last they would keep one worker alone."""
STATE = tempfile.TemporaryDirectory(prefix="longrec-state-")
os.environ["XDG_STATE_HOME"] = STATE.name
settings.register_profile("longrec", deadline=None, derandomize=True)
settings.load_profile("longrec")


def pytest_configure(config: pytest.Config) -> None:
    """Where several workers run tests, one process forks for all of them."""
    if getattr(config.option, "numprocesses", None):
        address_of_session()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; all others in their order."""
    items.sort(key=lambda item: item.path.stem not in LONG)


def pytest_collection_finish() -> None:
    """What there is by now stays: collections of garbage need not go through it, and are rarer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10 * gc.get_threshold()[0])
    gc.enable()


@pytest.fixture
def make_histories(tmp_path: Path) -> MakeHistories:
    """Call it with rows (and times, n_items) to get histories in a folder of their own."""
    made = 0

    def make(
        rows: Sequence[Sequence[int]],
        times: Sequence[Sequence[int]] | None = None,
        n_items: int | None = None,
    ) -> Histories:
        nonlocal made
        made += 1
        return tiny_histories(tmp_path / f"histories{made}", rows, times, n_items)

    return make


@pytest.fixture
def ring() -> Callable[..., list[list[int]]]:
    """The walks above, as a fixture: ring(users, n_items, shortest, longest, seed)."""
    return walks
