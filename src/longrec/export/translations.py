"""Operations of PyTorch in ONNX, where the exporter has no translation or one that fails.

Each takes what the operation of PyTorch takes, tensors being values of the graph, and writes nodes
into the graph that is being made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import onnx_ir as ir
from onnxscript import opset20 as op


def cummax(x: Any, dim: int) -> tuple[Any, Any]:
    """Running maximum along an axis of fixed size, by doubling; ONNX has none.

    The positions of the maxima, which no mixer reads, are not found: instead of them, the maxima
    stand as the second result, too.
    """
    length, best, reach = cast(int, x.shape[dim]), x, 1
    while reach < length:
        # Where nothing stands so far before, the first one does: it counts anyway.
        before: Any = op.Constant(value_ints=[max(0, place - reach) for place in range(length)])
        best, reach = op.Max(best, op.Gather(best, before, axis=dim)), 2 * reach
    return best, best


def norm(x: Any, order: float, dim: Sequence[int], keepdim: bool = False) -> Any:
    """Euclidean norm over the last axis, kept; ONNX's own gives another shape for no rows."""
    if order != 2 or list(dim) not in ([-1], [len(x.shape) - 1]) or not keepdim:
        raise NotImplementedError(f"norm of order {order} over axes {dim}")
    one: Any = op.Constant(value_float=1.0)
    one = op.CastLike(one, x)  # states may be float64
    column: Any = op.Constant(value_ints=[x.shape[-1], 1])
    return op.Sqrt(op.MatMul(op.Mul(x, x), op.Expand(one, column)))


def transpose(x: Any, first: int, second: int) -> Any:
    """A transposition, but for one of the batch axis of a matrix product by a small axis.

    ONNX Runtime (1.31) joins the latter to the product, and what it makes of them divides by zero
    and ends the process where there are no rows: where no event of a batch asks the memory bank.
    """
    axes = list(range(len(x.shape)))
    axes[first], axes[second] = axes[second], axes[first]
    if axes != [1, 0, 2] or not isinstance(x.shape[1], int):
        return op.Transpose(x, perm=axes)
    parts: list[Any] = []
    for number in range(x.shape[1]):
        place: Any = op.Constant(value_int=number)
        first_axis: Any = op.Constant(value_ints=[0])
        parts.append(op.Unsqueeze(op.Gather(x, place, axis=1), first_axis))
    return op.Concat(*parts, axis=0)


def solve_triangular(
    a: Any, b: Any, upper: bool, left: bool = True, unitriangular: bool = False
) -> Any:
    """x of A x = b, A lower triangular with ones on its diagonal; ONNX has no solver.

    A's inverse grows by doubling: that of two blocks beside each other is [[P, 0], [-Q A P, Q]],
    with P and Q the blocks' own inverses and A what is below the first and beside the second. This
    is as stable as going row by row, and takes log2 of the rows, a fixed number, in products.
    """
    if upper or not left or not unitriangular:
        raise NotImplementedError(
            "a triangular matrix without ones on its diagonal, or an upper one"
        )
    size = cast(int, a.shape[-1])
    place, block = np.arange(size), 1
    inverse = _constant_like(np.eye(size), a)
    while block < size:
        first = place // block % 2 == 0
        same = place[:, None] // (2 * block) == place // (2 * block)
        below = _constant_like(same & first & ~first[:, None], a)
        between = op.MatMul(op.MatMul(inverse, op.Mul(a, below)), inverse)
        inverse, block = op.Sub(inverse, between), 2 * block
    return op.MatMul(inverse, b)


def _constant_like(numbers: Any, x: Any) -> Any:
    """An array as a constant of the type of x."""
    tensor: Any = ir.tensor(np.asarray(numbers, dtype=np.float32))
    constant: Any = op.Constant(value=tensor)
    return op.CastLike(constant, x)
