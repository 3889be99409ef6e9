"""Operations of a pass, counted as torch dispatches them: those of matrix products alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


def operations(run: Callable[[], object]) -> int:
    """2 m n k of each matrix product; fused attention that is causal does half of its square."""
    counter = _Counter()
    with counter:
        run()
    return counter.total


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        packet = _IN_PLACE.get(func.overloadpacket, func.overloadpacket)
        if packet in _FUSED:
            self.total += _FUSED[packet](args, kwargs)
        elif packet in flop_registry:
            self.total += int(flop_registry[packet](*args, **kwargs, out_val=result))
        return result


def _products(number: int, first: int) -> Callable[[Any, Any], int]:
    """Of so many products between all queries and all keys; query and key are args first and on.

    Whether it is causal stands 4 after the query forward, 6 after it backward.
    """
    place = first + (6 if first else 4)

    def count(args: Any, kwargs: Any) -> int:
        q, k = args[first], args[first + 1]
        whole = number * 2 * q.numel() * k.shape[-2]
        causal = args[place] if len(args) > place else kwargs.get("is_causal", False)
        return int(whole // 2 if causal else whole)

    return count


_IN_PLACE = {aten.addmm_: aten.addmm, aten.baddbmm_: aten.baddbmm}
_FUSED: dict[Any, Callable[[Any, Any], int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _products(2, 0),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _products(5, 1),
}
"""Attention on a CPU, which torch's own counter leaves out."""
