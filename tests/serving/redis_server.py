"""A real redis-server on loopback, started, killed and started again by a test."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import redis
from needs import missing

GOOD = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}


def need_redis() -> None:
    """Skip where there is no redis-server, or fail where there must be one."""
    if shutil.which("redis-server") is None:
        words = "redis-server is not installed (Debian: apt-get install redis-server)"
        missing(words, "LONGREC_REQUIRE_REDIS")


def free_port() -> int:
    """A port that no outgoing connection is given.

    Else a client that tries a dead server's port may be connected to itself, and hold that port.
    """
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


class RedisServer:
    """A server on a free port, its files in `folder`.

    Parameters
    ----------
    wrapped : list of str
        A command that it is started by, such as strace.
    settings
        Those of redis.conf, "_" for "-"; beside `GOOD`, or instead of what that says. With a
        `tls_cert_file` it speaks TLS alone.
    """

    def __init__(self, folder: Path, wrapped: list[str] | None = None, **settings: str) -> None:
        need_redis()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.wrapped = folder, wrapped or []
        self.settings = GOOD | {name.replace("_", "-"): value for name, value in settings.items()}
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"redis{'s' if self.tls else ''}://127.0.0.1:{self.port}/0"

    def empty(self, number: int) -> str:
        """The address of one of its 16 databases, emptied."""
        with self.client(db=number) as client:
            client.flushdb()
        return f"redis://127.0.0.1:{self.port}/{number}"

    def client(self, **options: Any) -> redis.Redis:
        password = self.settings.get("requirepass")
        own: dict[str, Any] = {"password": password}
        if self.tls:
            own |= {"ssl": True, "ssl_ca_certs": self.settings["tls-ca-cert-file"]}
        return redis.Redis("127.0.0.1", self.port, **(own | options))

    @property
    def tls(self) -> bool:
        return "tls-cert-file" in self.settings

    def start(self) -> None:
        """Start it on the files that are there, and wait until it has loaded them."""
        settings = {
            "port": str(self.port),
            **({"port": "0", "tls-port": str(self.port)} if self.tls else {}),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "save": "",
            "hz": "100",
            "logfile": str(self.folder / "log"),
        }
        command = [*self.wrapped, "redis-server"]
        for name, value in (settings | self.settings).items():
            command += [f"--{name}", *(value.split() or [""])]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ)
        with self.client() as client:
            end = time.monotonic() + 30
            while True:
                try:
                    client.ping()
                    break
                except redis.AuthenticationError:
                    break
                except redis.ConnectionError as error:
                    if self.process.poll() is not None or time.monotonic() > end:
                        text = (self.folder / "log").read_text()
                        raise AssertionError(f"redis-server did not start: {text}") from error
                    time.sleep(0.005)

    def kill(self) -> None:
        """kill -9, without a word."""
        if self.process is not None:
            os.kill(self.pid(), signal.SIGKILL)
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Let it answer nothing."""
        os.kill(self.pid(), signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid(), signal.SIGCONT)

    def pid(self) -> int:
        """The server's own, also where it was started by another command."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        if self.wrapped:
            return int(children.read_text().split()[0])
        return self.process.pid
