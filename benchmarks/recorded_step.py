"""Time one event: through `model.step`, and through the recording of it that a stream replays.

    taskset -c 0 python benchmarks/recorded_step.py

Models of width 64 and 2 layers over 3,400 items, one thread; prints medians in microseconds per
event, alone and in batches. "recorded" is the replay itself; "records" takes the states out of
users' records and writes them back, too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import polars as pl
import torch

from longrec.config.training import TrainConfig
from longrec.data.catalog import Catalog
from longrec.mixers import Context
from longrec.models import MODELS, SequenceModel, build_model
from longrec.recommender import Recommender
from longrec.serving.records.engine import WIDE, Engine

ITEMS = 3_400
CASES = {"elastic": {}, "elastic, memory bank": {"memory_slots": 4096}, "hydrarec": {}}


def median(function: Callable[[], object], times: int) -> float:
    """Median time of a call in microseconds, after some that do not count."""
    taken = []
    for number in range(times + times // 5):
        began = time.perf_counter()
        function()
        if number >= times // 5:
            taken.append(time.perf_counter() - began)
    return 1e6 * statistics.median(taken)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    print(f"{'':22}{'batch':>6}{'model.step':>12}{'recorded':>10}{'records':>9}")
    for case, settings in CASES.items():
        name = case.split(",")[0]
        torch.manual_seed(0)
        config = MODELS[name].config_class(**settings)
        model = build_model(name, config, ITEMS).eval()
        assert isinstance(model, SequenceModel)
        catalog = Catalog(pl.Series(np.arange(ITEMS)), np.ones(ITEMS, np.int64))
        engine = Engine(Recommender(name, model, config, TrainConfig(), catalog))
        for batch, program in ((1, engine._one), (256, engine._wide)):
            assert program is not None
            items = torch.randint(1, ITEMS + 1, (batch,))
            state, times = model.initial_state(batch), torch.zeros(batch, dtype=torch.int64)
            records = engine.layout.load([None] * batch)
            events = [[(item, 0)] for item in items.tolist()]
            with torch.inference_mode():
                repeats = 1000 if batch == 1 else 100
                eager = median(lambda: model.step(items, state, Context(times=times)), repeats)  # noqa: B023
                replay = median(program._replay, repeats)
                whole = median(lambda: engine.advance(records, events), repeats)  # noqa: B023
            print(
                f"{case:22}{batch:>6}{eager / batch:>12.1f}"
                f"{replay / min(batch, WIDE):>10.1f}{whole / batch:>9.1f}"
            )


if __name__ == "__main__":
    main()
