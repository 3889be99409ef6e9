"""Time an export's graphs in ONNX Runtime on one thread, models as they are by default.

    python benchmarks/export.py

Prints seconds of the export, the parity that it found, and milliseconds (the median of 30) of a
step and of a prefill of 64 events, for 1 user and for 32 at once.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import torch

from longrec.config.training import TrainConfig
from longrec.data.catalog import Catalog
from longrec.export.folder import export
from longrec.models import MODELS, build_model
from longrec.recommender import Recommender

ITEMS, REPEATS = 10_000, 30
CASES: list[tuple[str, dict[str, Any]]] = [
    ("hydrarec", {}),
    ("sasrec-rotary", {}),
    ("elastic", {}),
    ("elastic", {"forgetting": "time"}),
    ("elastic", {"memory_slots": 4096}),
]


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    catalog = Catalog(pl.Series("id", np.arange(ITEMS)), np.ones(ITEMS, np.int64))
    for name, settings in CASES:
        torch.manual_seed(0)
        config = MODELS[name].config_class(**settings)
        model = build_model(name, config, ITEMS).eval()
        recommender = Recommender(name, model, config, TrainConfig(), catalog)
        with TemporaryDirectory() as folder:
            began = time.perf_counter()
            manifest = export(recommender, Path(folder) / "out")
            seconds = time.perf_counter() - began
            words = [f"{manifest['parity']['of_spread']:.0e}"]
            for graph, told in manifest["graphs"].items():
                path = Path(folder) / "out" / f"{graph}.onnx"
                session = onnxruntime.InferenceSession(path, options)
                words += [f"{graph} x{n} {_milliseconds(session, told, n):.2f}" for n in (1, 32)]
        print(f"{name} {settings or ''}: export {seconds:.0f} s,", ", ".join(words), flush=True)


def _milliseconds(session: Any, told: dict[str, Any], users: int) -> float:
    feed = {
        part["name"]: np.ones([users, *part["shape"][1:]], part["dtype"]) for part in told["inputs"]
    }
    if "lengths" in feed:
        feed["lengths"] *= feed["items"].shape[1]
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        session.run(None, feed)
        taken.append(time.perf_counter() - began)
    return 1e3 * statistics.median(taken)


if __name__ == "__main__":
    main()
