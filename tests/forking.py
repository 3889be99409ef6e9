"""Python processes that start within milliseconds: forked from one that has imported already.

`run_code(code, *arguments)` does what `python -c CODE ARGUMENTS` does, without the seconds that it
takes to import PyTorch. `ForkServer` is the process that forks; there is one for all tests of a
session, and tests that need other modules, or whatever else takes long to make, have their own:

    with ForkServer("serving.stream_jobs") as server:
        with server.job("go_on", url, 3) as job:
            assert job.line() == "3"

python forking.py ADDRESS MODULE...    the server itself; a test never runs it by hand
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, Self

Say = Callable[[str], None]
"""Send the test a line; it arrives even if the job dies right afterwards."""

ADDRESS = "LONGREC_TESTS_FORK_SERVER"
"""The variable that tells forked processes where to have others forked."""
LONGREC = "longrec"
"""As a module to import: all of longrec but what exports and benchmarks."""
LAZY = ("torch._dynamo", "pyarrow.dataset")
"""What an optimiser and a Parquet file import when first used, which takes seconds."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
KILLS = int(os.environ.get("LONGREC_TEST_KILLS", "20"))
"""How often a kind of store, or training, is killed at random instants, in all tests together."""
JOB = """
import json, os, sys
from {module} import {name} as job
def say(text):
    os.write(1, text.encode() + b"\\n")
try:
    job(say, *json.loads(sys.argv[1]))
except BaseException as error:
    import traceback
    say("failed " + traceback.format_exc().replace("\\n", " | "))
    os._exit(1)
"""


# ---- the test's end


def kills(of_20: int) -> int:
    """A test's share of the kills: so many where there are 20 in all."""
    return of_20 * KILLS // 20


class Forked:
    """A forked process; its methods are those of `subprocess.Popen`.

    Parameters
    ----------
    address
        Of the fork server.
    code, arguments
        As `python -c` has them.
    stdin, stdout, stderr
        As for Popen: None, PIPE, DEVNULL, STDOUT or a file. Pipes are read as text if so wished.
    env
        All variables of its environment; those of this process if not given.
    """

    def __init__(
        self,
        address: str,
        code: str,
        arguments: Sequence[object] = (),
        *,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        env: dict[str, str] | None = None,
        text: bool = False,
    ) -> None:
        self.returncode: int | None = None
        self.args = [code, *map(str, arguments)]
        self._text = text
        self._child_files: list[int] = []  # ends of pipes and files that only the child needs
        self.stdin, child_in = self._stream(0, stdin, None)
        self.stdout, child_out = self._stream(1, stdout, None)
        self.stderr, child_err = self._stream(2, stderr, child_out)
        request = {"argv": self.args, "env": dict(env or os.environ), "cwd": os.getcwd()}
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(address)
        line = json.dumps(request).encode() + b"\n"
        sent = socket.send_fds(self._server, [line], [child_in, child_out, child_err])
        self._server.sendall(line[sent:])
        for number in self._child_files:
            os.close(number)
        self._received = b""
        pid = self._number(None)
        assert pid is not None
        self.pid = pid

    def _stream(self, number: int, wanted: Any, output: int | None) -> tuple[Any, int]:
        """-> (this process's end of a pipe or None, the file that the child gets)."""
        if wanted is None:
            return None, number
        if wanted == subprocess.STDOUT:
            assert output is not None
            return None, output
        if wanted == subprocess.DEVNULL:
            self._child_files.append(os.open(os.devnull, os.O_RDWR))
            return None, self._child_files[-1]
        if wanted != subprocess.PIPE:
            return None, wanted if isinstance(wanted, int) else wanted.fileno()
        read, write = os.pipe()
        own_end, child_end = (write, read) if number == 0 else (read, write)
        self._child_files.append(child_end)
        kind = ("w" if number == 0 else "r") + ("" if self._text else "b")
        return open(own_end, kind, buffering=-1 if self._text or number else 0), child_end

    def _number(self, seconds: float | None) -> int | None:
        """The next number that the server sends, its process's and then its exit status."""
        while b"\n" not in self._received:
            if not select.select([self._server], [], [], seconds)[0]:
                return None
            data = self._server.recv(100)
            assert data, "the fork server died"
            self._received += data
        number, self._received = self._received.split(b"\n", 1)
        return int(number)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._number(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = self._number(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        """Read both pipes to their ends, then wait."""
        found: dict[IO[Any], Any] = {}
        pipes = [pipe for pipe in (self.stdout, self.stderr) if pipe is not None]
        if self.stdin is not None:
            self.stdin.close()

        def read(pipe: IO[Any]) -> None:
            found[pipe] = pipe.read()

        threads = [threading.Thread(target=read, args=(pipe,), daemon=True) for pipe in pipes]
        for thread in threads:
            thread.start()
        self.wait(timeout)
        for thread, pipe in zip(threads, pipes, strict=True):
            thread.join(timeout)
            pipe.close()
        return found.get(self.stdout), found.get(self.stderr)  # type: ignore[arg-type]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended just now
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.kill()
        self.wait()
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe is not None:
                pipe.close()
        self._server.close()


class Job(Forked):
    """A function of a module in a process of its own, which sends the test lines until it ends."""

    def __init__(self, address: str, module: str, name: str, arguments: Sequence[Any]) -> None:
        code = JOB.format(module=module, name=name)
        super().__init__(address, code, [json.dumps(arguments)], stdout=subprocess.PIPE)
        self._rest = b""
        self._ended = False

    def line(self, seconds: float = 60) -> str | None:
        """The next line from the job, None when it has ended or sent none for so long."""
        while b"\n" not in self._rest:
            if self._ended or not select.select([self.stdout], [], [], seconds)[0]:
                return None
            data = os.read(self.stdout.fileno(), 2**16)
            self._ended = not data
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode()

    def lines(self) -> list[str]:
        """All its lines until it ends."""
        lines = []
        while (line := self.line()) is not None:
            lines.append(line)
        assert self._ended, "the job goes on and prints nothing"
        return lines

    def killed(self) -> list[str]:
        """Kill the job, if it still runs; -> its lines until then."""
        self.kill()
        self.wait()
        return self.lines()


class ForkServer:
    """A process that has imported some modules, and forks others.

    A module that is named is imported before anything is forked: it may make there what takes
    long, but no threads, which those forked would wait for for ever. The server is itself forked
    from that of the session, which has imported longrec.
    """

    def __init__(self, *modules: str) -> None:
        self.modules = modules
        self.folder = tempfile.mkdtemp(prefix="fork-")  # a socket's path may not be long
        self.address = f"{self.folder}/socket"
        self.process = self._start()
        assert self.process.stdout is not None
        self.process.stdout.readline()  # it listens: requests wait until it has imported

    def _start(self) -> Any:
        code = "import sys, forking\nforking.serve(sys.argv[1], sys.argv[2:])"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return run_code(code, self.address, *self.modules, **pipes)

    def job(self, name: str, *arguments: Any) -> Job:
        """Begin a job: MODULE.name(say, *arguments), of the last module."""
        return Job(self.address, self.modules[-1], name, arguments)

    def close(self) -> None:
        """End it, and all that it forked."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()  # type: ignore[union-attr]
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class SessionServer(ForkServer):
    """The server that has imported longrec, for all tests of a session."""

    def _start(self) -> Any:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        return subprocess.Popen(
            [sys.executable, __file__, self.address, *self.modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | ONE_THREAD | {"PYTHONPATH": path},
        )


def address_of_session() -> str:
    """Where the session's server listens; started when needed.

    Processes that this one starts, and those forked, find the same.
    """
    if ADDRESS not in os.environ:
        server = SessionServer(LONGREC)
        atexit.register(server.close)
        os.environ[ADDRESS] = server.address
    return os.environ[ADDRESS]


def run_code(code: str, *arguments: object, **options: Any) -> Forked:
    """`python -c CODE ARGUMENTS`, forked; options as for `Forked`."""
    return Forked(address_of_session(), code, arguments, **options)


def run_command(*arguments: object, forked_children: bool = False, **options: Any) -> Forked:
    """`longrec ARGUMENTS`, forked; and the processes of a comparison's runs too if so wished."""
    code = "import sys\nsys.argv[0] = 'longrec'\nfrom longrec.cli.main import main\nmain()"
    if forked_children:
        code = f"import forking\nforking.fork_children()\n{code}"
    return run_code(code, *arguments, **options)


def start_child(
    module: str,
    arguments: Sequence[str] = (),
    *,
    stdout: Any,
    stderr: Any,
    variables: Mapping[str, str] | None = None,
) -> Forked:
    """What `longrec.core.child.start_child` does, forked."""
    code = f"from {module} import main; main()"
    return run_code(
        code,
        *arguments,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        env=os.environ | dict(variables or {}),
    )


def fork_children() -> None:
    """Let comparisons and trainings in this process fork the processes of theirs."""
    from longrec.cli import processes
    from longrec.comparison import process

    process.start_child = processes.start_child = start_child  # type: ignore[assignment]


# ---- the server's end


def import_modules(modules: Sequence[str]) -> None:
    for name in modules:
        importlib.import_module(name)
        if name == LONGREC:
            package = importlib.import_module(name)
            for found in pkgutil.walk_packages(package.__path__, f"{name}."):
                if not found.name.startswith(("longrec.export", "longrec.__main__")):
                    try:
                        importlib.import_module(found.name)
                    except ImportError:  # of an extra that is not installed
                        continue
            for lazy in LAZY:
                importlib.import_module(lazy)
    # Threads of allocators have names of their own, and are at home with forks.
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    assert not names or names.count(Path("/proc/self/comm").read_text()) == 1, f"threads: {names}"


def serve(address: str, modules: Sequence[str]) -> NoReturn:
    """Fork a process per connection until standard input closes; tell each how it ended."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(100)
    os.write(1, b"listening\n")
    import_modules(modules)
    gc.collect()
    gc.freeze()  # a collection would copy all that was imported into each process that is forked
    running: dict[int, socket.socket] = {}
    ended, on_end = os.pipe()
    os.set_blocking(on_end, False)
    signal.set_wakeup_fd(on_end)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        ready = select.select([0, ended, listener], [], [])[0]
        if 0 in ready:
            break
        if ended in ready:
            os.read(ended, 2**16)
            report_ended(running)
        if listener in ready:
            connection, _ = listener.accept()
            request, streams = read_request(connection)
            pid = os.fork()
            if not pid:
                for other in (listener, connection, *running.values()):
                    other.close()
                run_request(request, streams)
            for stream in streams:
                os.close(stream)
            running[pid] = connection
            send_number(connection, pid)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)  # an orderly end takes PyTorch seconds


def read_request(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """-> (what is to be run, its standard streams)."""
    text, streams, _, _ = socket.recv_fds(connection, 2**16, 3)
    while not text.endswith(b"\n"):
        text += connection.recv(2**16)
    return json.loads(text), streams


def report_ended(running: dict[int, socket.socket]) -> None:
    """Send the exit status of processes that have ended, minus the signal of those killed."""
    for pid in list(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with running.pop(pid) as connection:
                send_number(connection, os.waitstatus_to_exitcode(status))


def send_number(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # nobody waits any more
        connection.sendall(b"%d\n" % number)


def run_request(request: dict[str, Any], streams: list[int]) -> NoReturn:
    """What a forked process does: run the code as `python -c` does, and end."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False, errors="backslashreplace")  # noqa: SIM115
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    code, *arguments = request["argv"]
    sys.argv = ["-c", *arguments]
    status: Any = 1
    try:
        exec(compile(code, "<forked>", "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as end:
        status = end.code
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
        traceback.print_exc()
    except BaseException:
        traceback.print_exc()
    if status is not None and not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    try:
        sys.stdout.flush()
    except OSError:  # nobody reads it any more: as Python has it
        traceback.print_exc()
        status = 120
    finally:
        sys.stderr.flush()
        os._exit(status or 0)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
