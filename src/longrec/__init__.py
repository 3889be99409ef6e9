"""longrec: next-item recommendation from very long user histories.

    import longrec
    histories = longrec.prepare("log.parquet", "histories/")
    rec = longrec.train(histories, model="elastic", out="run/")
    metrics = longrec.evaluate(rec)
    frame = rec.recommend(users=[...], k=10)

Names are imported when first used, so that `import longrec` costs nothing. Libraries that it loads
let threads sleep while they wait (`longrec.core.threads`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from longrec.core.threads import sleep_while_waiting

if TYPE_CHECKING:
    from longrec.comparison.compare import compare
    from longrec.comparison.existing import report
    from longrec.core.errors import DataError, LongrecError, UsageError
    from longrec.data.histories import Histories, open_histories
    from longrec.data.prepare import prepare
    from longrec.data.read import read_events
    from longrec.recommender import Recommender, load
    from longrec.runs.evaluate import evaluate
    from longrec.runs.loggers import MLflowLogger, TensorBoardLogger
    from longrec.runs.refit import refit
    from longrec.runs.train import train
    from longrec.training.progress import Progress
    from longrec.tuning.tune import tune

    __version__: str

sleep_while_waiting()

_HOME = {
    "read_events": "longrec.data.read",
    "prepare": "longrec.data.prepare",
    "open_histories": "longrec.data.histories",
    "Histories": "longrec.data.histories",
    "train": "longrec.runs.train",
    "Progress": "longrec.training.progress",
    "TensorBoardLogger": "longrec.runs.loggers",
    "MLflowLogger": "longrec.runs.loggers",
    "refit": "longrec.runs.refit",
    "evaluate": "longrec.runs.evaluate",
    "compare": "longrec.comparison.compare",
    "tune": "longrec.tuning.tune",
    "report": "longrec.comparison.existing",
    "load": "longrec.recommender",
    "Recommender": "longrec.recommender",
    "LongrecError": "longrec.core.errors",
    "UsageError": "longrec.core.errors",
    "DataError": "longrec.core.errors",
}

__all__ = [
    "DataError",
    "Histories",
    "LongrecError",
    "MLflowLogger",
    "Progress",
    "Recommender",
    "TensorBoardLogger",
    "UsageError",
    "compare",
    "evaluate",
    "load",
    "open_histories",
    "prepare",
    "read_events",
    "refit",
    "report",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from longrec.core.version import version

        return version()
    if name in _HOME:
        import random

        state = random.getstate()  # rich draws of Python's own generator as it is imported
        try:
            return getattr(import_module(_HOME[name]), name)
        finally:
            random.setstate(state)
    raise AttributeError(f"module 'longrec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
