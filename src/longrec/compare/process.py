"""Starting a run's process, waiting for it, stopping it, and saying why it failed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# With this process's own path, so that it imports what this one would, wherever both stand.
_START = "import sys; sys.path[:] = {}; from longrec.compare.child import main; main()"
PATIENCE = 30.0  # seconds that a process has to end when it is asked to


def run_process(
    arguments: Sequence[str], output: Path, measured: Path, tick: Callable[[], None]
) -> str | None:
    """Run `longrec ARGUMENTS` in a process of its own until it ends.

    Parameters
    ----------
    arguments
        Of the command line.
    output
        A file that gets, at its end, what the process says.
    measured
        Where it leaves its memory use.
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
        process = subprocess.Popen(
            [sys.executable, "-c", _START.format(sys.path), str(measured), *arguments],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            while True:
                try:
                    status = process.wait(0.3)
                    break
                except subprocess.TimeoutExpired:
                    tick()
        finally:
            _stop(process)
    if status == 0:
        return None
    with output.open("rb") as file:
        file.seek(begin)
        return explain(status, file.read().decode(errors="replace"))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that is still there: asked first, then killed."""
    try:
        if process.poll() is None:
            process.terminate()
            process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def explain(status: int, said: str) -> str:
    """Why a process failed, from its exit status (minus the signal) and what it said last."""
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = "unknown"
        hint = ", perhaps because memory ran out" if -status == signal.SIGKILL else ""
        return f"killed by signal {-status} ({name}){hint}"
    _, mark, message = said.rpartition("error: ")
    lines = said.strip().splitlines() or ["it said nothing"]
    if not mark or "Traceback (most recent call last)" in said:
        message = lines[-1]
    return f"exit status {status}: {message.strip()}"
