"""GRU4Rec (arXiv 1511.06939): a gated recurrent unit over the user's items.

Its layers stand one on the other without norms and without ways past them, and scores are products
of the last layer's state with the vectors of the items, and a bias of each.

The paper feeds one-hot items into the gates, so that the input's weights are a table of the items;
here, as in the authors' later code (arXiv 1706.03847, "constrained embedding"), one table is read
and scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from torch import Tensor, nn

from longrec.mixers import Mixer
from longrec.mixers.gru import GRUMixer
from longrec.models.common.blocks import Block, Dropout
from longrec.models.common.config import SequenceConfig
from longrec.models.common.registry import register_model
from longrec.models.common.sequence import SequenceModel


@dataclass(frozen=True)
class GRU4RecConfig(SequenceConfig):
    """Settings of GRU4Rec: `dim` is the number of units of each layer."""


class GRUBlock(Block):
    """A recurrent layer and dropout on what it gives; its state goes on undropped."""

    def __init__(self, mixer: Mixer, config: GRU4RecConfig) -> None:
        super().__init__(mixer, config)
        self.dropout = Dropout(config.dropout)

    def after(self, x: Tensor, mixed: Tensor) -> Tensor:
        return cast(Tensor, self.dropout(mixed))


@register_model("gru4rec")
class GRU4Rec(SequenceModel):
    """Layers of gated recurrent units over whole histories, and a bias of each item."""

    paper = "arXiv 1511.06939"
    # Of its runs with cross-entropy on RSC15: 500 sessions at once, an event of each a step, whose
    # next items are each other's negatives.
    paper_settings = MappingProxyType(
        {
            "dim": 100,
            "layers": 1,
            "dropout": 0.0,
            "loss": "sampled",
            "negatives": 499,
            "batch_tokens": 500,
            "learning_rate": 1e-2,
            "weight_decay": 0.0,
        }
    )
    streaming = "exact"
    config_class = GRU4RecConfig

    def __init__(self, config: GRU4RecConfig, n_items: int) -> None:
        mixers = [GRUMixer(config.dim) for _ in range(config.layers)]
        super().__init__(config, n_items, mixers, block=GRUBlock, bias=True)
        self.norm = nn.Identity()
