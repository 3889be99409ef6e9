"""Tensors that all processes of one user on one machine hold once in memory.

Who has made some offers them as a file that is in memory alone and has no name (memfd), sealed:
nobody can change it or cut it short any more, as a file of a run may be while it is mapped, which
ends whoever reads it. Others find it among the open files of this user's processes, by a key that
says all about what is in it, and map it. It is gone with the last process that holds it.

    8 bytes    length of the next part
    JSON       of each tensor its name, type, shape and first byte
    tensors    one behind the other, each from a multiple of `ALIGNED` bytes on

A tensor may be written to: a process gets copies of its own of the pages that it changes. Where
the system has no such files (Linux has), or no room for one, each process holds its own tensors.
"""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

ALIGNED = 64
"""Bytes of a line of a processor's cache, as PyTorch's own tensors begin at."""
LAYOUT = 1
"""Of the above: another one has other names."""
PATIENCE, LOOK_EVERY = 60.0, 0.02
"""Seconds that another process which is making the same is waited for, and between two looks."""
PROCESSES = Path("/proc")
_maps: WeakKeyDictionary[mmap.mmap, str] = WeakKeyDictionary()
"""What is mapped, and its name."""
AVAILABLE = hasattr(os, "memfd_create")
"""Whether this system has files that are in memory alone."""


def shared(key: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors that another process holds already, or that are made now and offered to others.

    Parameters
    ----------
    key : str
        Up to 80 letters and digits that no other tensors have: a kind, and a digest of what they
        are made of.
    make : callable
        Makes them, on the CPU; what it raises is raised here. Of several processes that begin at
        once one makes them and the others wait.

    Returns
    -------
    dict
        Tensors by their names; shared ones where the system can.
    """
    if not AVAILABLE:
        return dict(make())
    name = _name(key)
    found = _find(name)
    if found is not None:
        return found
    with _one_at_a_time(name) as first:
        found = _find(name)
        if found is None:
            made = dict(make())
            found = _offer(name, made) if first else None
    return made if found is None else found


def key_of_file(digest: str) -> str:
    """The key of the tensors in a file that has this digest."""
    return f"file-{digest}"


def is_held(key: str) -> bool:
    """Whether a process holds the tensors of a key: another one needs no memory for them."""
    file = next(_offers(_name(key)), None) if AVAILABLE else None
    if file is not None:
        os.close(file)
    return file is not None


def is_shared(tensor: Tensor) -> bool:
    """Whether a tensor, or what it is a part of, came from `shared` and is held once."""
    return _place(tensor) is not None


@contextmanager
def file_of(tensor: Tensor) -> Iterator[tuple[str, int]]:
    """The path of the file that a shared tensor stands in, good within the block, and the place of
    its first byte there: for libraries that map files themselves."""
    name, first = _place(tensor) or ("", 0)
    file = next(_offers(name))
    try:
        yield f"/proc/self/fd/{file}", first
    finally:
        os.close(file)


def _place(tensor: Tensor) -> tuple[str, int] | None:
    """In which file a tensor stands, and where."""
    for mapped, name in list(_maps.items()):
        begin = torch.frombuffer(mapped, dtype=torch.uint8, count=1).data_ptr()
        if begin <= tensor.data_ptr() < begin + len(mapped):
            return name, tensor.data_ptr() - begin
    return None


def _name(key: str) -> str:
    return f"longrec-{LAYOUT}-{key}"


def _find(name: str) -> dict[str, Tensor] | None:
    for file in _offers(name):
        try:
            return _map(file, name)
        finally:
            os.close(file)
    return None


def _offers(name: str) -> Iterator[int]:
    """Files of that name, open to be read, that processes of this user have sealed."""
    link, user = f"/memfd:{name} (deleted)", os.geteuid()
    for process in os.listdir(PROCESSES):
        if not process.isdigit():
            continue
        with suppress(OSError):  # it has ended, or belongs to another user
            folder = f"{PROCESSES}/{process}/fd"
            for number in os.listdir(folder):
                try:
                    if os.readlink(f"{folder}/{number}") != link:
                        continue
                    file = os.open(f"{folder}/{number}", os.O_RDONLY | os.O_CLOEXEC)
                except OSError:  # closed just now
                    continue
                # One that is not sealed yet is being written; one of another user is no offer.
                if os.fstat(file).st_uid == user and _is_sealed(file):
                    yield file
                else:
                    os.close(file)


def _offer(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Tensors copied to a file that others find; None where there can be none."""
    flat = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
    places: dict[str, tuple[str, list[int], int]] = {}
    end = 0
    for key, tensor in flat.items():
        places[key] = str(tensor.dtype).removeprefix("torch."), list(tensor.shape), end
        end += -(-tensor.nbytes // ALIGNED) * ALIGNED
    header = json.dumps(places).encode()
    begin = -(-(8 + len(header)) // ALIGNED) * ALIGNED
    try:
        file = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:
        return None
    try:
        os.posix_fallocate(file, 0, begin + end)  # told here if there is no room, and not later
        with open(file, "wb", closefd=False) as writer:
            writer.write(len(header).to_bytes(8, "little") + header)
            for key, tensor in flat.items():
                writer.seek(begin + places[key][2])
                writer.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
        _seal(file)
        return _map(file, name)
    except OSError:
        return None
    finally:
        os.close(file)


def _map(file: int, name: str) -> dict[str, Tensor]:
    """The tensors in a sealed file, which is open, and found by others, as long as they are."""
    # A copy of pages that are written to, and of no others.
    mapped = mmap.mmap(file, 0, access=mmap.ACCESS_COPY)
    _maps[mapped] = name
    length = int.from_bytes(mapped[:8], "little")
    begin = -(-(8 + length) // ALIGNED) * ALIGNED
    tensors = {}
    for key, (kind, shape, place) in json.loads(mapped[8 : 8 + length]).items():
        dtype, numbers = getattr(torch, kind), math.prod(shape)
        if numbers:
            flat = torch.frombuffer(mapped, dtype=dtype, count=numbers, offset=begin + place)
            tensors[key] = flat.view(shape)
        else:
            tensors[key] = torch.empty(shape, dtype=dtype)
    return tensors


def _seal(file: int) -> None:
    """Let nobody write to a file or change its size any more."""
    import fcntl  # which Windows has not

    fcntl.fcntl(file, fcntl.F_ADD_SEALS, _seals())


def _is_sealed(file: int) -> bool:
    import fcntl

    return fcntl.fcntl(file, fcntl.F_GET_SEALS) & _seals() == _seals()


def _seals() -> int:
    import fcntl

    return fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


@contextmanager
def _one_at_a_time(name: str) -> Iterator[bool]:
    """Keep other processes of this user from making the same meanwhile.

    Gives False where one of them does so for longer than `PATIENCE`. The lock is a name of a
    socket, of which no file is left: it ends with its process.
    """
    with socket.socket(socket.AF_UNIX) as lock:
        yield _bound(lock, f"\0{name}-{os.geteuid()}", time.monotonic() + PATIENCE)


def _bound(lock: socket.socket, name: str, until: float) -> bool:
    while True:
        try:
            lock.bind(name)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:  # no such names here: two may make the same
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(LOOK_EVERY)
        else:
            return True
