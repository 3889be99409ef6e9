"""A model as ONNX graphs with the state in and out.

    step.onnx      items (B,), times (B,), the state       -> the new state
    prefill.onnx   items (B, 64), lengths (B,), times (B, 64), the state -> the new state
    encode.onnx    items (B, T), lengths (B,)               -> h (B, W), of a model with a window;
                   and times (B, T), where it reads them
    user.onnx      h (B, W)                                 -> users (B, R, D), the users' vectors
                   of a model where these are not h itself

A state is a list of tensors, named as in a user's record (layers.0.mean, ..., output, time, count);
as outputs they are new.layers.0.mean and so on. `output` is h after the last event.

Prefill reads 64 places at a time and is called again for what follows. The dispatcher's parallel
form is a loop over chunks, which no exporter gets through for any T; within a fixed T it is
unrolled. A wider graph would cost more where a history is short.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from longrec.core.errors import UsageError
from longrec.core.format import listed
from longrec.mixers import Context
from longrec.models import Model, SequenceModel
from longrec.models.common.scorer import Scorer
from longrec.serving.records.record import RecordLayout, flat

if TYPE_CHECKING:
    import onnx_ir

WINDOW = 64
"""Places that one call of prefill reads."""
NEW = "new."
"""What the names of a state's tensors begin with when they come out."""
TABLE = "item_vectors.npy"
"""The vectors that are scored; where graphs read the same, they find them there, too."""
READ_TABLE = "read_vectors.npy"
"""The vectors that graphs read, where others are scored."""


class OnState(nn.Module):
    """A graph that takes and gives the flat list of a state's tensors."""

    def __init__(self, model: SequenceModel, layout: RecordLayout) -> None:
        super().__init__()
        self.model, self.layout = model, layout


class Step(OnState):
    """The model's step."""

    def forward(self, items: Tensor, times: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
        """items, times (B,) -> the new state."""
        return flat(self.model.step(items, self.layout.state_of(state), Context(times=times))[1])


class Prefill(OnState):
    """The model's prefill."""

    def forward(
        self, items: Tensor, lengths: Tensor, times: Tensor, state: Sequence[Tensor]
    ) -> list[Tensor]:
        """items, times (B, W), of which lengths (B,) are real -> the new state."""
        ctx = Context(lengths=lengths, times=times)
        return flat(self.model.prefill(items, self.layout.state_of(state), ctx)[1])


class Encode(nn.Module):
    """What a model with a window knows after each row's last event."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, items: Tensor, lengths: Tensor, times: Tensor | None = None) -> Tensor:
        """items, times (B, T), of which lengths (B,) >= 1 are real -> h (B, D)."""
        h = self.model.encode(items, Context(lengths=lengths, times=times))
        last = (lengths - 1)[:, None, None].expand(-1, 1, h.shape[2])
        return h.gather(1, last)[:, 0]


class Users(nn.Module):
    """The vectors of users, of which the best product with an item's counts."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, h: Tensor) -> Tensor:
        """h (B, W) -> (B, R, D)."""
        return self.model.user_vectors(h)


@dataclass(frozen=True)
class Graph:
    """One ONNX graph that is to be written.

    name : its file's stem. module : what it computes. examples : its inputs, for tracing.
    dynamic : per example the axes that may have any size, as torch.export takes them.
    inputs, outputs : the tensors' names, in order.
    """

    name: str
    module: nn.Module
    examples: tuple[Any, ...]
    dynamic: tuple[Any, ...]
    inputs: list[str]
    outputs: list[str]


def check_exports(scorer: Scorer) -> Model:
    """The model itself if its graphs can be written; one that counts has none.

    Raises
    ------
    UsageError
        When it sees the whole history in both directions, scores users and items together or reads
        columns of events.
    """
    model = scorer.model
    if not isinstance(model, SequenceModel):
        return model
    if model.streaming == "none":
        raise UsageError(
            f"{model.name} keeps no state and has no window: each recommendation would read the "
            f"whole history again, at a cost that an export cannot bound. Train {model.streams_as} "
            "to export a model"
        )
    if model.target_aware:
        raise UsageError(
            f"{model.name} scores a user and an item together, so that there are no item vectors "
            "to export: serve it with `longrec serve`, or train a model that scores by vectors, "
            "such as elastic"
        )
    if model.reads_columns:
        raise UsageError(
            f"{model.name} reads the columns {listed(model.reads_columns)} of events, and "
            "the graphs of an export take items and times alone: serve it with `longrec serve`"
        )
    return model


def layout_of(model: SequenceModel) -> RecordLayout:
    """Names and order of the tensors of a model's state."""
    return RecordLayout(model.initial_state(1), "00" * 32)  # the digest, of records, is not read


def graphs_of(model: Model, window: int | None) -> list[Graph]:
    """The graphs of a model; `window` is what a model with a window reads, None of the others."""
    if not isinstance(model, SequenceModel):
        return []
    users = {0: torch.export.Dim("B")}
    if window is not None:
        events = {1: torch.export.Dim("T", min=1, max=window)} if window > 1 else {}
        names, dynamic = ["items", "lengths"], [users | events, users]
        examples = [_ones(2, min(2, window)), _ones(2)]
        if model.takes_times:
            names, dynamic = [*names, "times"], [*dynamic, users | events]
            examples.append(_ones(2, min(2, window)))
        encode = Graph("encode", Encode(model), tuple(examples), tuple(dynamic), names, ["h"])
        return [encode, *_user_graph(model)]
    layout = layout_of(model)
    state = [part.clone() for part in flat(model.initial_state(2))]  # see _ones
    of_state = [users] * len(state)
    step = Graph(
        "step",
        Step(model, layout),
        (_ones(2), _ones(2), state),
        (users, users, of_state),
        ["items", "times", *layout.fields],
        [NEW + name for name in layout.fields],
    )
    prefill = Graph(
        "prefill",
        Prefill(model, layout),
        (_ones(2, WINDOW), _ones(2), _ones(2, WINDOW), state),
        (users, users, users, of_state),
        ["items", "lengths", "times", *layout.fields],
        step.outputs,
    )
    return [step, prefill, *_user_graph(model)]


def _user_graph(model: SequenceModel) -> list[Graph]:
    """The graph of users' vectors, of a model that has others than h."""
    if type(model).user_vectors is SequenceModel.user_vectors:
        return []
    users, h = {0: torch.export.Dim("B")}, torch.ones(2, model.width)
    return [Graph("user", Users(model), (h,), (users,), ["h"], ["users"])]


def _ones(*shape: int) -> Tensor:
    """An example of an input: each a tensor of its own, since the exporter makes one input of one.

    Its axes of any size have size 2, since 0 and 1 would be taken for fixed.
    """
    return torch.ones(shape, dtype=torch.int64)


def write_graph(graph: Graph, folder: Path) -> dict[str, Any]:
    """Write FOLDER/<name>.onnx, beside the vectors that it reads, which must be there.

    Returns
    -------
    dict
        `opset`, `inputs` and `outputs`; of each of these name, dtype and shape, whose entries are
        sizes or the names of axes of any size.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    from longrec.export.translations import cummax, norm, solve_triangular, transpose

    with _quiet(), torch.no_grad():
        # strict: so that len(x) of the models and mixers is not taken for a fixed size.
        traced = torch.export.export(
            graph.module, graph.examples, dynamic_shapes=graph.dynamic, strict=True
        )
        program = torch.onnx.export(
            traced,
            dynamic_shapes=graph.dynamic,
            dynamo=True,
            verbose=False,
            custom_translation_table={
                torch.ops.aten.cummax.default: cummax,
                torch.ops.aten.linalg_vector_norm.default: norm,
                torch.ops.aten.transpose.int: transpose,
                torch.ops.aten.linalg_solve_triangular.default: solve_triangular,
            },
        )
    assert program is not None
    model = program.model
    ClearMetadataAndDocStringPass()(model)  # it names the exporting machine's source files
    names, values = graph.inputs + graph.outputs, [*model.graph.inputs, *model.graph.outputs]
    for name, value in zip(names, values, strict=True):
        value.name = name
    read = folder / READ_TABLE
    _share_table(model, read if read.is_file() else folder / TABLE)
    ir.save(model, folder / f"{graph.name}.onnx")
    return {
        "opset": model.opset_imports[""],
        "inputs": [_describe(value) for value in model.graph.inputs],
        "outputs": [_describe(value) for value in model.graph.outputs],
    }


def _describe(value: onnx_ir.Value) -> dict[str, Any]:
    assert value.shape is not None
    assert value.dtype is not None
    shape = [size if isinstance(size, int) else str(size.value) for size in value.shape]
    return {"name": value.name, "dtype": value.dtype.numpy().name, "shape": shape}


def _share_table(model: onnx_ir.Model, path: Path) -> None:
    """Let the graph read the item vectors, its largest weight by far, from the .npy file."""
    import onnx_ir as ir

    table = model.graph.initializers.get("model.items")
    if table is None:  # a graph that reads no items
        return
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
    table.const_value = ir.ExternalTensor(
        path.name,
        offset,
        int(np.prod(shape)) * dtype.itemsize,
        ir.DataType.FLOAT,
        shape=ir.Shape(shape),
        name="model.items",
        base_dir=path.parent,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of packages that it lacks, of its own deprecated calls and choices."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
