"""The linear transformer (arXiv 2006.16236): blocks of linear attention with features elu + 1.

The paper adds positions to its inputs. Histories have no longest length here, so that a short
convolution gives the sense of order in their place; without it, events before the last one are a
set.
"""

from __future__ import annotations

from longrec.mixers.linear_transformer import LinearTransformerMixer
from longrec.models.common.config import LinearAttentionConfig
from longrec.models.common.registry import register_model
from longrec.models.common.sequence import SequenceModel


@register_model("linear-transformer")
class LinearTransformer(SequenceModel):
    """Blocks of causal linear attention (elu + 1, divided by its weights) over whole histories."""

    paper = "arXiv 2006.16236"
    streaming = "exact"
    config_class = LinearAttentionConfig

    def __init__(self, config: LinearAttentionConfig, n_items: int) -> None:
        mixers = [
            LinearTransformerMixer(config.dim, config.heads, config.convolution)
            for _ in range(config.layers)
        ]
        super().__init__(config, n_items, mixers)
