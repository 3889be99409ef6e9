"""Operations of a recorded step as calls with their arguments bound.

Each maker takes the output and the operation's own arguments. Where it does not know them it gives
None, or raises; the operation is then PyTorch's own, on the same memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

Call = Callable[[], object]


def name_of(target: Any) -> str:
    """aten.add.Tensor -> "add"."""
    return str(target).removeprefix("aten.").rsplit(".", 1)[0]


def bind(target: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Call:
    """One call that computes an operation of these arguments into `out`, whenever it is made."""
    make = FAST.get(name_of(target))
    if make is not None and (isinstance(out, Tensor) or make is _layer_norm):
        # A form of the operation that the maker was not written for: `mean(dtype=)` has a word that
        # it does not take, `2 ** x` a tensor where it expects a number. Called once, a call shows
        # that NumPy takes its arrays.
        with suppress(Exception), np.errstate(all="ignore"):
            call = make(out, *args, **kwargs)
            if call is not None:
                call()
                return call
    if isinstance(out, Tensor):
        if "out" in target.overloadpacket.overloads():
            try:
                target.overloadpacket.out(*args, **kwargs, out=out)
                return partial(target.overloadpacket.out, *args, **kwargs, out=out)
            except (RuntimeError, TypeError):  # it is another form of the operation
                pass
        return lambda: out.copy_(target(*args, **kwargs))

    def several() -> None:
        for to, part in zip(out, target(*args, **kwargs), strict=True):
            if part is not None:
                to.copy_(part)

    return several


def _array(x: Any, like: Tensor) -> Any:
    """An operand as NumPy takes it fastest: arrays of the same memory, numbers of one type."""
    return x.numpy() if isinstance(x, Tensor) else np.asarray(x, like.numpy().dtype)


def _elementwise(function: Any, alone: bool = False) -> Callable[..., Call | None]:
    """A ufunc; `alone`: slower than PyTorch's on large arrays."""

    def make(out: Tensor, *operands: Any, alpha: float = 1) -> Call | None:
        kinds = {x.dtype for x in operands if isinstance(x, Tensor)}
        if alpha != 1 or kinds != {out.dtype} or (alone and out.numel() > SMALL):
            return None
        return partial(function, *(_array(x, out) for x in operands), out=out.numpy())

    return make


SMALL = 512
"""Elements up to which NumPy's ufuncs for transcendental functions beat PyTorch's."""


def _with_out(function: Any) -> Callable[..., Call | None]:
    return lambda out, *args: partial(function, *args, out=out)


def _mm(out: Tensor, x: Tensor, y: Tensor) -> Call:
    if len(x) > 1:
        return partial(torch.mm, x, y, out=out)
    return partial(np.dot, x.numpy(), y.numpy(), out=out.numpy())


def _addmm(out: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> Call:
    if len(x) > 1:
        return partial(torch.addmm, bias, x, y, out=out)
    product, total, left, right = out.numpy(), bias.numpy(), x.numpy(), y.numpy()

    def call() -> None:
        np.dot(left, right, out=product)
        np.add(product, total, out=product)

    return call


def _gelu(out: Tensor, x: Tensor, approximate: str = "none") -> Call | None:
    """x/2 (1 + erf(x / sqrt 2)); PyTorch's own takes 7 microseconds for a single row."""
    if approximate != "none" or x.numel() > SMALL:
        return None
    source, product, erf, half = x.numpy(), out.numpy(), torch.empty_like(x), torch.empty_like(x)
    factor, root = np.float32(0.5).astype(product.dtype), product.dtype.type(math.sqrt(0.5))
    inner, halved = erf.numpy(), half.numpy()

    def call() -> None:
        np.multiply(source, root, out=inner)
        torch.erf(erf, out=erf)
        np.multiply(source, factor, out=halved)
        np.multiply(inner, halved, out=product)
        np.add(product, halved, out=product)

    return call


def _layer_norm(
    out: Any, x: Tensor, shape: Sequence[int], weight: Any, bias: Any, eps: float
) -> Call:
    normed = out[0]
    return lambda: normed.copy_(torch.layer_norm(x, shape, weight, bias, eps))


def _to_copy(out: Tensor, x: Tensor, **_: Any) -> Call | None:
    try:
        return partial(np.copyto, out.numpy(), x.numpy(), casting="unsafe")
    except TypeError:  # NumPy has no half precision of eight bits of exponent
        return None


def _softmax(out: Tensor, x: Tensor, dim: int, half: bool) -> Call | None:
    return None if half else partial(torch.softmax, x, dim, out=out)


def _norm(out: Tensor, x: Tensor, order: float, dim: Any, keep: bool = False) -> Call:
    return partial(torch.linalg.vector_norm, x, order, dim, keep, out=out)


def _cat(out: Tensor, parts: Sequence[Tensor], dim: int = 0) -> Call:
    return partial(np.concatenate, [x.numpy() for x in parts], axis=dim, out=out.numpy())


def _sum(out: Tensor, x: Tensor, dim: Sequence[int], keep: bool = False) -> Call | None:
    if out.dtype != x.dtype or len(dim) != 1:
        return None
    return partial(np.add.reduce, x.numpy(), dim[0], out=out.numpy(), keepdims=keep)


def _mean(out: Tensor, x: Tensor, dim: Sequence[int], keep: bool = False) -> Call:
    return partial(torch.mean, x, dim, keep, out=out)


def _embedding(out: Tensor, table: Tensor, index: Tensor, *_: Any) -> Call | None:
    """PyTorch's, which refuses a row that there is none of; NumPy would count it from the end."""
    return partial(torch.index_select, table, 0, index, out=out) if index.ndim == 1 else None


def _power(out: Tensor, x: Tensor, exponent: float | Tensor) -> Call | None:
    if isinstance(exponent, Tensor) or exponent != 2 or x.dtype != out.dtype:
        return None
    return partial(np.square, x.numpy(), out=out.numpy())


def _clamp_min(out: Tensor, x: Tensor, low: float) -> Call:
    return partial(np.maximum, x.numpy(), _array(low, out), out=out.numpy())


FAST: dict[str, Callable[..., Call | None]] = {
    "add": _elementwise(np.add),
    "sub": _elementwise(np.subtract),
    "mul": _elementwise(np.multiply),
    "div": _elementwise(np.divide),
    "maximum": _elementwise(np.maximum),
    "exp": _elementwise(np.exp, alone=True),
    "logaddexp": _elementwise(np.logaddexp, alone=True),
    "clamp_min": _clamp_min,
    "pow": _power,
    "mm": _mm,
    "addmm": _addmm,
    "bmm": _with_out(torch.bmm),
    "lerp": _with_out(torch.lerp),
    "rsqrt": _with_out(torch.rsqrt),
    "gelu": _gelu,
    "native_layer_norm": _layer_norm,
    "_softmax": _softmax,
    "_to_copy": _to_copy,
    "linalg_vector_norm": _norm,
    "cat": _cat,
    "sum": _sum,
    "mean": _mean,
    "embedding": _embedding,
}
