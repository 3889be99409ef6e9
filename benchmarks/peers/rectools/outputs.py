"""What RecTools' transformer layers make of random weights and vectors, for parity.py.

    rectools-env/bin/python benchmarks/peers/rectools/outputs.py FOLDER

Runs in RecTools' environment and imports nothing of longrec. Each stack of layers is made by its
own class, gets small random weights, and is asked in evaluation, in float64; weights, inputs and
outputs go to FOLDER/rectools-NAME.npz. Padding stands at the end of rows. Attention's projections
get no biases, as they start and as longrec has it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from rectools.models.nn.transformers.hstu import STULayers
from rectools.models.nn.transformers.ligr import LiGRLayers
from rectools.models.nn.transformers.net_blocks import PreLNTransformerLayers
from rectools.models.nn.transformers.sasrec import SASRecTransformerLayers
from torch import Tensor, nn

T, DIM, HEADS = 6, 8, 2
LENGTHS = (1, 3, 5, T)


def drawn(layers: nn.Module) -> nn.Module:
    """The layers with random weights that single precision holds, for evaluation.

    HSTU's norms keep the gain 1 that they start with: the paper's have none to learn.
    """
    for name, weight in layers.named_parameters():
        without = "multi_head_attn" in name and name.endswith("bias")
        if not name.split(".")[-2].startswith(("norm_input", "norm_attn")):
            weight.data.normal_(0, 0.0 if without else 0.5)
    return layers.double().eval()


def save(folder: Path, name: str, layers: nn.Module, **arrays: Tensor) -> None:
    weights = {
        f"w/{key}": value.numpy().astype(np.float32) for key, value in layers.state_dict().items()
    }
    given = {key: value.numpy() for key, value in arrays.items()}
    np.savez_compressed(folder / f"rectools-{name}.npz", **weights, **given)


def as_the_paper_says(layers: nn.Module, x: Tensor, later: Tensor) -> Tensor:
    """SASRec's equations with the same weights: x + f(norm(x)) around attention and network.

    RecTools adds to norm(x) instead, and takes keys and values of x without its norm, as the
    authors' own code does.
    """
    for layer in layers.transformer_blocks:
        n = layer.q_layer_norm(x)
        x = x + layer.multi_head_attn(n, n, n, attn_mask=later, need_weights=False)[0]
        x = x + layer.feed_forward(layer.ff_layer_norm(x))
    return x


@torch.no_grad()
def main() -> None:
    """Write a file for each kind of layer."""
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    lengths = torch.tensor(LENGTHS)
    real = torch.arange(T) < lengths[:, None]
    x = torch.randn(len(LENGTHS), T, DIM).double()
    later = torch.ones(T, T, dtype=torch.bool).triu(1)
    times = torch.randint(1, 10**6, (len(LENGTHS), T + 1)).cumsum(1)  # the request's is the last
    given = {"x": x.clone(), "lengths": lengths}

    layers = drawn(PreLNTransformerLayers(2, DIM, HEADS, 0.5))
    y = layers(x.clone(), real[..., None], None, ~real)
    save(folder, "bert4rec", layers, **given, y=y)

    layers = drawn(SASRecTransformerLayers(2, DIM, HEADS, 0.5))
    y = layers(x.clone(), real[..., None], later, None)
    paper = as_the_paper_says(layers, x.clone(), later)
    save(folder, "sasrec", layers, **given, y=y, paper=paper)

    layers = drawn(LiGRLayers(2, DIM, HEADS, 0.5))
    y = layers(x.clone(), real[..., None], later, None)
    save(folder, "esasrec", layers, **given, y=y)

    for name, knows_times in (("hstu-positions", False), ("hstu", True)):
        shape = {
            "linear_hidden_dim": DIM // HEADS,
            "attention_dim": DIM // HEADS,
            "session_max_len": T,
        }
        known = {"relative_time_attention": knows_times, "relative_pos_attention": True}
        layers = drawn(STULayers(2, DIM, HEADS, **shape, **known))
        batch = {"x": real.long(), "unix_ts": times}
        y = layers(x.clone(), real[..., None].double(), later, None, batch=batch)
        save(folder, name, layers, **given, times=times, y=y)


if __name__ == "__main__":
    main()
