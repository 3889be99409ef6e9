"""LinRec (SIGIR 2023, arXiv 2411.01537), made causal: blocks of L2-normalised linear attention.

The paper puts its mechanism in place of the attention of SASRec, BERT4Rec and others, and its
formula has no mask: every event reads all. Its code trains on the last event of each prefix, so
that nothing leaks there. This model reads, at every event, the paper's form over the events so far:
one layer of it is one of the paper's on each prefix. So it learns from every next item, and
streams. Where the released code differs from the paper (docs/systems/linear.md), the paper counts.
"""

from __future__ import annotations

from types import MappingProxyType

from longrec.mixers.linrec import LinRecMixer
from longrec.models.common.config import LinearAttentionConfig
from longrec.models.common.registry import register_model
from longrec.models.common.sequence import SequenceModel


@register_model("linrec")
class LinRec(SequenceModel):
    """Blocks of causal L2-normalised linear attention over whole histories."""

    paper = "arXiv 2411.01537"
    paper_settings = MappingProxyType(
        {
            "dim": 128,
            "heads": 8,
            "context": 200,
            # Its batch is 2,048 prefixes with a target each; here each event is a target.
            "batch_tokens": 2048,
            "weight_decay": 0.0,
        }
    )
    streaming = "exact"
    config_class = LinearAttentionConfig

    def __init__(self, config: LinearAttentionConfig, n_items: int) -> None:
        mixers = [
            LinRecMixer(config.dim, config.heads, config.convolution) for _ in range(config.layers)
        ]
        super().__init__(config, n_items, mixers)
