"""A device that is not the CPU, on a machine that has none: "cuda", simulated with real values.

Within `other_device()` tensors made on or moved to "cuda" say that they are there. They refuse what
a GPU's refuse: `.numpy()`, and to meet a tensor of the CPU in an operation. What they compute is
computed on the CPU, so that whole programs run, and their numbers are right. Speed, kernels, CUDA
graphs and memory are not simulated.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_map

CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
aten = torch.ops.aten
CROSSES = {aten.copy_.default, aten._copy_from.default, aten.set_.source_Tensor}
"""Operations that take tensors of both devices."""
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
"""Operations of a GPU's tensor that take indices of the CPU, too."""


class Elsewhere(Tensor):
    """A tensor on the other device; `inner` has its values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            requires_grad=inner.requires_grad,
        )
        made.inner = inner.detach()
        return made

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        _refuse_mixed(func, args)
        named = dict(kwargs or {})
        if named.get("device") is not None and torch.device(named["device"]).type == "cuda":
            named["device"] = CPU
        out = func(*tree_map(_inner, args), **tree_map(_inner, named))
        out = tree_map(lambda x: Elsewhere(x) if isinstance(x, Tensor) else x, out)
        return return_and_correct_aliasing(func, args, dict(kwargs or {}), out)

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor "
            "to host memory first."
        )

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"Elsewhere({self.inner})"


def _inner(x: Any) -> Any:
    return x.inner if isinstance(x, Elsewhere) else x


def _refuse_mixed(func: Any, args: Sequence[Any]) -> None:
    """Raise RuntimeError where a GPU's tensor meets one of the CPU that is no single number."""
    if func in CROSSES:
        return
    if func in INDEXED and isinstance(args[0], Elsewhere):
        args = (args[0], *args[2:3])
    found: list[Tensor] = []
    tree_map(lambda x: found.append(x) if isinstance(x, Tensor) else None, list(args))
    plain = [x for x in found if not isinstance(x, Elsewhere) and x.ndim]
    if plain:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu! ({func}: of the CPU are {[tuple(x.shape) for x in plain]})"
        )


class _There(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return Elsewhere(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad.inner


class _Back(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Elsewhere) -> Tensor:  # type: ignore[override]
        return x.inner.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return Elsewhere(grad)


def _moved(x: Tensor, device: torch.device | None) -> Tensor:
    """x on a device; None stands for where it is."""
    there = isinstance(x, Elsewhere)
    if device is None or there == (device.type == "cuda") or device.type == "meta":
        return x if device is None or device.type != "meta" else x.to(device)
    return _There.apply(x) if device.type == "cuda" else _Back.apply(x)


class _Mode(TorchFunctionMode):
    """Moves between devices, and makes tensors where they are asked for."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda) and args[0].device.type != "meta":
            return self._to(func, args, kwargs)
        device = kwargs.get("device")
        wanted = None if device is None or isinstance(device, int) else torch.device(device)
        if wanted is None or wanted.type == "meta":
            return func(*args, **kwargs)
        if wanted.type == "cuda":
            kwargs["device"] = CPU
            return tree_map(
                lambda x: Elsewhere(x) if isinstance(x, Tensor) and type(x) is Tensor else x,
                func(*args, **kwargs),
            )
        return func(*tree_map(_inner, args), **kwargs)

    def _to(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        x, rest = args[0], list(args[1:])
        if func is Tensor.cpu:
            return _moved(x, CPU)
        if func is Tensor.cuda:
            return _moved(x, CUDA)
        kwargs.pop("copy", None)
        if rest and isinstance(rest[0], Tensor):
            rest[:1] = [rest[0].device, rest[0].dtype]
        device, dtype, *_ = torch._C._nn._parse_to(*rest, **kwargs)
        if device is not None and device.type == "meta":
            return func(_inner(x), *rest, **kwargs)
        x = _moved(x, device)
        return x if dtype is None else func(x, dtype)


class _NoGrad(torch.no_grad):
    """Stands for inference mode, in which no tensor of Python's own can be made."""

    def __enter__(self) -> None:
        self.prev = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)


def _of_values(name: str) -> Callable[..., Any]:
    of_cpu = getattr(safetensors.torch, name)
    return lambda tensors, *rest: of_cpu({k: _inner(x) for k, x in tensors.items()}, *rest)


@contextmanager
def other_device() -> Iterator[None]:
    """Within it, the device "cuda" is there: torch.device("cuda") and .to("cuda") work."""
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    inference = torch.inference_mode
    try:
        with (
            pytest.MonkeyPatch.context() as patch,
            warnings.catch_warnings(),
            _Mode(),
        ):
            patch.setattr(inference, "__enter__", _NoGrad.__enter__)
            patch.setattr(inference, "__exit__", _NoGrad.__exit__)
            # Its generator: what is drawn there is drawn by the CPU's.
            generator = torch.Generator()
            patch.setattr(torch.cuda, "default_generators", (generator,))
            patch.setattr(torch.cuda, "current_device", lambda: 0)
            patch.setattr(torch.cuda, "get_rng_state", lambda device=0: generator.get_state())
            patch.setattr(
                torch.cuda, "set_rng_state", lambda state, device=0: generator.set_state(state)
            )
            for name in ("_flatten", "_flatten_as_ptr"):  # a GPU's tensors are copied when saved
                if hasattr(safetensors.torch, name):
                    patch.setattr(safetensors.torch, name, _of_values(name))
            warnings.filterwarnings("ignore", message=".*CUDA is not available")
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
