"""The process that forks one for each cell and turn, and what those do.

It has imported all they need and computed nothing, so that each begins alike and at once. Tasks
come as lines of JSON on standard input, answers go as lines of JSON to standard output. When the
input closes, the parent has ended or was interrupted: the process at work is killed, and this one
ends.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from time import monotonic, perf_counter, process_time
from typing import Any

import torch

from longrec.core.child import why_it_failed
from longrec.core.malloc import give_back_freed_memory, keep_freed_memory
from longrec_bench.cost.counted import operations
from longrec_bench.cost.rates import measure_rates
from longrec_bench.cost.subjects import Task
from longrec_bench.cost.work import make_work

FIRST_TO_GO = "500"
"""Where memory runs out, the process of a cell ends and nothing else."""
WORTH_COUNTING = 5.0
"""Seconds of a pass up to which one more is made to warm up, and one to count its operations."""
LATE = ("torch.fx.experimental.symbolic_shapes", "torch._dynamo")
"""What torch imports when a gradient is first asked for, and when dispatch is first counted."""
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main() -> None:
    """Fork for each task until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes the input
    _freeze()
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed is no answer
    buffer = b""
    while part := os.read(0, 1 << 16):
        buffer += part
        while b"\n" in buffer:
            line, buffer = buffer.split(b"\n", 1)
            os.write(answers, json.dumps(_answer(json.loads(line))).encode() + b"\n")


def _freeze() -> None:
    """Keep what was imported out of collections, or each would copy it into its process."""
    gc.collect()
    gc.freeze()


def _answer(task: Task) -> dict[str, Any]:
    """Measure in a process of its own, of which the limit in seconds is kept."""
    if task.get("count") and any(late not in sys.modules for late in LATE):
        for late in LATE:
            with suppress(ImportError):
                import_module(late)
        _freeze()
    reading, writing = os.pipe()
    number = os.fork()
    if number == 0:
        os.close(reading)
        _measure_and_exit(task, writing)
    os.close(writing)
    end, said = monotonic() + task["limit"], b""
    while True:
        ready, _, _ = select.select([reading, 0], [], [], max(end - monotonic(), 0))
        if reading in ready:
            part = os.read(reading, 1 << 16)
            said += part
            if part:
                continue
            break
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
        os.close(reading)
        if ready:  # the input closed
            os._exit(1)
        return {"failed": f"stopped after {task['limit']:,.0f} s"}
    os.close(reading)
    status = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    if status:
        return {"failed": why_it_failed(status, "")}
    answer: dict[str, Any] = json.loads(said)
    return answer


def _measure_and_exit(task: Task, writing: int) -> None:
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
    status = 1
    try:
        try:
            answer = measure(task)
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"}
        data = json.dumps(answer).encode()
        while data:
            data = data[os.write(writing, data) :]
        status = 0
    finally:
        os._exit(status)


def measure(task: Task) -> dict[str, Any]:
    """Time passes of one cell in this process.

    Parameters
    ----------
    task : dict
        The cell's, with "cores" to stay on (may be empty), "threads", "seed", "most" passes to time
        within "share" seconds, and "count", whether operations are counted too if that is quick.

    Returns
    -------
    dict
        "seconds" of each timed pass; "processor", seconds that all threads worked in them;
        "peak_bytes" of the pass before them, None where the system does not tell; "setup", seconds
        until that one; "operations", None if not counted.
    """
    if task["cores"]:
        os.sched_setaffinity(0, task["cores"])
    torch.set_num_threads(task["threads"])
    torch.manual_seed(task["seed"])
    if task["kind"] == "machine":
        return measure_rates()
    began = perf_counter()
    work = make_work(task)
    work.prepare()
    work.load()
    work.prepare()
    gc.collect()
    gc.disable()
    setup = perf_counter() - began
    give_back_freed_memory()
    before, began = _reset_peak(), perf_counter()
    work.run()
    first, peak = perf_counter() - began, _peak_since(before)
    keep_freed_memory()  # as a training does
    if first < WORTH_COUNTING:
        work.prepare()
        work.run()
    seconds, processor = list[float](), 0.0
    while not seconds or (len(seconds) < task["most"] and sum(seconds) < task["share"]):
        work.prepare()
        began, used = perf_counter(), process_time()
        work.run()
        seconds.append(perf_counter() - began)
        processor += process_time() - used
    counted = None
    if task["count"] and seconds[0] < WORTH_COUNTING:
        work.prepare()
        counted = operations(work.run)
    return {
        "seconds": seconds,
        "processor": processor,
        "peak_bytes": peak,
        "setup": setup,
        "operations": counted,
    }


def _reset_peak() -> int | None:
    """Let the peak of resident memory begin anew, and tell what is resident, in bytes.

    Where that cannot be done the peak of the whole process so far stands for it: a pass that stays
    below it shows as 0.
    """
    try:
        CLEAR.write_text("5")
        return _status("VmRSS")
    except OSError:
        return _largest()


def _peak_since(before: int | None) -> int | None:
    """Bytes by which the peak lies above what was resident before."""
    try:
        now = _status("VmHWM")
    except OSError:
        now = _largest()
    return None if before is None or now is None else max(now - before, 0)


def _status(name: str) -> int | None:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _largest() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
