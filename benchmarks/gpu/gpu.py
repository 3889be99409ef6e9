"""Time ELASTIC, HydraRec and SASRec with FlashAttention on a GPU, in bfloat16, in one call.

    python benchmarks/gpu/gpu.py [--ml1m LOG.parquet] [--json CELLS.json] [--parts mixer,model,...]
    python benchmarks/gpu/gpu.py --small         # tiny sizes, a made log: does all of it run?

Needs torch and numpy, a checkout rather than an install; for ELASTIC's kernel also Triton and
flash-linear-attention. Parts are processes of their own, each with a cap on its time: what fails or
takes too long is told, and the others run. All are done within 9 minutes. Prints a table last.

Without CUDA the same plan runs on the CPU, in small: every part, with ordinary calls where a graph
would be replayed. Then, and with --small, the exit status is 1 if a cell failed.

    machine  bytes and products per second, which bound all others
    tune     the kernels' first call at these widths, which compiles and tunes them
    mixer    one mixer, forward and backward, on 65,536 events of histories of each length
    model    the same of whole models (width 128, 4 layers, 2 heads, FFN 512), launched one by one
             and replayed as a CUDA graph; `free mixer` is a model whose mixers cost nothing
    step     a training step on one history of 65,536 events: encode, loss, backward, AdamW
    loss     cross-entropy over the catalog: ours, torch's, fla's and Liger's, where they are
    ml1m     ELASTIC on ML-1M until a validation NDCG@10 is reached
    compile  a model under torch.compile
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "src"))  # a bare checkout will do

import torch
from gpu_parts import PARTS
from gpu_timing import Cell, Setting, told

CAPS = {
    **{"machine": 30, "tune": 150, "model": 120, "mixer": 90},
    **{"step": 60, "ml1m": 100, "loss": 45, "compile": 90},
}
"""Seconds per part at most; together they are cut at the total."""
TOTAL = 520.0
PEER, BY_LENGTH = "sasrec, FlashAttention", ("mixer", "model")
TUNED = 4
"""Configurations that a Triton kernel tries: all of them would take longer than everything else."""


def few_configurations() -> None:
    """Let each Triton kernel try a few configurations, ordinary ones first."""
    try:
        from triton.runtime.autotuner import Autotuner
    except ImportError:
        return
    every = Autotuner.prune_configs

    def few(self: Any, given: Any) -> Any:
        found = sorted(every(self, given), key=lambda c: (c.num_warps != 4, c.num_stages != 2))
        return found[:TUNED]

    Autotuner.prune_configs = few


def run_here(part: str, setting: Setting) -> Iterable[Cell]:
    """The cells of a part, in this process."""
    torch.manual_seed(0)
    try:
        yield from PARTS[part](setting)
    except Exception as error:
        yield Cell(part, "the rest", failed=told(error))


def run_apart(part: str, cap: float, argv: list[str]) -> Iterable[Cell]:
    """The cells of a part in a process of its own, which is ended when its time is up."""
    command = [sys.executable, __file__, *argv, "--parts", part, "--child"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        told, _ = child.communicate(timeout=cap)
        ended = "" if child.returncode == 0 else f"exit status {child.returncode}"
    except subprocess.TimeoutExpired:
        child.kill()
        told, _ = child.communicate()
        ended = f"its {cap:.0f} s were over"
    for line in told.splitlines():
        if line.startswith('{"part"'):
            yield Cell(**json.loads(line))
    if ended:
        yield Cell(part, "the rest", failed=ended)


def shown(cell: Cell) -> str:
    """A cell as a line."""
    length = "" if cell.length is None else f"{cell.length:,}"
    line = f"{cell.part:8} {cell.name:42} {length:>9} "
    if cell.failed is not None or cell.value is None:
        return f"{line} {cell.failed}"
    if cell.unit != "s":
        return f"{line} {cell.value:12.3g} {cell.unit}"
    line += f"{1e3 * cell.value:12.2f} ms"
    if cell.least is not None and cell.most is not None:
        line += f" ({1e3 * cell.least:.2f} to {1e3 * cell.most:.2f})"
    return line + ("" if cell.peak_bytes is None else f" {cell.peak_bytes / 2**20:,.0f} MiB")


def table(cells: list[Cell]) -> list[str]:
    """Milliseconds by length, launched or as a graph, whichever is less, and times faster than the
    peer; then what has no length of its own."""
    best: dict[tuple[str, str, int], float] = {}
    for cell in cells:
        if cell.part in BY_LENGTH and cell.value is not None and cell.length:
            key = cell.part, cell.name.removesuffix(", graph"), cell.length
            best[key] = min(cell.value, best.get(key, cell.value))
    lines = []
    for part in BY_LENGTH:
        lengths = sorted({length for p, _, length in best if p == part})
        if lengths:
            lines.append(f"{part:33}" + "".join(f"{length:16,}" for length in lengths))
        for name in dict.fromkeys(n for p, n, _ in best if p == part):
            line = f"  {name:31}"
            for length in lengths:
                mine, peer = (best.get((part, n, length)) for n in (name, PEER))
                line += f"{1e3 * mine:9.2f}" if mine else f"{'-':>9}"
                line += f" {peer / mine:5.2f}x" if mine and peer else " " * 7
            lines.append(line)
    return lines + [shown(cell) for cell in cells if cell.part not in BY_LENGTH or cell.failed]


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between."""
    return tuple(map(int, text.split(",")))


def main(argv: list[str] | None = None) -> list[Cell]:
    """Measure and print; the cells."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--lengths", type=numbers, help="of histories, with commas between")
    parser.add_argument("--parts", default=",".join(CAPS), help="which, with commas between")
    parser.add_argument("--ml1m", type=Path, help="ML-1M's events as Parquet")
    parser.add_argument("--target", type=float, default=0.19, help="NDCG@10 to reach on ML-1M")
    parser.add_argument("--json", type=Path, help="write all cells there")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    parts = given.parts.split(",")
    if unknown := sorted(set(parts) - set(CAPS)):
        parser.error(f"--parts has {unknown}; there are {', '.join(CAPS)}")
    cuda = torch.cuda.is_available()
    small = given.small or not cuda
    sizes: dict[str, Any] = {"device": "cuda" if cuda else "cpu", "small": small}
    sizes |= {"ml1m": given.ml1m, "target": given.target}
    if small:
        torch.set_num_threads(1)
        sizes |= {"lengths": (32, 64), "dim": 16, "layers": 1, "items": 50, "seconds": 0.0}
    if given.lengths:
        sizes["lengths"] = given.lengths
    setting = Setting(**sizes)
    if given.child:
        few_configurations()
        for cell in run_here(parts[0], setting):
            print(json.dumps(asdict(cell)), flush=True)
        return []
    cells: list[Cell] = []
    apart = len(parts) > 1
    began = time.perf_counter()
    for part in parts:
        left = max(TOTAL - (time.perf_counter() - began), 1.0)
        cap = left if small else min(CAPS[part], left)
        for cell in run_apart(part, cap, argv) if apart else run_here(part, setting):
            print(shown(cell), flush=True)
            cells.append(cell)
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=1) + "\n")
    name = torch.cuda.get_device_name() if cuda else "CPU"
    print(f"\n{name}, torch {torch.__version__}, {time.perf_counter() - began:.0f} s")
    print("\n".join(table(cells)))
    if small and any(cell.failed for cell in cells):
        raise SystemExit(1)
    return cells


if __name__ == "__main__":
    main()
