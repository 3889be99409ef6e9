"""A folder that is watched while real code works in it: the journal of a disk (disk.py).

Whoever writes, Python, LMDB's C or Arrow's C++, the folder is looked through whenever names change,
something is synced, or a transaction of LMDB's ends; what differs from the look before was written
in between. Within one such stretch the order of writes does not matter, as nothing in it is synced.
LMDB's transactions are taken apart as LMDB does them (`test_lmdb_writes_so` holds that against the
system calls of a real one): its pages, a sync, then the page that makes them valid, and a sync.

Nothing is really synced, and time is virtual: it goes on when it is told to. With ids and names of
temporary files of the same seed, the same code does the same, byte for byte.
"""

from __future__ import annotations

import os
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lmdb
from simulation.disk import PAGE, ROOT, SECTOR, Disk, Entry, Moment, Names, Sync, Write

from longrec.serving.stores import lmdb_folder

READERS = "-lock"
"""The ending of LMDB's tables of readers, of which a new process makes nothing."""
BEGIN = 1_700_000_000


class Watched:
    """A folder, and what was done in it.

    Parameters
    ----------
    root : the folder, laid out as on the disk.
    dice : of ids and names.
    disk, run : where the journal goes on, and in which run of the machine.

    Attributes
    ----------
    journal : what was done.
    now : the virtual time, in seconds.
    """

    def __init__(self, root: Path, dice: random.Random, disk: Disk, run: int) -> None:
        self.root, self.dice, self.run, self.now = root, dice, run, float(BEGIN)
        self.journal: list[Entry] = []
        self._nodes: dict[int, int] = {}  # by the number that the file system gives
        self._names: dict[tuple[int, str], int] = {}
        self._contents: dict[int, bytes] = {}
        self._numbers = disk.numbers()
        self._born = max(map(abs, disk.used()), default=ROOT)
        self.look()
        self.journal.clear()

    def note(self, about: Any) -> None:
        """Note what is to be held against what is found from now on."""
        self.look()
        self.journal.append(Moment(about))

    def look(self) -> None:
        """See what has changed."""
        names: dict[tuple[int, str], int] = {}
        contents: dict[int, bytes] = {}
        nodes: dict[int, int] = {}
        self._walk("", ROOT, names, contents, nodes)
        self._nodes = nodes
        gone = [(*key, None) for key in self._names if key not in names]
        new = [(*key, node) for key, node in names.items() if self._names.get(key) != node]
        if gone or new:
            self.journal.append(Names((*gone, *new)))
        self._names = names
        for node, content in contents.items():
            self._note_content(node, content)
        self._contents = {node: self._contents[node] for node in contents}

    def _walk(
        self,
        folder: str,
        number: int,
        names: dict[tuple[int, str], int],
        contents: dict[int, bytes],
        nodes: dict[int, int],
    ) -> None:
        for entry in sorted(os.scandir(self.root / folder), key=lambda entry: entry.name):
            if entry.name.endswith(READERS):
                continue
            inode, path = entry.inode(), f"{folder}{entry.name}"
            node = self._nodes.get(inode) or self._numbers.pop(path, None)
            if node is None:
                self._born += 1
                node = -self._born if entry.is_dir() else self._born
            names[number, entry.name] = nodes[inode] = node
            if entry.is_dir():
                self._walk(f"{path}/", node, names, contents, nodes)
            else:
                contents[node] = Path(entry).read_bytes()

    def _note_content(self, node: int, content: bytes) -> None:
        before = self._contents.get(node)
        if before != content:
            self.journal.append(Write(node, len(content), changed(before or b"", content)))
            self._contents[node] = content

    def synced(self, inode: int) -> None:
        """A file or a folder was brought to the disk."""
        self.look()
        if inode == self.root.stat().st_ino:
            self.journal.append(Sync(ROOT))
        elif inode in self._nodes:
            self.journal.append(Sync(self._nodes[inode]))

    def committed(self, path: Path, page: int, durable: bool) -> None:
        """A transaction of LMDB's ended in a file."""
        content = path.read_bytes()
        node = self._nodes.get(path.stat().st_ino)
        if node is None or node not in self._contents:
            self.look()
            return
        sectors = changed(self._contents[node], content)
        if not sectors:
            return
        self._contents[node] = content
        for part in self.order(
            [s for s in sectors if s[0] >= 2 * page], [s for s in sectors if s[0] < 2 * page]
        ):
            self.journal.append(Write(node, len(content), tuple(part)))
            if durable:
                self.journal.append(Sync(node))

    def order(self, pages: list[Any], valid: list[Any]) -> list[list[Any]]:
        """The parts of a transaction in LMDB's order."""
        return [pages, valid]

    # ---- while code works

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Let what is done in the block go into the journal."""
        with ExitStack() as stack:
            for name in ("replace", "rename", "unlink", "remove", "mkdir", "rmdir"):
                stack.enter_context(patch.object(os, name, self._around(getattr(os, name))))
            stack.enter_context(patch.object(os, "pwrite", self._after(os.pwrite)))
            stack.enter_context(patch.object(os, "fsync", self._fsync))
            stack.enter_context(patch.object(lmdb, "open", self._open(lmdb.open)))
            stack.enter_context(in_run(self.run))
            self._make_virtual(stack)
            yield
        self.look()

    def _around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **more: Any) -> Any:
            self.look()
            try:
                return work(*arguments, **more)
            finally:
                self.look()

        return watched

    def _after(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            done = work(*arguments)
            self.look()
            return done

        return watched

    def _fsync(self, file: Any) -> None:
        self.synced(os.fstat(file).st_ino)

    def _open(self, really: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: str, **settings: Any) -> Any:
            durable = settings["sync"]
            env = really(path, **settings | {"sync": False, "metasync": False})
            return _Environment(env, self, Path(path), durable)

        return opened

    def _make_virtual(self, stack: ExitStack) -> None:
        """Let longrec's clocks, and what it draws by chance, be those of the simulation."""
        watched, dice = self, self.dice

        class Virtual(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:
                return datetime.fromtimestamp(watched.now, tz or UTC)

        for name in ("time", "monotonic"):
            stack.enter_context(patch.object(time, name, lambda: watched.now))
        for module in [m for name, m in sys.modules.items() if name.startswith("longrec.serving")]:
            if vars(module).get("datetime") is datetime:
                stack.enter_context(patch.object(module, "datetime", Virtual))
        stack.enter_context(patch.object(secrets, "token_hex", lambda n: dice.randbytes(n).hex()))
        names = (f"{dice.getrandbits(40):010x}" for _ in iter(int, 1))
        stack.enter_context(patch.object(tempfile, "_get_candidate_names", lambda: names))


def in_run(number: int) -> AbstractContextManager[Any]:
    """Let the machine be in a run, from 1."""
    return patch.object(lmdb_folder, "machine_run", lambda: number)


class _Environment:
    """An LMDB file whose transactions are watched."""

    def __init__(self, env: Any, watched: Watched, path: Path, durable: bool) -> None:
        self._env, self._watched, self._path, self._durable = env, watched, path, durable
        self._page = env.stat()["psize"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def begin(self, write: bool = False, **more: Any) -> Any:
        return self._writing(**more) if write else self._env.begin(**more)

    @contextmanager
    def _writing(self, **more: Any) -> Iterator[Any]:
        with self._env.begin(write=True, **more) as transaction:
            yield transaction
        self._watched.committed(self._path, self._page, self._durable)

    def sync(self, force: bool = False) -> None:
        self._watched.synced(self._path.stat().st_ino)


def changed(before: bytes, after: bytes) -> tuple[tuple[int, bytes], ...]:
    """The sectors of a file that differ from before."""
    sectors = []
    for page in range(0, len(after), PAGE):
        if before[page : page + PAGE] != after[page : page + PAGE]:
            for place in range(page, min(page + PAGE, len(after)), SECTOR):
                data = after[place : place + SECTOR]
                if before[place : place + SECTOR] != data:
                    sectors.append((place, data))
    return tuple(sectors)
