"""Efficient attention (arXiv 1812.01243), made causal: blocks of it in the common frame.

The paper's form reads whole inputs in both directions, and its authors hold a causal one to be
impossible. Here the softmax of keys is over the events so far.
"""

from __future__ import annotations

from longrec.mixers.efficient_attention import EfficientAttentionMixer
from longrec.models.common.config import LinearAttentionConfig
from longrec.models.common.registry import register_model
from longrec.models.common.sequence import SequenceModel


@register_model("efficient-attention")
class EfficientAttention(SequenceModel):
    """Blocks of causal efficient attention (keys' softmax over the events so far)."""

    paper = "arXiv 1812.01243"
    streaming = "exact"
    config_class = LinearAttentionConfig

    def __init__(self, config: LinearAttentionConfig, n_items: int) -> None:
        mixers = [
            EfficientAttentionMixer(config.dim, config.heads, config.convolution)
            for _ in range(config.layers)
        ]
        super().__init__(config, n_items, mixers)
