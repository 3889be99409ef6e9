"""A log of XLong's size through every step: minutes, processor time, peak memory and disk of each.

    python benchmarks/xlong.py FOLDER                         # every step that is not done yet
    python benchmarks/xlong.py FOLDER prepare train-elastic   # some of them
    python benchmarks/xlong.py FOLDER --share 0.1             # a log of a tenth of the size
    python benchmarks/xlong.py FOLDER --table                 # what was measured there
    python benchmarks/xlong.py --table                        # what is published

Each step is a real command in a process of its own. A finished one is a line of FOLDER/cells.jsonl
and is not done again (`--again` does); a training that was killed goes on from its last checkpoint,
and its line, marked "resumed", has the time of the last part alone. FOLDER takes some 12 GB. What
is published is written by `--cells benchmarks/xlong/cells.jsonl`.

Memory is the most that the step's processes held at once, the mapped files among it that the system
takes back where it needs memory; "own" is what they held but for these. Disk is what the step left,
and in brackets the most that FOLDER grew by meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from longrec.core.machine import load_average, machine, versions
from longrec_bench.measurement import now

HERE = Path(__file__).parent
PUBLISHED = HERE / "xlong" / "cells.jsonl"
TRAINING = (
    *("loss=sampled", "batch_tokens=8000", "learning_rate=0.003", "max_epochs=1"),
    *("validation_users=1000", "checkpoint_minutes=5"),
)
"""Settings of both trainings, besides the model's own."""
LONGREC = (sys.executable, "-m", "longrec")
STEPS: dict[str, tuple[list[str], list[str]]] = {
    "log": (
        [sys.executable, str(HERE / "xlong_log.py"), "FOLDER", "--share", "SHARE"],
        ["log", "some"],
    ),
    "prepare": (
        [*LONGREC, "prepare", "FOLDER/log", "--out", "FOLDER/histories", "--memory", "4GiB"],
        ["histories"],
    ),
    "prepare-some": (
        [*LONGREC, "prepare", "FOLDER/some", "--out", "FOLDER/some-histories", "--memory", "4GiB"],
        ["some-histories"],
    ),
    **{
        f"steps-{name}": (
            [sys.executable, str(HERE / "xlong_steps.py"), "FOLDER/histories", name, *own],
            list[str](),
        )
        for name, own in (("elastic", ()), ("sasrec", ("max_length=1000",)))
    },
    **{
        f"train-{name}": (
            [
                *(*LONGREC, "train", "FOLDER/histories", "--model", name),
                *("--out", f"FOLDER/{name}", "--resume", "--set", *TRAINING, *own),
            ],
            [name],
        )
        for name, own in (("elastic", ()), ("sasrec", ("max_length=1000",)))
    },
    **{
        f"evaluate-{name}": (
            [
                *(*LONGREC, "evaluate", f"FOLDER/{name}", "--data", "FOLDER/some-histories"),
                "--no-baselines",
            ],
            [f"{name}/evaluations"],
        )
        for name in ("elastic", "sasrec")
    },
    "serve": ([sys.executable, str(HERE / "xlong_serve.py"), "FOLDER"], ["users"]),
}
"""Of each step, what is run and what it leaves."""


class Watch(threading.Thread):
    """The most that a process and its children hold of memory, and a folder of disk, in bytes."""

    def __init__(self, pid: int, folder: Path) -> None:
        super().__init__(daemon=True)
        self.process, self.folder = psutil.Process(pid), folder
        self.memory = self.own = self.disk = 0
        self.ended = threading.Event()

    def run(self) -> None:
        looked = 0.0
        while True:  # a look at once, for a step that ends soon
            with suppress(psutil.Error, OSError, KeyError):  # one ended just now
                family = [self.process, *self.process.children(recursive=True)]
                held = [holds(one.pid) for one in family]
                self.memory = max(self.memory, sum(most for most, _ in held))
                self.own = max(self.own, sum(own for _, own in held))
            if time.monotonic() - looked > 5:
                self.disk, looked = max(self.disk, size(self.folder)), time.monotonic()
            if self.ended.wait(0.5):
                return


def holds(pid: int) -> tuple[int, int]:
    """The most that a process held so far, and what it holds now but for mapped files."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    kib = {words[0]: int(words[1]) for words in lines if words and words[-1] == "kB"}
    return 1024 * kib["VmHWM:"], 1024 * (kib["RssAnon:"] + kib["RssShmem:"])


def size(path: Path) -> int:
    """Bytes that a file or folder takes on disk."""
    found = 0
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        with suppress(OSError):  # it went meanwhile
            found += 512 * file.lstat().st_blocks
    return found


def measure(step: str, folder: Path, share: float) -> dict[str, Any]:
    """Run a step and say what it took."""
    words, leaves = STEPS[step]
    argv = [word.replace("FOLDER", str(folder)).replace("SHARE", f"{share:g}") for word in words]
    begun = any([*(folder / name).glob("checkpoint-*")] for name in leaves)
    before, started, load = size(folder), now(), load_average()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [*argv, *(("--json",) if words[:3] == list(LONGREC) else ())],
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as child:
        began, watch = time.perf_counter(), Watch(child.pid, folder)
        watch.start()
        assert child.stdout is not None
        text = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        watch.ended.set()
        watch.join()
    if child.returncode:
        sys.exit(f"{step} ended with status {child.returncode}; the same command goes on")
    os.sync()  # what is not written yet has no blocks on some file systems
    shown = ["python" if word == sys.executable else word.replace(f"{HERE}/", "") for word in words]
    here = machine()
    return {
        "step": step,
        "share": share,
        "command": " ".join(shown).replace("python -m longrec", "longrec"),
        "resumed": begun,
        "seconds": round(seconds, 1),
        "processor": round(used.ru_utime + used.ru_stime, 1),
        "memory": watch.memory,
        "own": watch.own,
        "disk": sum(size(folder / name) for name in leaves),
        "most_disk": max(watch.disk, size(folder)) - before,
        "found": figures(text),
        "started": started,
        "load_before": load,
        "cores": len(os.sched_getaffinity(0)),
        "processor_name": here["processor"],
        "versions": versions("duckdb"),
    }


def figures(text: str) -> dict[str, Any]:
    """The plain numbers of a step's JSON."""
    with suppress(json.JSONDecodeError):
        found = json.loads(text)
        return {name: x for name, x in found.items() if isinstance(x, int | float)}
    return {}


def read(cells: Path) -> list[dict[str, Any]]:
    """What was measured so far."""
    lines = cells.read_text(encoding="utf-8").splitlines() if cells.exists() else []
    return [json.loads(line) for line in lines]


def show(found: list[dict[str, Any]]) -> None:
    """Print the table, as docs/scale.md has it: of each step its last measurement."""
    print("| step | share | minutes | core seconds | memory, GiB | of it own | disk, GB | cores |")
    print("|---|---|---|---|---|---|---|---|")
    for cell in {(cell["step"], cell["share"]): cell for cell in found}.values():
        print(
            f"| {cell['step']} | {cell['share']:g} | {cell['seconds'] / 60:.1f} "
            f"| {cell['processor']:,.0f} | {cell['memory'] / 2**30:.1f} "
            f"| {cell['own'] / 2**30:.1f} | {cell['disk'] / 1e9:.1f} "
            f"({cell['most_disk'] / 1e9:.1f}) | {cell['cores']} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--again", action="store_true", help="measure what is measured already")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--cells", type=Path, help="a file of cells; otherwise FOLDER/cells.jsonl")
    given = parser.parse_args()
    cells = given.cells or (given.folder / "cells.jsonl" if given.folder else PUBLISHED)
    if given.table:
        show(read(cells))
        return
    if given.folder is None or not set(given.steps) <= set(STEPS):
        parser.error(f"give a folder, and steps of {', '.join(STEPS)}")
    given.folder.mkdir(parents=True, exist_ok=True)
    for step in given.steps or STEPS:
        done = {(cell["step"], cell["share"]) for cell in read(cells)}
        if (step, given.share) in done and not given.again:
            print(f"{step} is measured already")
            continue
        cell = measure(step, given.folder, given.share)
        cells.parent.mkdir(exist_ok=True)
        with cells.open("a", encoding="utf-8") as file:
            file.write(json.dumps(cell) + "\n")
        show([cell])


if __name__ == "__main__":
    main()
