"""The command line in the process of a comparison's run, which is measured."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from pathlib import Path

from longrec.cli.main import main as command_line
from longrec.core.child import begin_as_child
from longrec.core.files import write_file
from longrec.core.memory import peak_bytes, resident_bytes


def main() -> None:
    """Run `longrec` with the arguments after the first, which is a file for what it used."""
    begin_as_child()
    import torch

    import longrec.runs.evaluate
    import longrec.runs.train  # noqa: F401  # what every run needs, before it does anything

    imported = resident_bytes()
    began, worked = time.monotonic(), time.process_time()
    path, sys.argv = Path(sys.argv[1]), ["longrec", *sys.argv[2:]]
    try:
        command_line()
    finally:
        # The most memory of this process and of earlier ones that it goes on from, and the time of
        # all of them: processor seconds well below seconds mean that others had the core.
        spent = {"seconds": time.monotonic() - began}
        spent["processor_seconds"] = time.process_time() - worked
        used = {"peak_bytes": peak_bytes(), "imported_bytes": imported}
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            used["gpu_peak_bytes"] = torch.cuda.max_memory_allocated()
        found = {name: count for name, count in used.items() if count is not None}
        with suppress(OSError, ValueError):
            before = json.loads(path.read_text(encoding="utf-8"))
            found = {name: max(count, before.get(name, 0)) for name, count in found.items()}
            spent = {name: count + before.get(name, 0.0) for name, count in spent.items()}
        write_file(path, json.dumps(found | spent))
