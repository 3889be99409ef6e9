"""A Python process that another one starts and watches; what both ends of it need.

The child's standard input is a pipe that the parent keeps open. When it closes, the parent has
ended, and the child ends too, so that nothing is left behind that still works or writes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

_START = "import sys; sys.path[:] = {path}; from {module} import main; main()"


# ---- the parent's end


def start_child(
    module: str,
    arguments: Sequence[str] = (),
    *,
    stdout: IO[bytes] | int | None,
    stderr: IO[bytes] | int | None,
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `main()` of a module in a new Python process, with a pipe as its standard input.

    What it prints goes where it is told, None being where this process's goes; `variables` are
    added to its environment. The child imports from this process's own path: what this process
    would, wherever both are.
    """
    start = _START.format(path=sys.path, module=module)
    # What it prints is kept or read by programs: colours asked for here, as by a notebook, are not.
    environment = {name: text for name, text in os.environ.items() if name != "FORCE_COLOR"}
    return subprocess.Popen(
        [sys.executable, "-c", start, *arguments],
        env=environment | dict(variables or {}),
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
    )


def stop_child(process: subprocess.Popen[bytes], patience: float) -> None:
    """End a process that still runs: asked by SIGTERM, and killed after `patience` seconds."""
    try:
        if process.poll() is None:
            process.terminate()
            process.wait(patience)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def why_it_failed(status: int, output: str) -> str:
    """Why a process failed, from its exit status (minus the signal) and what it printed last."""
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = "unknown"
        hint = ", perhaps because memory ran out" if -status == signal.SIGKILL else ""
        return f"killed by signal {-status} ({name}){hint}"
    _, mark, message = output.rpartition("error: ")
    lines = output.strip().splitlines() or ["it said nothing"]
    if not mark or "Traceback (most recent call last)" in output:
        message = lines[-1]
    return f"exit status {status}: {message.strip()}"


# ---- the child's end


def begin_as_child() -> None:
    """Leave Ctrl-C to the parent, which stops this process by SIGTERM, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    end_with_parent()
    die_first_of_memory()


def end_with_parent() -> None:
    """End this process, as a kill would, once its standard input closes."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)  # what is on the disk stays whole

    threading.Thread(target=wait, daemon=True).start()


def die_first_of_memory() -> None:
    """Where memory runs out, let the system end this process and not its parent."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
