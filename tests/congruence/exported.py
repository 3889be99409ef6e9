"""An export, served as its example serves it: without PyTorch, by NumPy and ONNX Runtime."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
from congruence.parties import Library

from longrec.core.choices import ExcludeSeen
from longrec.export.folder import export
from longrec.recommender import Recommender

EXAMPLE = Path(__file__).parents[2] / "examples" / "serve_from_export.py"


@cache
def example() -> ModuleType:
    """The example, as a module."""
    spec = importlib.util.spec_from_file_location("serve_from_export", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Exported(Library):
    """Who keeps logs as the library does, and reads them by the files of an export.

    It is not played scripts in which the catalog grows: that takes another export.
    """

    def __init__(self, rec: Recommender, folder: Path) -> None:
        super().__init__(rec, folder)
        export(rec, folder / "export")
        self._export = example().Export(folder / "export")

    def _recommend(
        self, history: Sequence[tuple[int, int]], exclude_seen: ExcludeSeen
    ) -> pl.DataFrame:
        served = self._export
        if exclude_seen == "auto":
            served.exclude_seen = served.manifest["scoring"]["exclude_seen"]
        else:
            served.exclude_seen = exclude_seen
        user = example().User(served)
        half = len(history) // 2
        for part in (history[:half], history[half : half + 1], history[half + 1 :]):
            user.observe([str(item) for item, _ in part], [time for _, time in part])
        items = user.recommend(self.rec.catalog.n_items)
        scores = user.scores() if user.seen else served.counts.astype(np.float64)
        return pl.DataFrame(
            {
                "item": pl.Series(items, dtype=pl.String).cast(pl.Int64),
                "score": [float(scores[served.index[item]]) for item in items],
                "policy": ["personal" if user.seen else "cold"] * len(items),
            }
        )
