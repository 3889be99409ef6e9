"""FMLP-Rec (WWW 2022, arXiv 2202.13556): learnt filters instead of attention.

    x   = dropout(norm(E[item] + position))
    x   = norm(x + dropout(irfft(W * rfft(x))))
    x   = norm(x + dropout(ffn(x)))                 in each block; h is what the last one gives

along windows that are always full (FullWindowModel). Trained on prefixes, each predicting the event
after it, with one sampled negative and binary cross-entropy.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from longrec.mixers.fmlp_rec import FilterMixer
from longrec.models.common.config import FeedForwardConfig, LastEventsConfig, Targets
from longrec.models.common.registry import register_model
from longrec.models.common.windowed import FullWindowModel, places_of


@dataclass(frozen=True)
class FMLPRecConfig(LastEventsConfig, FeedForwardConfig):
    """Settings of FMLP-Rec; `max_length` is the paper's n, the places of its filters."""

    targets: Targets = "last"


@register_model("fmlp-rec")
class FMLPRec(FullWindowModel):
    """Blocks of learnt filters by frequency over the last events."""

    paper = "arXiv 2202.13556"
    # Of the authors' code, which trains on every prefix.
    paper_settings = MappingProxyType(
        {
            "max_length": 50,
            "dropout": 0.5,
            "loss": "bce",
            "batch_tokens": 12_800,
            "prefixes": 50,
            "beta2": 0.999,
            "weight_decay": 0.0,
            "warmup_steps": 0,
            "average": 0.0,
        }
    )
    causal = False
    streams_as = "hydrarec"
    config_class = FMLPRecConfig

    def __init__(self, config: FMLPRecConfig, n_items: int) -> None:
        mixers = [FilterMixer(config.dim, places_of(config)) for _ in range(config.layers)]
        super().__init__(config, n_items, mixers)
