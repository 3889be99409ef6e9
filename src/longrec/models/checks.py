"""Checks that configs share; each error names the field, its value and the mend."""

from __future__ import annotations

from typing import Protocol


class HasShape(Protocol):
    """The fields every sequence model has."""

    @property
    def dim(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def ffn_dim(self) -> int: ...
    @property
    def dropout(self) -> float: ...


def check_shape(config: HasShape) -> None:
    """Width, depth and dropout in range."""
    for name in ("dim", "layers", "ffn_dim"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be at least 1")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"dropout is {config.dropout}; it must lie in [0, 1)")


def check_heads(dim: int, heads: int) -> None:
    """Heads divide the width."""
    if heads < 1 or dim % heads:
        raise ValueError(f"heads is {heads}; it must be a divisor of dim, which is {dim}")
