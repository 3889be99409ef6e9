"""A disk as a crash may leave it, from a journal of what was done to it.

A journal is a list of these, in the order in which they were done:

    Write   sectors of a file, and its size      Sync    of a file's content, or a folder's names
    Names   of files and folders, at one instant Moment  what was acknowledged by then

Two kinds of crashes. A *killed* process leaves all that it did, and of the write that it was in
some pages. A *power cut* leaves what was synced, and of the rest what chance wants: of files any of
the sectors of 512 bytes, whatever their order, also where their file has not grown so far; of names
the first ones, since journals of file systems keep their order. A folder's sync holds for its own
names alone, and a new file's for its content alone: POSIX promises no more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

SECTOR, PAGE = 512, 4096
ROOT = 0
"""The number of the folder itself; other folders have numbers below, files above."""

Image = dict[str, bytes | None]
"""Per path its content; None: it is a folder. A folder stands before what is in it."""


class Write(NamedTuple):
    """Sectors of a file by their places, after which it has so many bytes."""

    node: int
    size: int
    sectors: tuple[tuple[int, bytes], ...]


class Sync(NamedTuple):
    """A file's content, or a folder's names, are on the disk."""

    node: int


class Names(NamedTuple):
    """(folder, name, file or folder or None: gone); all at one instant, as a rename."""

    changes: tuple[tuple[int, str, int | None], ...]


class Moment(NamedTuple):
    """Something to hold what is found against."""

    about: Any


Entry = Write | Sync | Names | Moment


@dataclass
class Layer:
    """Names and contents: one state of a disk."""

    names: dict[tuple[int, str], int] = field(default_factory=dict)
    contents: dict[int, bytearray] = field(default_factory=dict)

    def copy(self) -> Layer:
        return Layer(dict(self.names), {node: c[:] for node, c in self.contents.items()})

    def rename(self, names: Names) -> None:
        for folder, name, node in names.changes:
            if node is None:
                self.names.pop((folder, name), None)
            else:
                self.names[folder, name] = node

    def put(self, node: int, sectors: Iterable[tuple[int, bytes]]) -> None:
        content = self.contents.setdefault(node, bytearray())
        for place, data in sectors:
            content.extend(bytes(max(0, place - len(content))))
            content[place : place + len(data)] = data

    def resize(self, node: int, size: int) -> None:
        content = self.contents.setdefault(node, bytearray())
        del content[size:]
        content.extend(bytes(size - len(content)))

    def walk(self) -> Iterator[tuple[str, int]]:
        """The paths that can be reached from the root, and the numbers of what is there."""
        below: dict[int, list[tuple[str, int]]] = {}
        for (folder, name), node in sorted(self.names.items()):
            below.setdefault(folder, []).append((name, node))

        def walk(folder: int, path: str) -> Iterator[tuple[str, int]]:
            for name, node in below.get(folder, ()):
                yield path + name, node
                yield from walk(node, f"{path}{name}/")

        return walk(ROOT, "")


class Disk:
    """What is on a disk for good, and what is under way; takes the entries of a journal in.

    Attributes
    ----------
    moment : of the last `Moment`.
    """

    def __init__(self, layer: Layer | None = None) -> None:
        self._now = layer or Layer()
        self._safe = self._now.copy()
        self._names: list[Names] = []  # not synced
        self._writes: dict[int, list[Write]] = {}  # not synced, by file
        self.moment: Any = None

    def take(self, entry: Entry) -> None:
        """Do one entry."""
        match entry:
            case Moment(about):
                self.moment = about
            case Names():
                self._now.rename(entry)
                self._names.append(entry)
            case Write(node, size, sectors):
                self._now.put(node, sectors)
                self._now.resize(node, size)
                self._writes.setdefault(node, []).append(entry)
            case Sync(node) if node > ROOT:
                for _, size, sectors in self._writes.pop(node, ()):
                    self._safe.put(node, sectors)
                    self._safe.resize(node, size)
            case Sync(node):
                for names in [n for n in self._names if any(c[0] == node for c in n.changes)]:
                    self._safe.rename(names)
                    self._names.remove(names)

    def follow(self, journal: Iterable[Entry]) -> None:
        """Do some entries."""
        for entry in journal:
            self.take(entry)

    def settle(self) -> None:
        """Bring all to the disk."""
        self.follow([Sync(number) for number in (*self.used(), ROOT)])

    def numbers(self) -> dict[str, int]:
        """The numbers of files and folders, by path."""
        return dict(self._now.walk())

    def used(self) -> set[int]:
        """All numbers that something under way has."""
        return {*self._now.names.values(), *self._safe.names.values(), *self._now.contents}

    def image(self) -> Image:
        """What a process finds that looks now."""
        contents = self._now.contents
        return {
            path: bytes(contents.get(node, b"")) if node > ROOT else None
            for path, node in self._now.walk()
        }

    def killed(self, dice: random.Random, doing: Entry) -> Disk:
        """The disk when a process is killed while it does the next entry."""
        left = Disk(self._now.copy())
        left._safe, left._names = self._safe.copy(), list(self._names)
        left._writes = {node: list(writes) for node, writes in self._writes.items()}
        if isinstance(doing, Write):
            pages = sorted({place // PAGE for place, _ in doing.sectors})
            done = {page for page in pages if dice.random() < 0.5}
            sectors = tuple(sector for sector in doing.sectors if sector[0] // PAGE in done)
            size = len(self._now.contents.get(doing.node, b""))
            ends = (place + len(data) for place, data in sectors)
            left.take(Write(doing.node, max(size, *ends, 0), sectors))
        return left

    def cut(self, dice: random.Random, doing: Entry) -> Disk:
        """The disk after a power cut that comes while the next entry is being done."""
        left, names = self._safe.copy(), list(self._names)
        under_way = {node: list(writes) for node, writes in self._writes.items()}
        if isinstance(doing, Write):
            under_way.setdefault(doing.node, []).append(doing)
        elif isinstance(doing, Names):
            names.append(doing)
        for change in names[: dice.randint(0, len(names))]:
            left.rename(change)
        for node, writes in under_way.items():
            keep = chances(dice)
            for _, size, sectors in writes:
                left.put(node, [sector for sector in sectors if keep()])
                if keep():
                    left.resize(node, size)
        return Disk(left)


def chances(dice: random.Random) -> Callable[[], bool]:
    """Whether each of some things is kept: all, none, one of them not or alone, or any."""
    share = dice.choice((0.0, 0.05, 0.5, 0.95, 1.0))
    return lambda: dice.random() < share


def lay_out(image: Image, folder: Path) -> None:
    """Write an image into a new folder."""
    folder.mkdir()
    for path, content in image.items():
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)
