"""One sample of a measurement, in a process of its own.

Each process is forked from one that has imported all and computed nothing (multiprocessing's fork
server), so that all begin alike and at once. It ends with its parent, and by itself where memory
runs out.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from functools import partial
from multiprocessing import connection, get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import perf_counter, process_time
from types import ModuleType
from typing import Any

import torch

from longrec.core.child import die_first_of_memory, why_it_failed
from longrec.core.memory import (
    give_back_freed_memory,
    keep_freed_memory,
    peak_bytes,
    resident_bytes,
)
from longrec.core.registry import load_plugin
from longrec.mixers import MIXERS
from longrec.models import MODELS
from longrec_bench.cost.passes import make_passes
from longrec_bench.cost.roofline import count_operations, measure_rates
from longrec_bench.cost.systems import Task

QUICK = 5.0
"""Seconds of a pass up to which one more is made to warm up, and one to count its operations."""
IMPORTED = [__name__, "torch.fx.experimental.symbolic_shapes", "torch._dynamo"]
"""By the process that forks, once for all: the last two when torch first needs a gradient or an
optimiser, or counts operations."""


def measure_in_process(task: Task) -> dict[str, Any]:
    """Measure a task in a new process; no longer than its "limit" in seconds.

    Whatever ends the call, Ctrl-C among it, ends the process too.

    Returns
    -------
    dict
        What `measure` gives, or of a task of kind "machine" its rates; or {"failed": why}.
    """
    context = get_context("forkserver")
    plugins = sorted({*MODELS.plugins(), *MIXERS.plugins()})
    context.set_forkserver_preload([*IMPORTED, *plugins])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_main, args=(task, plugins, sender), daemon=True)
    _start(process)
    sender.close()
    try:
        if not receiver.poll(task["limit"]):
            return {"failed": f"stopped after {task['limit']:,.0f} s"}
        answer: dict[str, Any] = receiver.recv()
        return answer
    except EOFError:
        process.join()
        return {"failed": why_it_failed(process.exitcode or 0, "")}
    finally:
        process.kill()
        process.join()
        process.close()
        receiver.close()


def _start(process: BaseProcess) -> None:
    """Start a process; it does not import the program that started this one."""
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        process.start()
    finally:
        sys.modules["__main__"] = program


def _main(task: Task, plugins: list[str], sender: connection.Connection) -> None:
    """The process: measure and send what was found."""
    gc.freeze()  # what was imported; a collection would copy it into this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which kills this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    die_first_of_memory()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    try:
        for module in plugins:
            load_plugin(module)
        if task["cores"]:
            os.sched_setaffinity(0, task["cores"])
        torch.set_num_threads(task["threads"])
        torch.manual_seed(task["seed"])
        answer = measure_rates() if task["kind"] == "machine" else measure(task)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:300]
        answer = {"failed": f"{type(error).__name__}: {reason}"}
    sender.send(answer)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def measure(task: Task) -> dict[str, Any]:
    """Time passes of one task in this process.

    Parameters
    ----------
    task : dict
        With "most" passes to time within "share" seconds, and "count", whether operations are
        counted too if that is quick.

    Returns
    -------
    dict
        "seconds" of each timed pass; "processor", seconds that all threads worked in them;
        "peak_bytes" of the pass before them, None where the system does not tell; "setup", seconds
        until that one; "operations", None if not counted.
    """
    began = perf_counter()
    passes = make_passes(task)
    passes.prepare()
    passes.run(passes.small)
    passes.prepare()
    gc.collect()
    gc.disable()
    setup = perf_counter() - began
    give_back_freed_memory()
    before, began = _reset_peak(), perf_counter()
    passes.run(passes.size)
    first, after = perf_counter() - began, peak_bytes()
    keep_freed_memory()  # as a training does
    if first < QUICK:
        passes.prepare()
        passes.run(passes.size)
    seconds, processor = list[float](), 0.0
    while not seconds or (len(seconds) < task["most"] and sum(seconds) < task["share"]):
        passes.prepare()
        began, used = perf_counter(), process_time()
        passes.run(passes.size)
        seconds.append(perf_counter() - began)
        processor += process_time() - used
    operations = None
    if task["count"] and seconds[0] < QUICK:
        passes.prepare()
        operations = count_operations(partial(passes.run, passes.size))
    return {
        "seconds": seconds,
        "processor": processor,
        "peak_bytes": None if before is None or after is None else max(after - before, 0),
        "setup": setup,
        "operations": operations,
    }


def _reset_peak() -> int | None:
    """Let the peak of resident memory begin anew; -> bytes that are resident now.

    Where that cannot be done the peak of the whole process so far stands for it: a pass that stays
    below it shows as 0.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak_bytes()
    return resident_bytes()
