"""Calls of functions in processes of a Ray cluster, their results in the order of the calls.

Plain tasks are all that is used of Ray: each reads files that are there and writes files of its
own, whole or not at all, so that Ray may call one again whose process was lost.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from longrec.core.errors import LongrecError, UsageError, first_line
from longrec.core.files import disk_full
from longrec.core.memory import out_of_memory
from longrec.core.threads import of_machine

RETRIES = 3
"""Times that a call is made again whose process was lost."""
WAIT = 5.0
"""Seconds in which an address has to answer."""
PATIENCE = 600.0
"""Seconds that calls under way are waited for when one has failed."""
AT_ONCE = 2
"""Calls that are handed in for each processor, so that none waits and few results lie about."""
NO_LONGREC = (
    "a machine of the Ray cluster has no longrec, or another version: install this one on all of "
    "them"
)
_STORE = 128 << 20
"""Bytes of shared memory for results, where the cluster is of this machine alone."""
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "error",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""Nothing is sent home, no card is hidden from who asks for none, nobody is told of retries, and no
process looks whether a machine is about to go: its training goes on elsewhere when it has gone."""
_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS
"""How a client of HTTP/2, which Ray speaks, begins; who speaks it answers with settings, too."""


class Cluster:
    """A Ray cluster that this process is connected to.

    Attributes
    ----------
    slots : calls that it works on at once.
    beside : those among them that share a machine, at most.
    gpus : of all machines.
    """

    def __init__(self) -> None:
        import ray

        there = ray.cluster_resources()
        self.slots, self.gpus = max(1, int(there.get("CPU", 1))), int(there.get("GPU", 0))
        nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        self.beside = max(1, *nodes)

    def run(
        self,
        function: Callable[..., Any],
        calls: Iterable[tuple[Any, ...]],
        done: Callable[[int], None] | None = None,
    ) -> Iterator[Any]:
        """What a function returns for each tuple of arguments, in their order.

        Parameters
        ----------
        function : of a module that the workers can import; may be called twice for one tuple.
        calls : the arguments.
        done : is called with how many results there are.

        Raises
        ------
        LongrecError
            That the first call to fail raised, or that says that processes were lost.
        """
        import ray

        task = ray.remote(num_cpus=1, max_retries=RETRIES)(explained)
        left, pending = iter(calls), deque[Any]()
        try:
            count = 0
            while True:
                more = islice(left, self.slots * AT_ONCE - len(pending))
                pending += [task.remote(function, *call) for call in more]
                if not pending:
                    return
                result = ray.get(pending[0])
                pending.popleft()
                count += 1
                if done is not None:
                    done(count)
                yield result
        except ray.exceptions.RayTaskError as error:
            if lacks_longrec(error):
                raise LongrecError(NO_LONGREC) from None
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except ray.exceptions.RayError as error:
            raise _lost(error) from None
        finally:
            # What is under way still writes, and is waited for: to cancel it ends this process
            # where its answer comes at that moment (a check in Ray 2.60 that fails). Ctrl-C waits
            # for none.
            if pending and not isinstance(sys.exc_info()[1], KeyboardInterrupt):
                ray.wait(list(pending), num_returns=len(pending), timeout=PATIENCE)


def lacks_longrec(error: BaseException) -> bool:
    """Whether a worker failed for want of this longrec."""
    return "No module named 'longrec" in str(error)


def explained(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a worker; what its user can mend is an error of ours."""
    try:
        return function(*arguments)
    except LongrecError:
        raise
    except Exception as error:
        full = disk_full(error)
        if full is not None:
            raise LongrecError(f"{full}; free space on it, or use another one") from None
        memory = out_of_memory(error)
        if memory is not None:
            raise LongrecError(memory) from None
        raise


def _lost(error: Exception) -> LongrecError:
    import ray

    again = "Nothing was left behind: run the command again"
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return LongrecError(
            f"Ray ended a worker for want of memory. {again}, with less for each process (--memory)"
            " or on machines that have more."
        )
    return LongrecError(
        f"a worker of the Ray cluster was lost {RETRIES + 1} times in one call "
        f"({first_line(error)[:120]}). {again}; if it ends so again, see whether its machines have "
        "memory and disk left (ray status)."
    )


@contextmanager
def ray_cluster(address: str | None, processors: int = 1) -> Iterator[Cluster]:
    """Connect to a Ray cluster, or start one of this machine's processes that ends with the block.

    A process that is connected already stays so, whatever the address.

    Parameters
    ----------
    address : "host:port" as `ray start --head` printed it, "auto" for the one that was started on
        this machine last; None: what RAY_ADDRESS says, or else a new one of this machine alone.
    processors : that a new one has at least.

    Raises
    ------
    UsageError
        When Ray is not installed, or the address is none.
    LongrecError
        When nobody answers there.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    address = address or os.environ.get("RAY_ADDRESS")
    if address is not None and (Path.home() / ".ray" / "auth_token").is_file():
        # `ray start` asks for the token where there is one, and who connects has to be told to.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "Ray is not installed: pip install 'longrec[ray]', on every machine of the cluster"
        ) from error
    if ray.is_initialized():
        yield Cluster()
        return
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None or address == "local":
        options |= {"address": "local", "num_cpus": max(of_machine().number, processors)}
        options |= {"include_dashboard": False, "object_store_memory": _STORE}
    else:
        options["address"] = address = _of_this_machine() if address == "auto" else address
        _check_answers(address)
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _nobody(address or "local", first_line(error)) from error
    try:
        yield Cluster()
    finally:
        ray.shutdown()


def _of_this_machine() -> str:
    """Where the cluster is that `ray start` began here last, by the note that it keeps.

    The note stays when a cluster is killed, and Ray itself asks there for many minutes.
    """
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    note = Path(folder) / "ray" / "ray_current_cluster"
    return note.read_text().strip() if note.is_file() else "auto"


def _check_answers(address: str) -> None:
    """Raise unless somebody listens there: Ray itself tries for a minute and says a page."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not (colon and host and port.isdecimal()):
        raise UsageError(
            f"address is {address!r}: give HOST:PORT as `ray start --head` printed it, or auto. "
            "The command runs on a machine of the cluster, whose files all of them see."
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), WAIT) as connection:
            connection.sendall(_HELLO)
            answer = connection.recv(len(_SETTINGS))
    except (OSError, OverflowError) as error:
        raise _nobody(address, first_line(error)) from error
    if answer[3:4] != _SETTINGS[3:4]:
        raise _nobody(address, "another service listens there")


def _nobody(address: str, cause: str) -> LongrecError:
    return LongrecError(
        f"no Ray cluster answers at {address} ({cause[:160]}): start one (ray start --head), name "
        "the address that it printed (its token is in ~/.ray/auth_token here, too), or leave "
        "--address out to use this machine alone"
    )
