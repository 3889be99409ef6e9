"""WEARec (AAAI 2026, arXiv 2511.07028): filters that the history chooses, and a Haar level.

The frame is FMLP-Rec's: windows that are always full, norms after each part, h what the last block
gives. Trained on prefixes, each predicting the event after it, by cross-entropy over all items.
The weights that its authors published give their figures in this model
(benchmarks/peers/filters/checkpoint.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

from longrec.core.bounds import Bounds
from longrec.mixers.wearec import WaveletFilterMixer
from longrec.models.common.config import Targets, WindowedConfig
from longrec.models.common.registry import register_model
from longrec.models.common.windowed import FullWindowModel, places_of


@dataclass(frozen=True)
class WEARecConfig(WindowedConfig):
    """Settings of WEARec; `max_length` is the paper's N, the places of its filters.

    Attributes
    ----------
    alpha : share of the filters by frequency; the Haar level has the rest.
    """

    alpha: Annotated[float, Bounds(gt=0, lt=1)] = 0.3
    targets: Targets = "last"


@register_model("wearec")
class WEARec(FullWindowModel):
    """Blocks of filters by frequency that the history chooses, with a Haar level."""

    paper = "arXiv 2511.07028"
    # Of the published run on Beauty, which trains on every prefix.
    paper_settings = MappingProxyType(
        {
            "max_length": 50,
            "heads": 8,
            "alpha": 0.2,
            "dropout": 0.5,
            "learning_rate": 5e-4,
            "batch_tokens": 12_800,
            "prefixes": 50,
            "beta2": 0.999,
            "weight_decay": 0.0,
            "warmup_steps": 0,
            "average": 0.0,
        }
    )
    causal = False
    streams_as = "elastic"
    config_class = WEARecConfig

    def __init__(self, config: WEARecConfig, n_items: int) -> None:
        mixers = [
            WaveletFilterMixer(config.dim, config.heads, config.alpha, places_of(config))
            for _ in range(config.layers)
        ]
        super().__init__(config, n_items, mixers)
