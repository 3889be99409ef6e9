"""What RecBole's models make of random weights and histories, for parity.py to compare with.

    recbole-env/bin/python benchmarks/peers/recbole/outputs.py FOLDER

Runs in RecBole's environment and imports nothing of longrec. Each model is made by its own class,
gets small random weights, and is asked in evaluation, in float64; weights, inputs and outputs go to
FOLDER/recbole-NAME.npz. Attention's projections get no biases, as they start and as longrec has it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.model.sequential_recommender.bert4rec import BERT4Rec
from recbole.model.sequential_recommender.gru4rec import GRU4Rec
from recbole.model.sequential_recommender.sasrec import SASRec
from torch import nn

ITEMS, LONGEST, DIM, INNER = 12, 7, 8, 12
SETTINGS = {
    "USER_ID_FIELD": "user",
    "ITEM_ID_FIELD": "item",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "length",
    "NEG_PREFIX": "neg_",
    "MAX_ITEM_LIST_LENGTH": LONGEST,
    "device": "cpu",
    "n_layers": 2,
    "n_heads": 2,
    "hidden_size": DIM,
    "inner_size": INNER,
    "hidden_dropout_prob": 0.5,
    "attn_dropout_prob": 0.5,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "loss_type": "CE",
    "mask_ratio": 0.2,
    "MASK_ITEM_SEQ": "masked",
    "POS_ITEMS": "positives",
    "NEG_ITEMS": "negatives",
    "MASK_INDEX": "places",
    "embedding_size": DIM,
    "num_layers": 1,
    "dropout_prob": 0.5,
}
PROJECTIONS = tuple(f"{part}.bias" for part in ("query", "key", "value", "attention.dense"))


class Catalog:
    """What a model asks of a data set."""

    def num(self, field: str) -> int:
        return ITEMS + 1


def drawn(model: nn.Module) -> nn.Module:
    """The model with random weights that single precision holds, for evaluation."""
    for name, weight in model.named_parameters():
        projection = any(
            part in name for part in (".query.", ".key.", ".value.", "attention.dense.")
        )
        scale = 0.0 if projection and name.endswith("bias") else 0.5
        weight.data.normal_(0, scale)
    return model.double().eval()


def save(folder: Path, name: str, model: nn.Module, **arrays: torch.Tensor) -> None:
    weights = {
        f"w/{key}": value.numpy().astype(np.float32) for key, value in model.state_dict().items()
    }
    given = {key: value.numpy() for key, value in arrays.items()}
    np.savez_compressed(folder / f"recbole-{name}.npz", **weights, **given)


@torch.no_grad()
def main() -> None:
    """Write a file for each model."""
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    catalog: Any = Catalog()
    lengths = torch.tensor([1, 2, 4, 6, LONGEST])
    items = torch.randint(1, ITEMS + 1, (len(lengths), LONGEST))
    items[torch.arange(LONGEST) >= lengths[:, None]] = 0
    asked = {"item_list": items, "length": lengths}
    for name, cls in (("sasrec", SASRec), ("gru4rec", GRU4Rec)):
        model = drawn(cls(SETTINGS, catalog))
        h, scores = model(items, lengths), model.full_sort_predict(asked)
        save(folder, name, model, items=items, lengths=lengths, h=h, scores=scores)
    model = drawn(BERT4Rec(SETTINGS, catalog))
    read = model.reconstruct_test_data(items, lengths)
    scores = model.full_sort_predict(asked)
    given = {"items": items, "lengths": lengths, "read": read, "h": model(read), "scores": scores}
    save(folder, "bert4rec", model, **given)


if __name__ == "__main__":
    main()
