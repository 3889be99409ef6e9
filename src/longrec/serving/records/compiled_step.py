"""A model's step for a fixed number of users, recorded once, replayed without PyTorch's overhead.

One event costs some 0.2 million operations of arithmetic; called in PyTorch, what takes the time is
calling its 150 small operations. So `model.step` is traced once into a list of ATen
operations, and that list is replayed on buffers that are allocated once:

- what depends on weights alone (norms of experts, rates, transposed weights) is computed once;
- views (reshapes, slices, transpositions) are made once, since the buffers stay where they are;
- each other operation becomes one call with its arguments bound, NumPy's where that is known to be
  the same and faster, and PyTorch's for the rest, on the same memory.

Nothing is written twice: whatever model streams is traced from the step that the property tests
hold to its definition. A step that decides by its data cannot be recorded (`Unrecordable`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from longrec.core.arrays import Ints
from longrec.models.common.base import SequenceModel
from longrec.serving.records.numpy_ops import Call, bind, name_of
from longrec.serving.records.record import RecordLayout, flat

UNSTEADY = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""What marks an operation whose result may send the step another way next time."""


class Unrecordable(Exception):
    """The step takes different ways for different data."""


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

    Raises
    ------
    Unrecordable
    """

    def __init__(self, model: SequenceModel, layout: RecordLayout, batch: int) -> None:
        # Here, since it takes a second that only those shall wait who stream.
        from torch.fx.experimental.proxy_tensor import make_fx

        self._layout = layout
        self._items, self._times = np.ones(batch, np.int64), np.zeros(batch, np.int64)
        # One record's tensors are whole in memory as they stand in it; those of several are not.
        self._record = layout.load([None] * batch)
        fields = [self._record[name] for name in layout.fields]
        self._state = fields if batch == 1 else [np.ascontiguousarray(part) for part in fields]

        def step(items: Tensor, times: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
            return tuple(flat(model.step(items, layout.state_of(parts), times)[1]))

        given = [torch.from_numpy(part) for part in (self._items, self._times, *self._state)]
        with torch.no_grad():
            try:
                traced = make_fx(step)(*given)
            except RuntimeError as error:  # of a value asked of what is only traced
                raise Unrecordable(str(error)) from error
            self._calls, outputs = _compile(traced, given)
        self._results = [part.numpy() for part in outputs]
        if batch == 1:
            self._calls += [
                partial(np.copyto, to, part)
                for to, part in zip(self._state, self._results, strict=True)
                if to.ctypes.data != part.ctypes.data
            ]

    def run_one(self, records: np.ndarray, row: int, item: int, time: int) -> None:
        """Let one of the records go on by an event, in place; for a program of batch 1."""
        self._record[0] = records[row]
        self._items[0], self._times[0] = item, time
        self._replay()
        records[row] = self._record[0]

    def run(self, records: np.ndarray, rows: Ints, items: Ints, times: Ints) -> None:
        """Let the records in `rows`, at most `batch`, go on by an event each, in place."""
        n = len(rows)  # what stands in the other places goes on too, and is not looked at
        at: Ints | slice = rows
        if rows[-1] - rows[0] == n - 1 and bool((np.diff(rows) == 1).all()):
            at = slice(rows[0], rows[-1] + 1)  # no index to follow
        self._items[:n], self._times[:n] = items, times
        for name, part in zip(self._layout.fields, self._state, strict=True):
            part[:n] = records[name][at]
        self._replay()
        for name, part in zip(self._layout.fields, self._results, strict=True):
            records[name][at] = part[:n]

    def _replay(self) -> None:
        with np.errstate(all="ignore"):  # log 0 is what an expert without events weighs
            for call in self._calls:
                call()


def _compile(traced: GraphModule, given: Sequence[Tensor]) -> tuple[list[Call], list[Tensor]]:
    """The calls that compute the outputs from the memory of `given`, and the outputs' tensors."""
    for node in traced.graph.nodes:
        if UNSTEADY & set(getattr(node.target, "tags", ())):
            raise Unrecordable(f"{node.target} decides by its data")
    traced.graph.eliminate_dead_code()
    values: dict[Node, Any] = {}
    fixed: set[Node] = set()  # what no input changes
    calls: list[Call] = []
    feed = iter(given)

    def value(x: Any) -> Any:
        return torch.fx.node.map_arg(x, lambda node: values[node])

    for node in traced.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(feed)
        elif node.op == "get_attr":
            values[node] = getattr(traced, str(node.target)).detach()
            fixed.add(node)
        elif node.op == "output":
            return calls, list(value(node.args[0]))
        else:
            args, kwargs = value(node.args), value(node.kwargs)
            found = node.target(*args, **kwargs)  # its memory is where every replay will write
            values[node] = found
            if all(source in fixed for source in node.all_input_nodes):
                fixed.add(node)
            elif not _is_view(node, args, found):
                if _may_overwrite(node, args, found):
                    found = values[node] = args[0]
                elif isinstance(found, Tensor) and not found.is_contiguous():
                    found = values[node] = found.contiguous()
                calls.append(bind(node.target, args, kwargs, found))
    raise AssertionError("a graph ends with its output")


def _is_view(node: Node, args: Sequence[Any], found: Any) -> bool:
    """Whether what the operation gave lies in the memory of its argument."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:  # getitem, of an operation with several results
        return True
    first = found[0] if isinstance(found, list) else found  # split gives a list of views
    if schema.is_mutable or not isinstance(first, Tensor) or not isinstance(args[0], Tensor):
        return False
    return first.untyped_storage().data_ptr() == args[0].untyped_storage().data_ptr()


def _may_overwrite(node: Node, args: Sequence[Any], found: Any) -> bool:
    """Whether a large state may be computed in its own place, since nobody else reads it."""
    source = node.args[0] if node.args else None
    return (
        name_of(node.target) == "lerp"
        and isinstance(source, Node)
        and source.op == "placeholder"
        and len(source.users) == 1
        and args[0].shape == found.shape
    )
