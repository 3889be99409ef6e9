"""What all checks share: the errors they raise, and comparisons that name what differs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from longrec.mixers import State


class CheckFailed(AssertionError):
    """A property does not hold; the message names the property, the tensor and the numbers."""


class NotApplicable(Exception):
    """A check asks nothing of this mixer or model; the message says why."""


class NotChecked(NotApplicable):
    """A check lacks what it needs; the message says what to give it."""


def applies(holds: bool, reason: str) -> None:
    """Raise NotApplicable with the reason unless something holds."""
    if not holds:
        raise NotApplicable(reason)


def require(holds: bool | Tensor, message: str) -> None:
    """Raise CheckFailed with the message unless something holds."""
    if not bool(holds):
        raise CheckFailed(message)


def same(name: str, got: Tensor, wanted: Tensor, tolerance: float) -> None:
    """Raise CheckFailed unless two tensors are equal.

    The difference is taken relative to the largest number wanted; infinities must match.
    """
    require(
        got.shape == wanted.shape, f"{name}: shape {tuple(got.shape)}, not {tuple(wanted.shape)}"
    )
    if not got.numel():
        return
    got, wanted = got.detach().double(), wanted.detach().double()
    still = torch.isfinite(wanted)
    require(torch.equal(got[~still], wanted[~still]), f"{name}: infinities or NaN differ")
    got, wanted = got[still], wanted[still]
    if got.numel():
        error = (got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-2)
        # Not "error > tolerance": NaN is not below anything.
        require(error <= tolerance, f"{name}: relative error {float(error):.2e} > {tolerance:.0e}")


def parts(state: State, name: str = "state") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a state with its name."""
    names: Iterable[object] = getattr(state, "_fields", range(len(state)))
    for key, part in zip(names, state, strict=True):
        if isinstance(part, Tensor):
            yield f"{name}.{key}", part
        else:
            yield from parts(part, f"{name}.{key}")


def same_state(got: State, wanted: State, tolerance: float) -> None:
    """Raise CheckFailed unless two states are equal, tensor by tensor."""
    for (name, part), (_, other) in zip(parts(got), parts(wanted), strict=True):
        same(name, part, other, tolerance)


def finite(name: str, tensor: Tensor) -> None:
    """Raise CheckFailed where a tensor holds NaN or an infinity."""
    bad = int((~torch.isfinite(tensor)).sum())
    require(not bad, f"{name} are not finite: {bad} of {tensor.numel()} numbers")
