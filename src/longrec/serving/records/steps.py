"""A model's recorded steps, used only where they give what its own step gives.

An operation may be one that the recorder misreads, and a model of anybody's may do what no record
shows: keep a counter, or read its configuration anew. So what was recorded goes a few steps beside
the model's own one, from states of histories of several lengths. Where it fails or gives other
numbers, and where nothing could be recorded, an event takes the model's own step: it is slower, and
a line of the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from longrec.core.errors import first_line
from longrec.mixers import Context
from longrec.models.common.sequence import SequenceModel
from longrec.serving.records.logged_columns import LoggedColumns
from longrec.serving.records.record import RecordLayout
from longrec.serving.records.recorded_step import StepProgram, Unrecordable

LENGTHS = (0, 1, 7, 66)
"""Events of the histories that are gone on with: none, few, and past a chunk of 64."""
STEPS = 2
"""Events by which each goes on."""
TOLERANCE = 1e-4
"""By how much numbers may differ, of the largest number of their tensor: both are sums of the same
numbers in float32, in another order."""

log = logging.getLogger("longrec.serving.records")


def record_steps(
    model: SequenceModel,
    layout: RecordLayout,
    sizes: Sequence[int],
    columns: LoggedColumns | None = None,
) -> tuple[StepProgram, ...] | None:
    """The model's step, recorded for so many records at a time; None: take its own step.

    Parameters
    ----------
    model : SequenceModel
        In eval mode, on the CPU, streaming exactly.
    layout : RecordLayout
        Of its records.
    sizes : sequence of int
        Records per step of each program.
    columns : LoggedColumns or None
        The further columns of events that the model reads.
    """
    try:
        programs = tuple(StepProgram(model, layout, size, columns) for size in sizes)
        check_programs(model, layout, programs, columns)
        return programs
    except Unrecordable as why:
        log.warning(
            "%s: its step is not recorded, so that each event takes PyTorch's own, which is "
            "slower: %s",
            model.name,
            why,
        )
        return None


def check_programs(
    model: SequenceModel,
    layout: RecordLayout,
    programs: Sequence[StepProgram],
    columns: LoggedColumns | None = None,
) -> None:
    """Raise Unrecordable unless programs give what the model's own step gives, or where it fails.

    Parameters are those of `record_steps`.
    """
    try:
        with torch.inference_mode():
            _check(model, layout, programs, columns)
    except Unrecordable:
        raise
    except Exception as error:
        raise Unrecordable(f"{type(error).__name__}: {first_line(error)}") from error


def _check(
    model: SequenceModel,
    layout: RecordLayout,
    programs: Sequence[StepProgram],
    columns: LoggedColumns | None,
) -> None:
    users, read = len(LENGTHS), max(LENGTHS)
    random = np.random.default_rng(0)
    items = random.integers(1, model.n_items + 1, (users, read + STEPS))
    times = 1_700_000_000 + random.integers(0, 90_000, items.shape).cumsum(1)
    further = {} if columns is None else columns.some(items.shape, random)

    def context(at: slice | int, lengths: Tensor | None = None) -> Context:
        values = {name: torch.from_numpy(x[:, at].copy()) for name, x in further.items()}
        return Context(lengths, torch.from_numpy(times[:, at].copy()), values or None)

    begun = layout.load([None] * users)
    # Padding has the time of the last event before it, as a stream's has.
    lengths = np.array(LENGTHS)
    whole = times.copy()
    last = np.take_along_axis(times, np.maximum(lengths - 1, 0)[:, None], 1)
    times = np.where(np.arange(read + STEPS) < lengths[:, None], times, last)
    state = model.prefill(
        torch.from_numpy(items[:, :read]),
        layout.state(begun),
        context(slice(0, read), torch.from_numpy(lengths)),
    )[1]
    layout.write(begun, state)
    times, wanted, state = whole, [], layout.state(begun.copy())
    for step in range(read, read + STEPS):
        state = model.step(torch.from_numpy(items[:, step].copy()), state, context(step))[1]
        records = begun.copy()
        layout.write(records, state)
        wanted.append(records)
    for program in programs:
        records = begun.copy()
        for expected, step in zip(wanted, range(read, read + STEPS), strict=True):
            for start in range(0, users, program.batch):
                rows = np.arange(start, min(start + program.batch, users))
                values = [x[rows, step] for x in further.values()]
                if program.batch == 1:
                    item, time = int(items[start, step]), int(times[start, step])
                    program.run_one(records, start, item, time, [x[0].item() for x in values])
                else:
                    program.run(records, rows, items[rows, step], times[rows, step], values)
            for name in layout.fields:
                if not _agree(records[name], expected[name]):
                    raise Unrecordable(f"recorded, its {name} is another than by the step itself")


def _agree(got: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether numbers are the same: to rounding, where they are no integers."""
    if wanted.dtype.kind not in "fc":
        return bool(np.array_equal(got, wanted))
    still = np.isfinite(wanted)
    if not np.array_equal(got[~still], wanted[~still], equal_nan=True):
        return False
    got, wanted = got[still], wanted[still]
    if not wanted.size:
        return True
    # Not "difference > tolerance": NaN is not above anything.
    return bool(np.abs(got - wanted).max() <= TOLERANCE * max(1e-2, np.abs(wanted).max()))
