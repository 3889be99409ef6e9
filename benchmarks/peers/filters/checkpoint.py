"""Rank a log by weights that WEARec's authors published, in longrec's `wearec`.

    python benchmarks/peers/filters/checkpoint.py WEIGHTS.pt LOG.parquet --alpha 0.2

Prints NDCG and HR of leave-one-out's test targets, full ranking, seen items filtered, as a line of
JSON. The number of places, heads and items is read off the weights; alpha is not among them.
`--items first-seen` numbers the log's items as they come, user after user; else their ids are
the numbers that the weights mean.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

import longrec
from longrec.data.splits import leave_one_out
from longrec.evaluation.metrics import hr, ndcg
from longrec.evaluation.rank_targets import rank_targets
from longrec.models import SequenceModel, build_model
from longrec.models.common.scorer import Scorer
from longrec.models.wearec import WEARecConfig

Weights = dict[str, Tensor]
OF_BLOCK = {
    "mixer.gain": "layer.base_filter",
    "mixer.offset": "layer.base_bias",
    "mixer.context.0.weight": "layer.adaptive_mlp.0.weight",
    "mixer.context.0.bias": "layer.adaptive_mlp.0.bias",
    "mixer.context.2.weight": "layer.adaptive_mlp.2.weight",
    "mixer.context.2.bias": "layer.adaptive_mlp.2.bias",
    "norm.weight": "layer.LayerNorm.weight",
    "norm.bias": "layer.LayerNorm.bias",
    "ffn.0.weight": "feed_forward.dense_1.weight",
    "ffn.0.bias": "feed_forward.dense_1.bias",
    "ffn.2.weight": "feed_forward.dense_2.weight",
    "ffn.2.bias": "feed_forward.dense_2.bias",
    "ffn_norm.weight": "feed_forward.LayerNorm.weight",
    "ffn_norm.bias": "feed_forward.LayerNorm.bias",
}
"""Our names and the published ones, in each block."""


def converted(theirs: Weights, alpha: float) -> tuple[WEARecConfig, Weights]:
    """The config and the weights of `wearec` that gives what the published weights give."""
    items, positions = theirs["item_embeddings.weight"], theirs["position_embeddings.weight"]
    heads, layers = theirs["item_encoder.blocks.0.layer.base_filter"].shape[0], 0
    # Their padding has a vector that was drawn and never learnt. Here it is 0, and what it was goes
    # to the positions: the scores of a user all change alike.
    padding = items[0]
    # Here items come scaled by sqrt D; the norm that follows forgets a scale that all share.
    ours = {
        "items": items - padding,
        "positions": (positions + padding) * items.shape[1] ** 0.5,
        "embedding_norm.weight": theirs["LayerNorm.weight"],
        "embedding_norm.bias": theirs["LayerNorm.bias"],
    }
    while f"item_encoder.blocks.{layers}.layer.base_filter" in theirs:
        block = f"item_encoder.blocks.{layers}"
        for own, name in OF_BLOCK.items():
            part = theirs[f"{block}.{name}"]
            ours[f"blocks.{layers}.{own}"] = part[..., 0] if part.ndim == 3 else part
        detail = theirs[f"{block}.layer.complex_weight"][0]  # (H, N / 2, d), real numbers
        ours[f"blocks.{layers}.mixer.detail"] = detail.transpose(0, 1).flatten(1)
        layers += 1
    hidden = len(theirs["item_encoder.blocks.0.feed_forward.dense_1.bias"])
    config = WEARecConfig(
        dim=items.shape[1],
        layers=layers,
        ffn_dim=hidden,
        heads=heads,
        max_length=len(positions),
        alpha=alpha,
    )
    return config, ours


def main() -> None:
    """Load, rank and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("log", type=Path, help="Parquet with user_id, item_id and position")
    parser.add_argument("--alpha", type=float, required=True)
    parser.add_argument("--items", choices=("own", "first-seen"), default="own")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    theirs = torch.load(given.weights, map_location="cpu", weights_only=True)
    config, ours = converted(theirs, given.alpha)

    log = pl.read_parquet(given.log, columns=["user_id", "item_id", "position"])
    if given.items == "first-seen":
        numbers = log.sort("user_id", "position")["item_id"].unique(maintain_order=True)
        number = pl.DataFrame({"item_id": numbers}).with_row_index("number", offset=1)
        log = log.join(number, on="item_id").drop("item_id").rename({"number": "item_id"})
    with tempfile.TemporaryDirectory() as folder:
        data = longrec.prepare(log, Path(folder) / "h", order="position")
        ids = torch.tensor([0, *data.catalog.ids.to_list()])
        if int(ids.max()) >= len(ours["items"]):
            raise SystemExit(f"the log has item {int(ids.max())}, the weights fewer: --items?")
        ours["items"] = ours["items"][ids]
        model = build_model("wearec", config, data.n_items)
        assert isinstance(model, SequenceModel)
        model.load_state_dict(ours)
        ranks = rank_targets(Scorer(model.eval()), data, leave_one_out(data).test)["rank"]
    found = {
        f"{name}@{k}": round(float(metric(ranks.to_numpy(), k).mean()), 4)
        for name, metric in (("ndcg", ndcg), ("hr", hr))
        for k in (5, 10, 20)
    }
    print(json.dumps({"weights": given.weights.stem, "targets": len(ranks), **found}))


if __name__ == "__main__":
    main()
