"""A process that has imported what its jobs need, and forks a child per job, to be killed.

python preloaded.py MODULE    jobs are functions of MODULE, told as JSON on standard input
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

Say = Callable[[str], None]
"""Tell the test something, a line at a time. It gets it even if the job dies right afterwards."""


class Preloaded:
    """The test's end of it: one job at a time."""

    def __init__(self, module: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.job: int | None = None
        self._rest, self._ended = b"", True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.kill()
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def start(self, job: str, *arguments: Any) -> None:
        """Begin a job: MODULE.job(say, *arguments)."""
        assert self._ended, "one job at a time"
        self.process.stdin.write(json.dumps([job, *arguments]).encode() + b"\n")
        self.process.stdin.flush()
        self.job, self._ended = None, False
        said, number = (self.line() or "nothing ").split(" ", 1)
        assert said == "started", said
        self.job = int(number)

    def line(self, seconds: float = 60) -> str | None:
        """The next line that the job says, None when it has ended or said nothing so long."""
        while b"\n" not in self._rest:
            if self._ended or not select.select([self.process.stdout], [], [], seconds)[0]:
                return None
            said = os.read(self.process.stdout.fileno(), 2**16)
            assert said, "the preloaded process died"
            self._rest += said
        line, self._rest = self._rest.split(b"\n", 1)
        if line.startswith(b"ended "):
            self._ended = True
            return None
        return line.decode()

    def kill(self) -> list[str]:
        """Kill the job, if it still runs; -> what it said until then."""
        if not self._ended and self.job:
            os.kill(self.job, signal.SIGKILL)  # it may have ended: its parent keeps its number
        return self.rest()

    def rest(self) -> list[str]:
        """What it says until it ends."""
        said = []
        while not self._ended:
            line = self.line()
            assert line is not None or self._ended, "the job goes on and says nothing"
            said += [] if line is None else [line]
        return said


def main(module: str) -> None:
    jobs = importlib.import_module(module)

    def say(text: str) -> None:
        os.write(1, text.encode() + b"\n")

    child = 0
    for line in sys.stdin.buffer:
        if child:
            os.waitpid(child, 0)
        name, *arguments = json.loads(line)
        child = os.fork()
        if not child:
            status = 1
            say(f"started {os.getpid()}")
            try:
                getattr(jobs, name)(say, *arguments)
                status = 0
            except BaseException:
                say("failed " + traceback.format_exc().replace("\n", " | "))
            finally:
                os._exit(status)
        # It is not reaped before the test knows, so that nobody else can have its number.
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        say("ended ")


if __name__ == "__main__":
    main(sys.argv[1])
