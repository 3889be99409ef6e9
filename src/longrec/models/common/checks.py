"""Checks that configs share; each error names the field, its value and the mend."""

from __future__ import annotations

from typing import Literal, Protocol

Targets = Literal["next", "masked", "last"]
"""Which events a model is trained to predict.

"next": every event but the first, from what is known after the one before (causal models).
"masked": a share of the events, each replaced by a mask vector (bidirectional models).
"last": the event after each of a few sampled prefixes, from the prefix's last event (any model).
"""


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


def check_targets(model_name: str, targets: Targets, causal: bool) -> None:
    """Targets that the model cannot copy and that its mixers can learn from."""
    if targets == "next" and not causal:
        raise ValueError(
            f"targets is 'next', but {model_name} sees later events, so that predicting each next "
            "item would train it to copy: use targets=masked or targets=last"
        )
    if targets == "masked" and causal:
        raise ValueError(
            f"targets is 'masked', but {model_name} sees no later events: use targets=next or "
            "targets=last"
        )
