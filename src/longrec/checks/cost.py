"""What a computation costs, counted and not timed: operations, numbers written, largest tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from longrec.checks.compare import require

STEEPEST = 1.05
"""Largest exponent of T with which a cost that is said to be linear may grow."""

CALLS_OF_AN_EVENT = 8
"""Calls per event above which a computation goes event by event, and not by chunks."""
FEW = 16
"""Events of which a cost still tells how it grows."""


@dataclass
class Cost:
    """What a computation did: operations, tensor elements written, the largest tensor, calls."""

    operations: float = 0.0
    written: float = 0.0
    largest: int = 0
    calls: int = 0
    by_name: dict[str, float] = field(default_factory=dict)


class Counter(TorchDispatchMode):
    """Counts operations as they are dispatched: 2 m n k for a product, else 1 per element.

    A Fourier transform along n places counts log2 n per element.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cost = Cost()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.rstrip("_")  # of a product in place, too
        if func.is_view or name in ("detach", "_unsafe_view"):
            return result
        made = result if isinstance(result, (tuple, list)) else [result]
        sizes = [(t._values() if t.is_sparse else t).numel() for t in made if isinstance(t, Tensor)]
        operations = float(sum(sizes))
        if name in ("mm", "bmm", "addmm", "baddbmm"):
            left = args[1 if name in ("addmm", "baddbmm") else 0]
            operations = 2.0 * sizes[0] * left.shape[-1]
        elif name.startswith("_scaled_dot_product"):
            backward = "backward" in name
            q, k = args[backward], args[backward + 1]
            operations = (10.0 if backward else 4.0) * q.numel() * k.shape[-2]
        elif name.startswith("convolution"):
            operations *= 2 * args[1 if name == "convolution" else 2].shape[-1]
        elif name.startswith("_fft"):
            operations *= max(1.0, math.log2(args[0].shape[args[1][0]]))
        self.cost.operations += operations
        self.cost.written += sum(sizes)
        self.cost.calls += 1
        self.cost.largest = max([self.cost.largest, *sizes])
        self.cost.by_name[name] = self.cost.by_name.get(name, 0) + operations
        return result


def exponents(cost_at: Callable[[int], Cost], shortest: int, times: int = 16) -> dict[str, float]:
    """Exponents with which a cost grows from `shortest` to so many times as many events.

    What goes event by event would be counted for a quarter of a minute: its short histories, up to
    `shortest`, tell as much, since nothing but their number of events differs.
    """
    low = cost_at(shortest)
    if low.calls > CALLS_OF_AN_EVENT * shortest > CALLS_OF_AN_EVENT * times * FEW:
        low, high = cost_at(shortest // times), low
    else:
        high = cost_at(times * shortest)
    return {
        what: math.log(getattr(high, what) / getattr(low, what), times)
        for what in ("operations", "written", "largest")
    }


def check_growth(grown: dict[str, float]) -> None:
    """Raise CheckFailed where a cost grows faster than in proportion to the history."""
    phrases = {
        "operations": "operations grow",
        "written": "numbers written grow",
        "largest": "the largest tensor grows",
    }
    for what, exponent in grown.items():
        require(
            exponent <= STEEPEST,
            f"{phrases[what]} as T^{exponent:.2f} (at most T^{STEEPEST} allowed). A loop over "
            "x[:, t] costs T^2 in the backward pass: use x.unbind(1) or chunks. If the mechanism "
            "is not linear, set linear = False.",
        )
