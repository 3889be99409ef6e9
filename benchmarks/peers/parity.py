"""Compare longrec's systems with what maintained libraries make of the same weights.

    recbole-env/bin/python benchmarks/peers/recbole/outputs.py FOLDER
    rectools-env/bin/python benchmarks/peers/rectools/outputs.py FOLDER
    python benchmarks/peers/parity.py FOLDER

Prints a line per comparison: the largest difference of outputs, relative to the largest output. All
is float64, so that what is the same agrees to some 1e-14. Where a peer does something else than the
paper, that difference is shown too, and said.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, gelu

from longrec.mixers import Context
from longrec.mixers.gru import GRUMixer
from longrec.mixers.hstu import HSTUMixer
from longrec.mixers.softmax import BidirectionalSoftmaxMixer, SoftmaxMixer
from longrec.models.common.blocks import Block, FeedForwardBlock, PostNormBlock
from longrec.models.common.config import WindowedConfig
from longrec.models.esasrec import LiGRBlock
from longrec.models.hstu import HSTUBlock, HSTUConfig

DIM, HEADS = 8, 2
SAME = 1e-12
"""Relative difference up to which two float64 results are the same."""


class Found(NamedTuple):
    """What is compared, its relative difference, and why there is one where there should be."""

    system: str
    difference: float
    because: str = ""


class Given:
    """What a peer's script wrote: its weights by name, its inputs and outputs."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            arrays = {key: torch.from_numpy(file[key]) for key in file.files}
        self.weights = {
            key.removeprefix("w/"): value.double()
            for key, value in arrays.items()
            if key.startswith("w/")
        }
        self.arrays = {key: value for key, value in arrays.items() if not key.startswith("w/")}

    def __getitem__(self, key: str) -> Tensor:
        return self.arrays[key]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The weights whose names begin so, by the rest of them."""
        return {k.removeprefix(prefix): v for k, v in self.weights.items() if k.startswith(prefix)}


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="what the peers' scripts wrote")
    torch.set_grad_enabled(False)
    for found in compare(parser.parse_args().folder):
        print(f"{found.system}: {found.difference:.1e}" + (found.because and f" ({found.because})"))


def compare(folder: Path) -> Iterator[Found]:
    """Every comparison whose file is there."""
    for name, comparison in COMPARISONS.items():
        path = folder / f"{name}.npz"
        if path.is_file():
            for found in comparison(Given(path)):
                yield found._replace(system=f"{name}{found.system and ', '}{found.system}")


def difference(own: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest of theirs."""
    return float((own - theirs).detach().abs().max() / theirs.abs().max())


def at_last(h: Tensor, lengths: Tensor) -> Tensor:
    """h (B, T, D) at each row's last event."""
    return h[torch.arange(len(h)), lengths - 1]


def stack(
    block: type[Block], mixer: type[SoftmaxMixer], inner: int, weights: list[Mapping[str, Tensor]]
) -> nn.ModuleList:
    """longrec's own blocks around its own mixer, with these weights, in float64."""
    config = WindowedConfig(dim=DIM, heads=HEADS, ffn_dim=inner)
    blocks = nn.ModuleList(block(mixer(DIM, HEADS), config) for _ in weights)
    for one, own in zip(blocks, weights, strict=True):
        one.load_state_dict(own)
    return blocks.double().eval()


def through(blocks: nn.ModuleList, x: Tensor, lengths: Tensor) -> Tensor:
    """x (B, T, D) with padding at the end, through blocks."""
    for block in blocks:
        x = cast(Block, block)(x, Context(lengths=lengths))
    return x


# ---- RecBole


def recbole_layers(given: Given) -> list[Mapping[str, Tensor]]:
    """Weights of its post-norm layers, by longrec's names."""
    found = []
    for n in range(2):
        own = given.under(f"trm_encoder.layer.{n}.")
        attention, network = "multi_head_attention.", "feed_forward."
        rows = [own[f"{attention}{part}.weight"] for part in ("query", "key", "value")]
        named = {
            "mixer.inputs.weight": torch.cat(rows),
            "mixer.output.weight": own[f"{attention}dense.weight"],
        }
        for kind in ("weight", "bias"):
            named[f"norm.{kind}"] = own[f"{attention}LayerNorm.{kind}"]
            named[f"ffn.0.{kind}"] = own[f"{network}dense_1.{kind}"]
            named[f"ffn.2.{kind}"] = own[f"{network}dense_2.{kind}"]
            named[f"ffn_norm.{kind}"] = own[f"{network}LayerNorm.{kind}"]
        found.append(named)
    return found


def recbole_encoder(
    given: Given, mixer: type[SoftmaxMixer], items: Tensor, lengths: Tensor
) -> Tensor:
    """Its frame (positions from the first event, a norm after the embedding), longrec's layers."""
    x = embedding(items, given.weights["item_embedding.weight"])
    x = norm(x + given.weights["position_embedding.weight"], given.under("LayerNorm."))
    return through(stack(PostNormBlock, mixer, 12, recbole_layers(given)), x, lengths)


def norm(x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """LayerNorm with RecBole's epsilon."""
    return nn.functional.layer_norm(x, x.shape[-1:], weights["weight"], weights["bias"], 1e-12)


def recbole_sasrec(given: Given) -> Iterator[Found]:
    lengths, items = given["lengths"], given.weights["item_embedding.weight"]
    h = at_last(recbole_encoder(given, SoftmaxMixer, given["items"], lengths), lengths)
    yield Found("h", difference(h, given["h"]))
    yield Found("scores", difference(h @ items.T, given["scores"]))


def recbole_bert4rec(given: Given) -> Iterator[Found]:
    """As its encoder reads a row with a mask; then what its own preparation makes of a history."""
    read, items = given["read"], given.weights["item_embedding.weight"]
    lengths = (read > 0).sum(1)
    h = recbole_encoder(given, BidirectionalSoftmaxMixer, read, lengths)
    network = given.under("output_ffn.")
    h = norm(gelu(h @ network["weight"].T + network["bias"]), given.under("output_ln."))
    real = torch.arange(h.shape[1]) < lengths[:, None]
    yield Found("h", difference(h[real], given["h"][real]))
    scores = at_last(h, lengths) @ items[:-1].T + given.weights["output_bias"]
    yield Found("scores", difference(scores, given["scores"]))
    # A history shorter than the window loses its first event: the row is cut in front after the
    # mask was appended, whether it was full or not.
    kept, whole = lengths - 1, given["lengths"]
    lost = float(((whole - kept)[whole < read.shape[1]] > 0).double().mean())
    why = "share of histories that fit and still lose their first event before they are read"
    yield Found("events of short histories", lost, why)


def recbole_gru4rec(given: Given) -> Iterator[Found]:
    """Gates without biases, and a network before the scores, which longrec has not."""
    mixer = GRUMixer(DIM).double()
    for name, weight in mixer.gru.named_parameters():
        weight.data = given.weights.get(f"gru_layers.{name}", torch.zeros_like(weight))
    items, dense = given.weights["item_embedding.weight"], given.under("dense.")
    lengths = given["lengths"]
    y = at_last(mixer(embedding(given["items"], items), Context(lengths=lengths)), lengths)
    h = y @ dense["weight"].T + dense["bias"]
    yield Found("h", difference(h, given["h"]))
    yield Found("scores", difference(h @ items.T, given["scores"]))


# ---- RecTools


def rectools_attention(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Its torch attention, by longrec's names."""
    return {
        "mixer.inputs.weight": own["multi_head_attn.in_proj_weight"],
        "mixer.output.weight": own["multi_head_attn.out_proj.weight"],
    }


def rectools_layers(given: Given, first: str, second: str) -> list[Mapping[str, Tensor]]:
    """Weights of its layers with two norms and a network, by longrec's names."""
    found: list[Mapping[str, Tensor]] = []
    for n in range(2):
        own = given.under(f"transformer_blocks.{n}.")
        named = rectools_attention(own)
        for kind in ("weight", "bias"):
            named[f"before.{kind}"] = own[f"{first}.{kind}"]
            named[f"ffn.0.{kind}"] = own[f"{second}.{kind}"]
            named[f"ffn.1.{kind}"] = own[f"feed_forward.ff_linear_1.{kind}"]
            named[f"ffn.3.{kind}"] = own[f"feed_forward.ff_linear_2.{kind}"]
        found.append(named)
    return found


def rectools_bert4rec(given: Given) -> Iterator[Found]:
    """Pre-norm blocks, which are longrec's frame."""
    weights = rectools_layers(given, "layer_norm_1", "layer_norm_2")
    lengths = given["lengths"]
    blocks = stack(FeedForwardBlock, BidirectionalSoftmaxMixer, 4 * DIM, weights)
    y = through(blocks, given["x"], lengths)
    real = torch.arange(y.shape[1]) < lengths[:, None]
    yield Found("blocks", difference(y[real], given["y"][real]))


def rectools_sasrec(given: Given) -> Iterator[Found]:
    """The paper's blocks with its weights, and how far its own layers are from them."""
    weights = rectools_layers(given, "q_layer_norm", "ff_layer_norm")
    blocks = stack(FeedForwardBlock, SoftmaxMixer, DIM, weights)
    for block in blocks:
        block.ffn[2] = nn.ReLU()  # the paper's; longrec's frame has GELU
    lengths = given["lengths"]
    y = through(blocks, given["x"], lengths)
    real = torch.arange(y.shape[1]) < lengths[:, None]
    yield Found("blocks of the paper", difference(y[real], given["paper"][real]))
    last = given.under("last_layernorm.")
    y = nn.functional.layer_norm(y, y.shape[-1:], last["weight"], last["bias"], 1e-8)
    why = "it adds to norm(x) and takes keys and values of x without the norm, as the authors' code"
    yield Found("its own blocks", difference(y[real], given["y"][real]), why)


def rectools_esasrec(given: Given) -> Iterator[Found]:
    """LiGR's gated blocks."""
    weights: list[Mapping[str, Tensor]] = []
    for n in range(2):
        own = given.under(f"transformer_blocks.{n}.")
        named = rectools_attention(own)
        for kind in ("weight", "bias"):
            named[f"before.{kind}"] = own[f"layer_norm_1.{kind}"]
            named[f"ffn_norm.{kind}"] = own[f"layer_norm_2.{kind}"]
            named[f"gates.0.{kind}"] = own[f"gating_linear_1.{kind}"]
            named[f"gates.1.{kind}"] = own[f"gating_linear_2.{kind}"]
        rows = [own[f"feed_forward.ff_linear_{number}.weight"] for number in (1, 3)]
        named["ffn_inputs.weight"] = torch.cat(rows)
        named["ffn_output.weight"] = own["feed_forward.ff_linear_2.weight"]
        weights.append(named)
    lengths = given["lengths"]
    y = through(stack(LiGRBlock, SoftmaxMixer, 4 * DIM, weights), given["x"], lengths)
    real = torch.arange(y.shape[1]) < lengths[:, None]
    yield Found("blocks", difference(y[real], given["y"][real]))


def rectools_hstu(given: Given) -> Iterator[Found]:
    """Blocks with biases by distance, and with biases by time where the peer was given times."""
    config, lengths, x = HSTUConfig(dim=DIM, heads=HEADS), given["lengths"], given["x"]
    places, with_times = x.shape[1], any("time_weights" in name for name in given.weights)
    for n in range(2):
        own = given.under(f"stu_blocks.{n}.")
        block = HSTUBlock(HSTUMixer(DIM, HEADS, places, with_times), config).double().eval()
        named = {
            "mixer.inputs.weight": own["uvqk_proj"].T,
            "mixer.by_distance": own["rel_attn.pos_weights"][:places].flip(0),
            "output.weight": own["output_mlp.weight"],
            "output.bias": own["output_mlp.bias"],
        }
        if with_times:
            named["mixer.by_time"] = own["rel_attn.time_weights"]
        block.load_state_dict(named)
        x = block(x, Context(lengths=lengths, times=given["times"][:, :places]))
    real = torch.arange(places) < lengths[:, None]
    why = "it measures times from the event after the query, which stands for the request"
    yield Found("blocks", difference(x[real], given["y"][real]), why * with_times)


COMPARISONS: dict[str, Callable[[Given], Iterator[Found]]] = {
    "recbole-sasrec": recbole_sasrec,
    "recbole-bert4rec": recbole_bert4rec,
    "recbole-gru4rec": recbole_gru4rec,
    "rectools-bert4rec": rectools_bert4rec,
    "rectools-sasrec": rectools_sasrec,
    "rectools-esasrec": rectools_esasrec,
    "rectools-hstu-positions": rectools_hstu,
    "rectools-hstu": rectools_hstu,
}


if __name__ == "__main__":
    main()
