"""Time LinRec's own encoder beside longrec's: forward and backward of one history.

    python benchmarks/peers/linrec/encoder.py --source LINREC

LINREC is a checkout of github.com/Applied-Machine-Learning-Lab/LinRec, or a folder with its
layers.py (measured at commit 1f3d743); no line of it is kept here. Every cell is a process of its
own, and cells take turns. Whole encoders over a catalog of 3,416 items, width 64, 2 layers, 2
heads, FFN 256, dropout .2, in training: vectors of items (and of positions, where a model has
them), two blocks, and all gradients. LinRec gets no attention mask, since its code never reads the
one it is given: it sees later events, and padding where there is any.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

N_ITEMS, DIM, LAYERS, HEADS, FFN, DROPOUT = 3416, 64, 2, 2, 256, 0.2
MODELS = ("linrec", "elastic", "hydrarec", "sasrec")
LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384)
SECONDS = 1.0
"""How long a cell times passes, after one that does not count; it times three at least."""


def official(source: Path) -> ModuleType:
    """layers.py as a module, with stand-ins for what it imports and its encoder does not use."""
    path = source if source.is_file() else source / "layers.py"
    if not path.is_file():
        raise SystemExit(f"{path} does not exist: --source must hold LinRec's layers.py")
    for name, contents in (
        ("recbole", ()),
        ("recbole.utils", ("FeatureType", "FeatureSource")),
        ("matplotlib", ()),
        ("matplotlib.pyplot", ()),
    ):
        stand_in = ModuleType(name)
        for attribute in contents:
            setattr(stand_in, attribute, object)
        sys.modules.setdefault(name, stand_in)
    spec = importlib.util.spec_from_file_location("linrec_layers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class LinRec(nn.Module):
    """LinRec's encoder behind item and position vectors, as RecBole's SASRec puts it."""

    def __init__(self, layers: ModuleType, length: int) -> None:
        super().__init__()
        self.items = nn.Embedding(N_ITEMS + 1, DIM, padding_idx=0)
        self.positions = nn.Embedding(length, DIM)
        self.norm, self.dropout = nn.LayerNorm(DIM, eps=1e-12), nn.Dropout(DROPOUT)
        self.encoder = layers.TransformerEncoder(
            n_layers=LAYERS,
            n_heads=HEADS,
            hidden_size=DIM,
            inner_size=FFN,
            hidden_dropout_prob=DROPOUT,
            attn_dropout_prob=DROPOUT,
        )

    def forward(self, items: Tensor) -> Tensor:
        """items (B, T) -> (B, T, D)."""
        x = self.items(items) + self.positions(torch.arange(items.shape[1]))
        return self.encoder(self.dropout(self.norm(x)), None)[-1]


def encoder(name: str, source: Path, length: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """A model in training, and what gives its vectors (B, T, D) of items (B, T)."""
    torch.manual_seed(0)
    if name == "linrec":
        model: nn.Module = LinRec(official(source), length).train()
        return model, model
    from longrec.models import MODELS as registry
    from longrec.models import SequenceModel, build_model

    limit = {"max_length": length} if name == "sasrec" else {}
    config = registry[name].config_class(
        dim=DIM, layers=LAYERS, ffn_dim=FFN, dropout=DROPOUT, **limit
    )
    built = build_model(name, config, N_ITEMS).train()
    assert isinstance(built, SequenceModel)
    return built, built.hidden


def memory(line: str) -> int:
    """Bytes that /proc tells of this process: VmRSS now, VmHWM at most so far."""
    found = Path("/proc/self/status").read_text().split(line + ":")[1]
    return int(found.split()[0]) * 1024


def cell(name: str, length: int, threads: int, source: Path) -> dict[str, Any]:
    """Median seconds of a pass and the most memory that passes took beyond what stood before."""
    torch.set_num_threads(threads)
    model, encode = encoder(name, source, length)
    items = torch.randint(1, N_ITEMS + 1, (1, length))

    def once(items: Tensor) -> tuple[float, float]:
        model.zero_grad(set_to_none=True)
        began = time.perf_counter(), time.process_time()
        h = encode(items)
        h.backward(torch.ones_like(h))
        return time.perf_counter() - began[0], time.process_time() - began[1]

    once(items[:, :64])  # libraries load what they need
    before = memory("VmRSS")
    with suppress(OSError):  # the peak so far is forgotten, where the system allows it
        Path("/proc/self/clear_refs").write_text("5")
    once(items)
    taken: list[tuple[float, float]] = []
    while len(taken) < 3 or sum(seconds for seconds, _ in taken) < SECONDS:
        taken.append(once(items))
    peak = memory("VmHWM") - before
    seconds, cpu = (statistics.median(those) for those in zip(*taken, strict=True))
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak}


def measure(given: argparse.Namespace) -> list[dict[str, Any]]:
    """All cells, each in its own process; every repeat goes through all of them once.

    Beside the seconds stand CPU seconds of all threads, for where others use the cores too.
    """
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    environment = os.environ | {"OMP_NUM_THREADS": str(given.threads)}
    for repeat in range(given.repeats):
        for length in given.lengths:
            for name in given.models:
                asked = [name, str(length), str(given.threads), str(given.source)]
                child = [sys.executable, __file__, "--cell", *asked]
                done = subprocess.run(
                    child, env=environment, stdout=subprocess.PIPE, text=True, check=True
                )
                found.setdefault((length, name), []).append(json.loads(done.stdout))
        print(f"repeat {repeat + 1} of {given.repeats} done", file=sys.stderr)
    return [
        {
            "model": name,
            "length": length,
            "pass": "forward+backward",
            "threads": given.threads,
            "seconds_median": statistics.median(one["seconds"] for one in cells),
            "seconds_min": min(one["seconds"] for one in cells),
            "seconds_max": max(one["seconds"] for one in cells),
            "cpu_seconds_median": statistics.median(one["cpu_seconds"] for one in cells),
            "peak_bytes": round(statistics.median(one["peak_bytes"] for one in cells)),
        }
        for (length, name), cells in found.items()
    ]


def table(cells: list[dict[str, Any]], models: list[str]) -> str:
    """Milliseconds (fastest to slowest process), MiB, and LinRec's time over each model's."""
    at = {(one["length"], one["model"]): one for one in cells}
    lines = ["| events | " + " | ".join(models) + " |", "|---" * (len(models) + 1) + "|"]
    for length in sorted({one["length"] for one in cells}):
        row = [f"{length:,}"]
        for name in models:
            one = at[length, name]
            median, least, most = (1e3 * one[f"seconds_{k}"] for k in ("median", "min", "max"))
            text = (
                f"{median:.1f} ({least:.1f} to {most:.1f}) ms, {one['peak_bytes'] / 2**20:.0f} MiB"
            )
            if "linrec" in models and name != "linrec":
                text += f", {1e3 * at[length, 'linrec']['seconds_median'] / median:.2f}x"
            row.append(text)
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--cell"]:
        name, length, threads, source = sys.argv[2:]
        print(json.dumps(cell(name, int(length), int(threads), Path(source))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="LinRec's checkout")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="cells as JSON")
    given = parser.parse_args()
    cells = measure(given)
    if given.out is not None:
        given.out.write_text(json.dumps(cells, indent=1) + "\n", encoding="utf-8")
    print(table(cells, given.models))


if __name__ == "__main__":
    main()
