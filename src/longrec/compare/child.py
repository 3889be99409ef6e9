"""A run's process: the command line, watched over and measured.

Its first argument is a file, where it leaves its memory use; the others are those of `longrec`. Its
standard input is a pipe that the parent never writes to: when it closes, the parent has died, and
this process ends too, so that no run is left behind that still writes. Ctrl-C in a terminal is for
the parent alone, which stops this one by SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

FIRST_TO_GO = "500"


def main() -> None:
    """Run `longrec` with the arguments after the first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(OSError):  # where memory runs out, this process ends and not the comparison
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
    import longrec.runs.train  # noqa: F401  # what every run needs, before it does anything
    from longrec.cli import main as cli

    imported = memory()
    measured, sys.argv = Path(sys.argv[1]), ["longrec", *sys.argv[2:]]
    try:
        cli.main()
    finally:
        _keep(measured, imported)


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)  # as a kill would: what is on the disk stays whole


def memory() -> dict[str, int]:
    """Bytes resident now ("now", where the system tells) and at most so far ("peak").

    Linux counts getrusage's maximum from before this program was loaded, the parent's memory
    included; what /proc tells is this program's own.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        found = {"now": lines["VmRSS"], "peak": lines["VmHWM"]}
        return {name: int(text.split()[0]) * 1024 for name, text in found.items()}
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def _keep(path: Path, imported: dict[str, int]) -> None:
    """Leave the largest numbers of this process and of earlier ones that it goes on from."""
    import torch

    from longrec.core.files import write_file

    found = {"peak_bytes": memory()["peak"]}
    if "now" in imported:
        found["imported_bytes"] = imported["now"]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["gpu_peak_bytes"] = torch.cuda.max_memory_allocated()
    with suppress(OSError, ValueError):
        before = json.loads(path.read_text(encoding="utf-8"))
        found = {k: max(v, before.get(k, 0)) for k, v in found.items()}
    write_file(path, json.dumps(found))
