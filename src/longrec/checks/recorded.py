"""Check that what serving records of a model's step is the step."""

from __future__ import annotations

import numpy as np
import torch

from longrec.checks.compare import applies, same
from longrec.checks.small_model import N_ITEMS, SmallModel
from longrec.mixers import Context
from longrec.serving.records.logged_columns import LoggedColumns
from longrec.serving.records.record import RecordLayout
from longrec.serving.records.recorded_step import StepProgram, Unrecordable

USERS, STEPS = 4, 12


def check_recorded_step(small: SmallModel) -> str | None:
    """The step as a stream records and replays it gives the states that the model's own gives.

    Returns
    -------
    str or None
        Why it cannot be recorded, so that a stream takes the model's own step; it is slower.
    """
    model = small.sequence(torch.float32)
    applies(model.streaming == "exact", f"streaming is {model.streaming!r}")
    layout = RecordLayout(model.initial_state(1), "0" * 64)
    records = layout.load([None] * USERS)
    logged = LoggedColumns(small.name, model.reads_columns, small.columns)
    try:
        one, many = (StepProgram(model, layout, n, logged) for n in (1, USERS))
    except Unrecordable as why:
        return f"not recorded, so that a stream takes the model's own step: {why}"
    random = np.random.default_rng(0)
    items = random.integers(1, N_ITEMS + 1, (STEPS, USERS))
    times = random.integers(0, 9000, (STEPS, USERS)).cumsum(0)
    columns = small.column_values((STEPS, USERS), torch.Generator().manual_seed(0))
    state = model.initial_state(USERS)
    for number in range(STEPS):
        with torch.no_grad():
            now = {name: values[number] for name, values in columns.items()}
            ctx = Context(times=torch.from_numpy(times[number]), columns=now or None)
            _, state = model.step(torch.from_numpy(items[number]), state, ctx)
        if number % 2:
            read = [now[name].numpy() for name in logged.names]
            many.run(records, np.arange(USERS), items[number], times[number], read)
        else:
            for row in range(USERS):
                values = [now[name][row].item() for name in logged.names]
                item, time = int(items[number, row]), int(times[number, row])
                one.run_one(records, row, item, time, values)
        expected = layout.load([None] * USERS)
        layout.write(expected, state)
        for name in layout.fields:
            same(
                f"{name} after recorded step {number}",
                torch.from_numpy(records[name]),
                torch.from_numpy(expected[name]),
                1e-5,
            )
    return None
