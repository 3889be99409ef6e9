"""One run of a comparison in a process of its own: started, waited for, and stopped."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from longrec.core.child import start_child, stop_child, why_it_failed

_CHILD = "longrec.cli.comparison_child"
"""The module that the process starts in: by its name, since it stands above this one."""
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
            _CHILD, [str(memory), *arguments], stdout=file, stderr=subprocess.STDOUT
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
