"""Tensors that all processes of one user on one machine hold once in memory.

Who has made some offers them as a file that is in memory alone and has no name (memfd), sealed:
nobody can change it or cut it short any more, as a file of a run may be while it is mapped, which
ends whoever reads it. Others find it among the open files of this user's processes, by a key that
says all about what is in it, and map it. It is gone with the last process that holds it.

    8 bytes    length of the next part
    JSON       of each tensor its name, type, shape and first byte
    tensors    one behind the other, each from a multiple of `ALIGNED` bytes on

A tensor may be written to: a process gets copies of its own of the pages that it changes. Where
the system has no such files (Linux has), no room for one, or hides which files processes have open,
each process holds its own tensors: sharing never is what fails.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor

from longrec.core.memory import available_memory
from longrec.core.one_maker import one_maker
from longrec.core.version import version

ALIGNED = 64
"""Bytes of a line of a processor's cache, as PyTorch's own tensors begin at."""
LAYOUT = 2
"""Of the above: another one has other names."""
MANY = 200
"""Open files from which it is looked first whether a process has mapped what is sought: some have
ten thousands of connections open."""
PROCESSES = Path("/proc")
_maps: WeakKeyDictionary[mmap.mmap, int] = WeakKeyDictionary()
"""What is mapped, and the file, which is open as long."""
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
    if not _possible():
        return dict(make())
    name = _name(key)
    found = _find(name)
    if found is None:
        with one_maker(name):
            found = _find(name)
            if found is None:
                made = dict(make())
                found = _offer(name, made)
                return made if found is None else found
    return found


def key_of_file(digest: str) -> str:
    """The key of the tensors in a file that has this digest."""
    return f"file-{digest}"


def is_held(key: str) -> bool:
    """Whether a process holds the tensors of a key: another one needs no memory for them."""
    file = next(_offers(_name(key)), None) if _possible() else None
    if file is not None:
        os.close(file)
    return file is not None


def is_shared(tensor: Tensor) -> bool:
    """Whether a tensor, or what it is a part of, came from `shared` and is held once."""
    return _place(tensor) is not None


def file_of(tensor: Tensor) -> tuple[str, int]:
    """The path of the file that a shared tensor stands in, as it was made, good while the tensor is
    held, and the place of its first byte there: for libraries that map files themselves.

    Raises
    ------
    ValueError
        When the tensor is not shared.
    """
    place = _place(tensor)
    if place is None:
        raise ValueError("the tensor is this process's own, in no file")
    return f"/proc/self/fd/{place[0]}", place[1]


def _place(tensor: Tensor) -> tuple[int, int] | None:
    """In which open file a tensor stands, and where."""
    for reference in _maps.keyrefs():  # a list: another thread may map something meanwhile
        mapped = reference()
        if mapped is not None:
            begin = torch.frombuffer(mapped, dtype=torch.uint8, count=1).data_ptr()
            if begin <= tensor.data_ptr() < begin + len(mapped):
                return _maps[mapped], tensor.data_ptr() - begin
    return None


def _possible() -> bool:
    """Whether there are such files here, and processes see each other's."""
    return AVAILABLE and (PROCESSES / "self" / "fd").is_dir()


def _name(key: str) -> str:
    # Another version may make other tensors of the same things.
    return f"longrec-{version()}-{LAYOUT}-{key}"


def _find(name: str) -> dict[str, Tensor] | None:
    for file in _offers(name):
        try:
            return _map(file)
        except Exception:  # no memory, no further files, or one that is not of this layout
            continue
        finally:
            os.close(file)
    return None


def _offers(name: str) -> Iterator[int]:
    """Files of that name, open to be read, that processes of this user have sealed.

    Only of those beside this one: from the host those in containers are seen, too, whose user of
    the same number is another one.
    """
    link, user = f"/memfd:{name} (deleted)", os.geteuid()
    with suppress(OSError):
        here = os.readlink(PROCESSES / "self" / "ns" / "pid")
        for process in filter(str.isdigit, os.listdir(PROCESSES)):
            with suppress(OSError):  # it has ended, or does not show its files
                if os.stat(f"{PROCESSES}/{process}").st_uid == user:
                    numbers = _files_named(link, process)
                    if numbers and os.readlink(f"{PROCESSES}/{process}/ns/pid") == here:
                        yield from _sealed(process, numbers, user)


def _files_named(link: str, process: str) -> list[str]:
    """Numbers of a process's open files that are called so."""
    folder, found = f"{PROCESSES}/{process}/fd", list[str]()
    many = os.stat(folder).st_size > MANY  # how many there are since Linux 6.2, and 0 before
    numbers = [] if many else os.listdir(folder)
    if many or len(numbers) > MANY:
        maps = Path(f"{PROCESSES}/{process}/maps").read_bytes()
        numbers = os.listdir(folder) if os.fsencode(link) in maps else []
    for number in numbers:
        with suppress(OSError):  # closed just now
            if os.readlink(f"{folder}/{number}") == link:
                found.append(number)
    return found


def _sealed(process: str, numbers: list[str], user: int) -> Iterator[int]:
    """Open those of a process's files that are a user's, in memory alone and sealed."""
    import fcntl  # which Windows has not

    for number in numbers:
        with suppress(OSError):
            # By now the number may be of something else, such as a pipe, which would be waited for.
            rights = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
            file = os.open(f"{PROCESSES}/{process}/fd/{number}", rights)
            try:
                # One that is not sealed yet is being written.
                seals = fcntl.fcntl(file, fcntl.F_GET_SEALS)
                if os.fstat(file).st_uid == user and seals & _seals() == _seals():
                    yield os.dup(file)
            finally:
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
    if begin + end > available_memory():  # who takes it all the same is killed
        return None
    try:
        file = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:
        return None
    try:
        os.posix_fallocate(file, 0, begin + end)  # told here if a limit forbids it, and not later
        with open(file, "wb", closefd=False) as writer:
            writer.write(len(header).to_bytes(8, "little") + header)
            for key, tensor in flat.items():
                writer.seek(begin + places[key][2])
                writer.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
        _seal(file)
        return _map(file)
    except OSError:
        return None
    finally:
        os.close(file)


def _map(file: int) -> dict[str, Tensor]:
    """The tensors in a sealed file, which is open, and found by others, as long as they are."""
    # A copy of pages that are written to, and of no others.
    mapped = mmap.mmap(file, 0, access=mmap.ACCESS_COPY)
    kept = os.dup(file)
    finalize(mapped, os.close, kept)
    _maps[mapped] = kept
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


def _seals() -> int:
    import fcntl

    return fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
