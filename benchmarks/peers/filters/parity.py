"""Filters and pooled attention beside their authors' code: the same weights, the same outputs.

    python benchmarks/peers/filters/parity.py fmlp-rec FMLP-Rec
    python benchmarks/peers/filters/parity.py wearec WEARec
    python benchmarks/peers/filters/parity.py linformer linformer
    python benchmarks/peers/filters/parity.py lightsans LightSANs

The second argument is a clone of the peer's repository. Weights are small random numbers. Prints
the largest difference; for LightSANs also that of its code as it is, whose attention sums to 1 over
the queries.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from checkpoint import converted
from torch import Tensor, nn

from longrec.mixers import Context
from longrec.mixers.lightsans import LightSANsMixer
from longrec.mixers.linformer import LinformerMixer
from longrec.models import SequenceModel, build_model
from longrec.models.fmlp_rec import FMLPRecConfig

DIM, HEADS, PLACES, ITEMS, EVENTS = 8, 2, 10, 20, 7
ARGS = SimpleNamespace(
    item_size=ITEMS + 1,
    hidden_size=DIM,
    max_seq_length=PLACES,
    batch_size=1,
    num_hidden_layers=2,
    num_heads=HEADS,
    alpha=0.3,
    hidden_act="gelu",
    hidden_dropout_prob=0.0,
    initializer_range=0.5,
    no_filters=False,
    cuda_condition=False,
)
FMLP_BLOCK = {
    "mixer.filter": "filterlayer.complex_weight",
    "norm.weight": "filterlayer.LayerNorm.weight",
    "norm.bias": "filterlayer.LayerNorm.bias",
    "ffn.0.weight": "intermediate.dense_1.weight",
    "ffn.0.bias": "intermediate.dense_1.bias",
    "ffn.2.weight": "intermediate.dense_2.weight",
    "ffn.2.bias": "intermediate.dense_2.bias",
    "ffn_norm.weight": "intermediate.LayerNorm.weight",
    "ffn_norm.bias": "intermediate.LayerNorm.bias",
}


def of_models(theirs: nn.Module, ours: SequenceModel) -> float:
    """Largest difference of h at the events of two histories, one of them as long as a window."""
    worst = 0.0
    for length in (EVENTS, PLACES):
        items = torch.randint(1, ITEMS + 1, (1, length))
        padded = nn.functional.pad(items, (PLACES - length, 0))
        wanted = theirs(padded)[:, PLACES - length :]
        behind = nn.functional.pad(items, (0, 2))  # our padding stands behind
        h = ours.encode(behind, Context(lengths=torch.tensor([length])))[:, :length]
        worst = max(worst, float((h - wanted).abs().max()))
    return worst


def fmlp_rec(source: Path) -> dict[str, float]:
    """The whole model."""
    sys.path.insert(0, str(source))
    peer = importlib.import_module("models").FMLPRecModel(ARGS).double().eval()
    theirs = peer.state_dict()
    items, positions = theirs["item_embeddings.weight"], theirs["position_embeddings.weight"]
    weights = {  # padding and scale as in checkpoint.py
        "items": items - items[0],
        "positions": (positions + items[0]) * DIM**0.5,
        "embedding_norm.weight": theirs["LayerNorm.weight"],
        "embedding_norm.bias": theirs["LayerNorm.bias"],
    }
    for layer in range(ARGS.num_hidden_layers):
        for own, name in FMLP_BLOCK.items():
            part = theirs[f"item_encoder.layer.{layer}.{name}"]
            weights[f"blocks.{layer}.{own}"] = part[0] if part.ndim == 4 else part
    config = FMLPRecConfig(dim=DIM, ffn_dim=4 * DIM, max_length=PLACES)
    return {"models": of_models(peer, _loaded("fmlp-rec", config, weights))}


def wearec(source: Path) -> dict[str, float]:
    """The whole model."""
    sys.path.insert(0, str(source / "src"))
    peer = importlib.import_module("model.wearec").WEARecModel(ARGS).double().eval()
    config, weights = converted(peer.state_dict(), ARGS.alpha)
    return {"models": of_models(peer, _loaded("wearec", config, weights))}


def linformer(source: Path) -> dict[str, float]:
    """A layer over a full window: the peer gives a shorter one the first columns of E and F."""
    module = _module(source / "linformer" / "linformer.py", "linformer.reversible")
    peer = module.LinformerSelfAttention(DIM, PLACES, k=3, heads=HEADS).double()
    nn.init.zeros_(peer.to_out.bias)
    mixer = LinformerMixer(DIM, HEADS, 3, PLACES).double()
    theirs = peer.state_dict()
    names = {"query": "to_q", "keys": "to_k", "values": "to_v", "output": "to_out"}
    weights = {f"{own}.weight": theirs[f"{name}.weight"] for own, name in names.items()}
    weights |= {"key_sums": theirs["proj_k"].t(), "value_sums": theirs["proj_v"].t()}
    mixer.load_state_dict(weights)
    x = torch.randn(2, PLACES, DIM).double()
    return {"layers": float((mixer(x) - peer(x)).abs().max())}


def lightsans(source: Path) -> dict[str, float]:
    """A layer over a full window, with the peer's softmax over queries, and put right."""
    module = _module(source / "recbole" / "model" / "layers.py", "recbole.utils")
    peer = module.LightMultiHeadAttention(HEADS, 3, DIM, PLACES, 0.0, 0.0, 1e-12).double()
    for part in peer.modules():
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)
    theirs = peer.state_dict()
    inputs = [theirs[f"{name}.weight"] for name in ("query", "key", "value")]
    # The peer divides the scores of positions by sqrt(2 d) once more.
    pq = theirs["pos_q_linear.weight"] * (2 * DIM / HEADS) ** -0.5
    mixer, positions = LightSANsMixer(DIM, HEADS, 3, 0).double(), torch.randn(PLACES, DIM).double()
    mixer.position_norm.eps = 1e-12
    mixer.load_state_dict(
        {
            "inputs.weight": torch.cat(inputs),
            "pool_keys": theirs["attpooling_key.theta"],
            "pool_values": theirs["attpooling_value.theta"],
            "position_norm.weight": theirs["pos_ln.weight"],
            "position_norm.bias": theirs["pos_ln.bias"],
            "position_inputs.weight": torch.cat([pq, theirs["pos_k_linear.weight"]]),
            "output.weight": theirs["dense.weight"],
        }
    )
    x = torch.randn(2, PLACES, DIM).double()
    ours = peer.LayerNorm(x + mixer.attend(x, positions, Context()))

    def difference() -> float:
        return float((ours - peer(x, positions)).abs().max())

    def over_keys(dim: int) -> Callable[[Tensor], Tensor]:
        """Of pooling, (B, T, k), the peer's axis; of attention, (B, H, T, keys), the last one."""
        return lambda scores: scores.softmax(dim if scores.ndim == 3 else -1)

    as_it_is = difference()
    with patch.object(module.nn, "Softmax", over_keys):
        return {"layers as they are": as_it_is, "layers, softmax over keys": difference()}


def _loaded(name: str, config: Any, weights: dict[str, Tensor]) -> SequenceModel:
    model = build_model(name, config, ITEMS).double().eval()
    assert isinstance(model, SequenceModel)
    model.load_state_dict(weights)
    return model


def _module(path: Path, missing: str) -> ModuleType:
    """A peer's file, with an empty stand-in for a module that its layer does not need."""
    spec = importlib.util.spec_from_file_location("peer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    names = ("ModelType", "InputType", "FeatureType", "ReversibleSequence", "SequentialSequence")
    stand_in = SimpleNamespace(**dict.fromkeys(names))
    with patch.dict(sys.modules, {missing.partition(".")[0]: stand_in, missing: stand_in}):
        spec.loader.exec_module(module)
    return module


PEERS: dict[str, Callable[[Path], dict[str, float]]] = {
    "fmlp-rec": fmlp_rec,
    "wearec": wearec,
    "linformer": linformer,
    "lightsans": lightsans,
}


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("source", type=Path)
    given = parser.parse_args()
    torch.manual_seed(0)
    with torch.no_grad():
        for what, difference in PEERS[given.peer](given.source).items():
            print(f"{given.peer}: {what}: {difference:.1e}")


if __name__ == "__main__":
    main()
