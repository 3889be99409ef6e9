"""Settings that sequence models share, with their ranges; errors name field, value and mend."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal

from longrec.core.bounds import Bounds

WIDEST = 65_536
"""Most numbers of a vector, and most parts of one."""
LONGEST = 2**20
"""Most events that a layer with positions, or a band, reads at once."""
LATER = MappingProxyType({"gaps": False})
"""Settings that came after the first version, each with the value that leaves a model as it was
before: then the digest of states has none of it, and stores from before are good."""
Targets = Literal["next", "masked", "last"]
"""Which events a model is trained to predict.

"next": every event but the first, from what is known after the one before (causal models).
"masked": a share of the events, each replaced by a mask vector (bidirectional models).
"last": the event after each of a few sampled prefixes, from the prefix's last event (any model).
"""


@dataclass(frozen=True)
class SequenceConfig:
    """Settings of every sequence model.

    Attributes
    ----------
    dim : width of the model.
    layers : number of blocks.
    dropout : on the embedding and on what every block adds.
    targets : which events it is trained to predict: each next one, masked ones, or the one after
        a sampled prefix.
    gaps : whether the time since the event before is read with each event.
    """

    dim: Annotated[int, Bounds(ge=1, le=WIDEST)] = 64
    layers: Annotated[int, Bounds(ge=1, le=1024)] = 2
    dropout: Annotated[float, Bounds(ge=0, lt=1)] = 0.2
    targets: Targets = "next"
    gaps: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError where fields do not agree; of each alone the border takes care."""


@dataclass(frozen=True)
class FeedForwardConfig(SequenceConfig):
    """Settings of models whose blocks have a feed-forward network.

    Attributes
    ----------
    ffn_dim : width inside a block's feed-forward network.
    """

    ffn_dim: Annotated[int, Bounds(ge=1, le=WIDEST)] = 256


@dataclass(frozen=True)
class AttentionConfig(FeedForwardConfig):
    """Settings of models whose mixers have heads.

    Attributes
    ----------
    heads : parts of the width that attend alone, a divisor of `dim`.
    """

    heads: Annotated[int, Bounds(ge=1, le=WIDEST)] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.dim, self.heads)


@dataclass(frozen=True)
class LinearAttentionConfig(AttentionConfig):
    """Settings of models of linear attention; convolution=0 is the papers' mixer.

    Attributes
    ----------
    convolution : events of the short convolution before the projections; 0: none.
    """

    convolution: Annotated[int, Bounds(ge=0, le=1024)] = 4


@dataclass(frozen=True)
class LastEventsConfig(SequenceConfig):
    """Settings of models that read the last events alone.

    Attributes
    ----------
    max_length : most events that are read, a mask after them apart.
    """

    max_length: Annotated[int, Bounds(ge=1, le=LONGEST)] = 200


@dataclass(frozen=True)
class WindowedConfig(LastEventsConfig, AttentionConfig):
    """Settings of models that read the last events alone, by mixers with heads."""


def check_heads(dim: int, heads: int) -> None:
    """Raise ValueError unless the heads share the width evenly."""
    if dim % heads:
        raise ValueError(f"heads is {heads}; it must be a divisor of dim, which is {dim}")


def check_rotary(dim: int, heads: int) -> None:
    """Raise ValueError unless a head's features make pairs to be turned."""
    if dim // heads % 2:
        raise ValueError(f"dim / heads is {dim // heads}; rotary needs it even")


def check_targets(model: str, targets: Targets, causal: bool) -> None:
    """Raise ValueError for targets that a model would copy, or cannot learn from."""
    if targets == "next" and not causal:
        raise ValueError(
            f"targets is 'next', but {model} sees later events, so that predicting each next "
            "item would train it to copy: use targets=masked or targets=last"
        )
    if targets == "masked" and causal:
        raise ValueError(
            f"targets is 'masked', but {model} sees no later events: use targets=next or "
            "targets=last"
        )
