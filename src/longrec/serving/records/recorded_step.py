"""A model's step for a fixed number of users, recorded once, replayed without PyTorch's overhead.

One event costs some 0.2 million operations of arithmetic; called in PyTorch, what takes the time is
calling its 150 small operations. So one call of `model.step` is recorded as a list of ATen
operations, and that list is replayed on buffers that are allocated once:

- what depends on weights alone (norms of experts, rates, transposed weights) is computed once;
- views (reshapes, slices, transpositions) are made once, since the buffers stay where they are;
- each other operation becomes one call with its arguments bound, NumPy's where that is known to be
  the same and faster, and PyTorch's for the rest, on the same memory.

Nothing is written twice: whatever model streams is recorded from the step that the property tests
hold to its definition. A step that decides by its data, or does anything else that is not known
here, is not recorded (`Unrecordable`); and what was recorded is used only if it gives the numbers
of the step itself (`longrec.serving.records.steps`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from longrec.core.arrays import Ints
from longrec.core.errors import first_line
from longrec.mixers import Context
from longrec.models.common.sequence import SequenceModel
from longrec.serving.records.logged_columns import LoggedColumns
from longrec.serving.records.numpy_ops import Call, bind, name_of
from longrec.serving.records.record import RecordLayout, flat

UNSTEADY = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""What marks an operation whose result may send the step another way next time."""
VALUES = {
    Tensor.numpy,
    Tensor.tolist,
    Tensor.__array__,
    Tensor.__dlpack__,
    Tensor.__deepcopy__,
    Tensor.__reduce_ex__,
    Tensor.data_ptr,
    Tensor.storage,
    Tensor.untyped_storage,
}
"""What gives a tensor's numbers away and is no operation: what is made of them is not recorded."""


class Unrecordable(Exception):
    """The step cannot be recorded; the message says why."""


class Operation(NamedTuple):
    """A call of an ATen operation, with what it was given and what it gave."""

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any


class _Recorder(TorchDispatchMode):
    """Keeps every ATen operation that is called while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []

    def record(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if UNSTEADY & set(func.tags):
            raise Unrecordable(f"{func} decides by its data")
        result = func(*args, **(kwargs or {}))
        self.operations.append(Operation(func, args, kwargs or {}, result))
        return result


class _Guard(TorchFunctionMode):
    """Lets no numbers out while it is active, by which a step could choose its way."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in VALUES:
            raise Unrecordable(f"{func.__name__}() takes the numbers of a tensor out of it")
        return func(*args, **(kwargs or {}))


# Not as a method of that name: PyTorch would wrap it, and import its compiler first (2 seconds).
_Recorder.__torch_dispatch__ = _Recorder.record  # type: ignore[method-assign,assignment]


class StepProgram:
    """One event for each of `batch` records, in place.

    Parameters
    ----------
    model : SequenceModel
        In eval mode, on the CPU, streaming exactly.
    layout : RecordLayout
        Of its records.
    batch : int
        Records at a time.
    columns : LoggedColumns or None
        The further columns of events that the model reads.

    Raises
    ------
    Unrecordable
        Whatever goes wrong: the step takes different ways for different data, changes what is not
        the state, or fails.
    """

    def __init__(
        self,
        model: SequenceModel,
        layout: RecordLayout,
        batch: int,
        columns: LoggedColumns | None = None,
    ) -> None:
        self._layout, self.batch = layout, batch
        self._items, self._times = np.ones(batch, np.int64), np.zeros(batch, np.int64)
        self._columns = [] if columns is None else columns.arrays([columns.missing] * batch)
        # One record's tensors are whole in memory as they stand in it; those of several are not.
        self._record = layout.load([None] * batch)
        fields = [self._record[name] for name in layout.fields]
        self._state = fields if batch == 1 else [np.ascontiguousarray(part) for part in fields]
        given = (self._items, self._times, *self._columns, *self._state)
        inputs = [torch.from_numpy(part) for part in given]
        items, times, *parts = inputs
        further, parts = parts[: len(self._columns)], parts[len(self._columns) :]
        names = () if columns is None else columns.names
        ctx = Context(times=times, columns=dict(zip(names, further, strict=True)) or None)
        try:
            with torch.no_grad():
                with _Guard(), _Recorder() as recorder:
                    outputs = flat(model.step(items, layout.state_of(parts), ctx)[1])
                self._calls, outputs = _compile(recorder.operations, inputs, outputs)
            self._results = [part.numpy() for part in outputs]
            if batch == 1:
                self._calls += _writing_back(self._results, self._state)
        except Unrecordable:
            raise
        except Exception as error:  # whatever it is: the model's own step will do
            raise Unrecordable(f"{type(error).__name__}: {first_line(error)}") from error

    def run_one(
        self,
        records: np.ndarray,
        row: int,
        item: int,
        time: int,
        values: Sequence[int | float] = (),
    ) -> None:
        """Let one of the records go on by an event, in place; for a program of batch 1.

        `values` are those of the columns, in their order.
        """
        self._record[0] = records[row]
        self._items[0], self._times[0] = item, time
        for column, value in zip(self._columns, values, strict=True):
            column[0] = value
        self._replay()
        records[row] = self._record[0]

    def run(
        self,
        records: np.ndarray,
        rows: Ints,
        items: Ints,
        times: Ints,
        columns: Sequence[np.ndarray] = (),
    ) -> None:
        """Let the records in `rows`, at most `batch`, go on by an event each, in place."""
        n = len(rows)  # what stands in the other places goes on too, and is not looked at
        at: Ints | slice = rows
        if rows[-1] - rows[0] == n - 1 and bool((np.diff(rows) == 1).all()):
            at = slice(rows[0], rows[-1] + 1)  # no index to follow
        given = items, times, *columns, *(records[name][at] for name in self._layout.fields)
        places = self._items, self._times, *self._columns, *self._state
        for place, values in zip(places, given, strict=True):
            place[:n] = values
        try:
            self._replay()
        except Exception:
            # Perhaps of one in the other places, where a step changes what it is given.
            for place, values in zip(places, given, strict=True):
                place[:n], place[n:] = values, values[:1]
            self._replay()
        for name, part in zip(self._layout.fields, self._results, strict=True):
            records[name][at] = part[:n]

    def _replay(self) -> None:
        with np.errstate(all="ignore"):  # log 0 is what an expert without events weighs
            for call in self._calls:
                call()


def _compile(
    operations: Sequence[Operation], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> tuple[list[Call], list[Tensor]]:
    """The calls that compute the outputs from the memory of `inputs`, and the outputs' tensors."""
    operations = _needed(operations, outputs)
    # Also as an output: a new state may hold what was another of the old one's tensors.
    uses = Counter(id(x) for op in operations for x in _tensors((op.args, op.kwargs)))
    uses.update(map(id, outputs))
    values: dict[int, Tensor] = {id(x): x for x in inputs}  # by the recorded tensor
    changing = set(values)  # recorded tensors that the inputs change
    calls: list[Call] = []

    def value(x: Tensor) -> Tensor:
        return values[id(x)] if id(x) in values else x.detach()

    for op in operations:
        args, kwargs = tree_map_only(Tensor, value, (op.args, op.kwargs))
        result = op.target(*args, **kwargs)  # its memory is where every replay will write
        source = op.args[0] if op.args else None
        depends = any(id(x) in changing for x in _tensors((op.args, op.kwargs)))
        if op.target._schema.is_mutable and id(source) not in (changing if depends else values):
            raise Unrecordable(f"{op.target} changes what is computed once")
        if depends:
            changing.update(map(id, _tensors(op.result)))
            if not _is_view(op.target, args, result):
                if (
                    name_of(op.target) == "lerp"
                    and any(source is x for x in inputs)
                    and uses[id(source)] == 1
                    and args[0].shape == result.shape
                ):  # a large state is computed in its own place, since nobody else reads it
                    result = args[0]
                elif isinstance(result, Tensor) and not result.is_contiguous():
                    result = result.contiguous()
                calls.append(bind(op.target, args, kwargs, result))
        values.update(zip(map(id, _tensors(op.result)), _tensors(result), strict=True))
    return calls, [value(x) for x in outputs]


def _writing_back(results: Sequence[np.ndarray], state: Sequence[np.ndarray]) -> list[Call]:
    """The calls that put the new state in place of the old one, whose memory they may read.

    A new tensor may be another one of the old state, or a part of it, so that what lies in the old
    state is put aside before any of it is overwritten.
    """
    aside: list[Call] = []
    written: list[Call] = []
    for to, part in zip(state, results, strict=True):
        if _memory_of(to) == _memory_of(part):
            continue
        kept = part
        if any(np.may_share_memory(part, old) for old in state):
            kept = np.empty_like(part)
            aside.append(partial(np.copyto, kept, part))
        written.append(partial(np.copyto, to, kept))
    return aside + written


def _memory_of(part: np.ndarray) -> tuple[object, ...]:
    """Where an array's numbers lie, in which order and of which type."""
    return part.ctypes.data, part.shape, part.strides, part.dtype.str


def _needed(operations: Sequence[Operation], outputs: Sequence[Tensor]) -> list[Operation]:
    """Those that the outputs depend on, in their order."""
    wanted = set(map(id, outputs))
    chosen = []
    for op in reversed(operations):
        if op.target._schema.is_mutable or not wanted.isdisjoint(map(id, _tensors(op.result))):
            wanted.update(map(id, _tensors((op.args, op.kwargs))))
            chosen.append(op)
    return chosen[::-1]


def _tensors(nested: Any) -> list[Tensor]:
    return [x for x in tree_leaves(nested) if isinstance(x, Tensor)]


def _is_view(target: Any, args: Sequence[Any], result: Any) -> bool:
    """Whether what the operation gave lies in the memory of its argument."""
    first = result[0] if isinstance(result, list) else result  # split gives a list of views
    if target._schema.is_mutable or not all(isinstance(x, Tensor) for x in (first, args[0])):
        return False
    return bool(first.untyped_storage().data_ptr() == args[0].untyped_storage().data_ptr())
