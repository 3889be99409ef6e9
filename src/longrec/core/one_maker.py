"""One process of a user makes something that others then find, and they wait for it meanwhile.

The lock is a name of a socket, of which no file is left: it ends with its process. Who has it
listens, so that the system tells others who that is. Not waited for are

- another user, who may have taken the name as well;
- a process in another container, which sees no files of this one's, nor shows its own;
- one that is stopped; and one that has ended while a child of it holds the socket open.

Waiting saves work and memory, and is no promise: in the end two may make the same.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE, LOOK_EVERY = 600.0, 0.05
"""Seconds that one who is at work is waited for, and between two looks at whether it is."""
REFUSALS = 20
"""Looks at one who has the name and does not listen: it may have taken it just now."""
CREDENTIALS = "3i"
"""Process, user and group."""


@contextmanager
def one_maker(what: str) -> Iterator[None]:
    """Keep other processes of this user from making the same meanwhile, where that can be.

    Parameters
    ----------
    what : str
        The same in all of them, of any length.
    """
    lock = _lock(f"\0longrec-{hashlib.sha256(what.encode()).hexdigest()}-{os.geteuid()}")
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


def _lock(address: str) -> socket.socket | None:
    """A socket of that name; None where nobody is to be waited for, or there are none here."""
    until, refusals = time.monotonic() + PATIENCE, 0
    while refusals < REFUSALS:
        try:
            if (lock := _bound(address)) is not None:
                return lock
            if not _waited(address, until):
                return None
        except (ConnectionRefusedError, TimeoutError):
            refusals += 1
            time.sleep(LOOK_EVERY)
        except OSError:  # sockets of this kind are forbidden, or no further file may be open
            return None
    return None


def _bound(address: str) -> socket.socket | None:
    """A socket of that name, which listens; None where somebody has it."""
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind(address)
        lock.listen(socket.SOMAXCONN)
    except OSError as error:
        lock.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return lock


def _waited(address: str, until: float) -> bool:
    """Wait for whoever has a name to let go of it; False where that is not to be waited for.

    Raises
    ------
    OSError
        When nobody listens there.
    """
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(LOOK_EVERY)
        asking.connect(address)
        told = asking.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(CREDENTIALS)
        )
        process, user, _ = struct.unpack(CREDENTIALS, told)
        while time.monotonic() < until and user == os.geteuid() and _works(process):
            try:
                asking.recv(1)
            except TimeoutError:
                continue
            except ConnectionResetError:
                pass
            return True
    return False


def _works(process: int) -> bool:
    """Whether a process of this machine, or container, is there and not stopped."""
    try:
        about = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return False
    return about.rpartition(")")[2].split()[0] not in "TtZX"
