"""This end of the process that forks one for each cell and turn."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Any

from longrec.core.child import why_it_failed
from longrec.core.errors import LongrecError
from longrec_bench.cost.subjects import Task

# With this process's own path, so that it imports what this one would, wherever both stand.
_START = "import sys; sys.path[:] = {}; from longrec_bench.cost.child import main; main()"
PATIENCE = 10.0


class Processes:
    """Measures each task in a process of its own, one after the other.

    Whatever ends the block, Ctrl-C among it, ends the process at work too.
    """

    def __enter__(self) -> Processes:
        self._said = tempfile.TemporaryFile()
        self._forks = subprocess.Popen(
            [sys.executable, "-c", _START.format(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
        )
        return self

    def measure(self, task: Task) -> dict[str, Any]:
        """What `child.measure` gives, or {"failed": why}.

        Raises
        ------
        LongrecError
            When the process that forks has died.
        """
        forks = self._forks
        assert forks.stdin is not None
        assert forks.stdout is not None
        try:
            forks.stdin.write(json.dumps(task).encode() + b"\n")
            forks.stdin.flush()
            line = forks.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            self._said.seek(0)
            why = why_it_failed(forks.wait(PATIENCE), self._said.read().decode(errors="replace"))
            raise LongrecError(f"the process that starts the measurements ended: {why}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        forks = self._forks
        assert forks.stdin is not None
        assert forks.stdout is not None
        try:
            forks.stdin.close()
            forks.wait(PATIENCE)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            forks.kill()
            forks.wait()
        finally:
            forks.stdout.close()
            self._said.close()
