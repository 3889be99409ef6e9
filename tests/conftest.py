"""What all tests share: one thread, no deadlines, and tiny histories on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from forking import ONE_THREAD, address_of_session
from hypothesis import settings

from longrec.data.catalog import Catalog
from longrec.data.histories import Histories, write_histories

torch.set_num_threads(1)
os.environ.update(ONE_THREAD)  # also in processes that tests start
settings.register_profile("longrec", deadline=None, derandomize=True)
settings.load_profile("longrec")


def pytest_configure(config: pytest.Config) -> None:
    """Where several workers run tests, one process forks for all of them."""
    if getattr(config.option, "numprocesses", None):
        address_of_session()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give to one worker what shares a module's fixture, so that it is made once.

    All other tests go to whichever worker is free (pytest-xdist's loadgroup).
    """
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        shared = [
            name
            for name, definitions in item._fixtureinfo.name2fixturedefs.items()
            if definitions[-1].scope == "module"
        ]
        if shared:
            params = item.callspec.indices if hasattr(item, "callspec") else {}
            ids = [str(params[name]) for name in sorted(shared) if name in params]
            item.add_marker(pytest.mark.xdist_group(" ".join([item.module.__name__, *ids])))


MakeHistories = Callable[..., Histories]


def tiny_histories(
    path: Path,
    rows: Sequence[Sequence[int]],
    times: Sequence[Sequence[int]] | None = None,
    n_items: int | None = None,
) -> Histories:
    """Histories with these item indices per user, at these times."""
    items = np.array([item for row in rows for item in row], dtype=np.int32)
    size = n_items or int(items.max(initial=0))
    moments = None if times is None else np.array([t for row in times for t in row])
    return write_histories(
        path,
        user_ids=pl.Series([f"user{n:05d}" for n in range(len(rows))]),
        offsets=np.cumsum([0, *map(len, rows)]),
        items=items,
        times=moments,
        catalog=Catalog(
            pl.Series(np.arange(1000, 1000 + size)),
            np.bincount(items, minlength=size + 1)[1:].astype(np.int64),
        ),
        source="test",
        time_unit=None if times is None else "s",
    )


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


def walks(users: int, n_items: int, shortest: int, longest: int, seed: int = 0) -> list[list[int]]:
    """Item indices per user: mostly the next item of a ring, so that one can learn something."""
    random = np.random.default_rng(seed)
    rows = []
    for length in random.integers(shortest, longest + 1, users):
        jumps = np.where(random.random(length) < 0.8, 1, random.integers(1, n_items, length))
        rows.append(((random.integers(n_items) + jumps.cumsum()) % n_items + 1).tolist())
    return rows


@pytest.fixture
def ring() -> Callable[..., list[list[int]]]:
    """The walks above, as a fixture: ring(users, n_items, shortest, longest, seed)."""
    return walks
