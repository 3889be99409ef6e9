"""One run of a comparison in a process of its own: `longrec` with arguments, watched and measured.

The parent calls `run_process`; the child starts in `main`. Ctrl-C in a terminal is for the parent
alone, which stops the child by SIGTERM.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from longrec.core.child import (
    die_first_of_memory,
    end_with_parent,
    peak_bytes,
    resident_bytes,
    start_child,
    stop_child,
    why_it_failed,
)

PATIENCE = 30.0  # seconds that a process has to end when it is asked to


def run_process(
    arguments: Sequence[str], output: Path, memory: Path, tick: Callable[[], None]
) -> str | None:
    """Run `longrec ARGUMENTS` in a process of its own until it ends.

    Parameters
    ----------
    arguments
        Of the command line.
    output
        A file that gets, at its end, what the process prints.
    memory
        A JSON file that gets the memory that the process used.
    tick
        Called a few times per second.

    Returns
    -------
    str or None
        What went wrong; None when it ended well. An exception here, Ctrl-C among them, stops the
        process first.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("ab") as file:
        begin = file.seek(0, 2)
        process = start_child(
            __name__, [str(memory), *arguments], stdout=file, stderr=subprocess.STDOUT
        )
        try:
            while True:
                try:
                    status = process.wait(0.3)
                    break
                except subprocess.TimeoutExpired:
                    tick()
        finally:
            stop_child(process, PATIENCE)
    if status == 0:
        return None
    with output.open("rb") as file:
        file.seek(begin)
        return why_it_failed(status, file.read().decode(errors="replace"))


def main() -> None:
    """The child: run `longrec` with the arguments after the first, a file for its memory use."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    end_with_parent()
    die_first_of_memory()
    import longrec.runs.train  # noqa: F401  # what every run needs, before it does anything
    from longrec.cli import main as cli

    imported = resident_bytes()
    memory, sys.argv = Path(sys.argv[1]), ["longrec", *sys.argv[2:]]
    try:
        cli.main()
    finally:
        _write_memory(memory, imported)


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _write_memory(path: Path, imported: int | None) -> None:
    """Write the most memory of this process, and of earlier ones that it goes on from."""
    import torch

    from longrec.core.files import write_file

    used = {"peak_bytes": peak_bytes(), "imported_bytes": imported}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        used["gpu_peak_bytes"] = torch.cuda.max_memory_allocated()
    found = {name: count for name, count in used.items() if count is not None}
    with suppress(OSError, ValueError):
        before = json.loads(path.read_text(encoding="utf-8"))
        found = {name: max(count, before.get(name, 0)) for name, count in found.items()}
    write_file(path, json.dumps(found))
