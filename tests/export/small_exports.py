"""Small recommenders to export, and what is read of an export."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from models.small_models import N, make
from serving.small_streams import CASES, FIRST

from longrec.config.training import TrainConfig
from longrec.data.catalog import Catalog
from longrec.export.parity import TOLERANCE, Runtime
from longrec.mixers import Context
from longrec.recommender import Recommender


def small(case: str, layers: int = 1, context: int | None = None, **settings: Any) -> Recommender:
    """A recommender with random weights; each layer adds as much again to an export's time."""
    name = case.split()[0]
    model = make(name, torch.float32, **CASES.get(case, {}), layers=layers, **settings)
    ids = pl.Series("id", np.arange(FIRST, FIRST + N))
    counts = (np.arange(N, dtype=np.int64) * 7) % 11
    return Recommender(
        name, model, model.config, TrainConfig(context=context), Catalog(ids, counts)
    )


def empty(manifest: dict[str, Any], users: int) -> dict[str, np.ndarray]:
    """States of users without events, made of the manifest alone."""
    return {
        part["name"]: np.full((users, *part["shape"][1:]), part["fill"], part["dtype"])
        for part in manifest["state"]
    }


def histories(users: int, events: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Items and times (users, events), some events at the same moment."""
    random = np.random.default_rng(seed)
    items = random.integers(1, N + 1, (users, events))
    return items, random.integers(0, 90_000, (users, events)).cumsum(1) // 7 * 7


def read_in_parts(
    folder: Path,
    manifest: dict[str, Any],
    items: np.ndarray,
    times: np.ndarray,
    cuts: Sequence[int],
) -> np.ndarray:
    """h (B, D) after histories that were cut there, and stepped where a part is of one event."""
    runtime, state = Runtime(folder), empty(manifest, len(items))
    bounds = [0, *cuts, items.shape[1]]
    for start, end in pairwise(bounds):
        if end - start == 1:
            feed = {"items": items[:, start], "times": times[:, start]}
            state = runtime.run("step", feed | state)
        elif end > start:
            lengths = np.full(len(items), end - start)
            state = runtime.prefill(items[:, start:end], lengths, times[:, start:end], state)
    return state["output"]


def check_window(rec: Recommender, folder: Path, manifest: dict[str, Any]) -> None:
    """An export of a model with a window gives its scores after histories of every kind."""
    assert manifest["events_per_encode"] == rec.limit
    assert manifest["state"] == []
    for length in {1, rec.limit - 1, rec.limit} - {0}:
        items, times = histories(3, length)
        feed = {"items": items, "lengths": np.full(3, length)}
        if rec.model.takes_times:
            feed["times"] = times
        h = Runtime(folder).run("encode", feed)["h"]
        assert away(rec, items, times, h) < TOLERANCE


def away(rec: Recommender, items: np.ndarray, times: np.ndarray, h: np.ndarray) -> float:
    """Largest difference of scores by h from those of the model that reads whole histories."""
    with torch.no_grad():
        ctx = Context(times=torch.from_numpy(times))
        wanted = rec.model.score(rec.model.encode(torch.from_numpy(items), ctx)[:, -1])[:, 1:]
        found = rec.model.score(torch.from_numpy(h))[:, 1:]
    return float(((found - wanted).abs().amax(1) / wanted.std(1)).max())
