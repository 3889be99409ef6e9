"""The file of events, written column by column while events come in order, some at a time.

It is an Arrow file with one record batch, so that a reader maps each column as one slice. How many
events there are is known before the first one is written; each column then has its place in the
file, and nothing but the events at hand is in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

BLOCK = 1 << 20


class EventsFile:
    """An Arrow file of columns of one length.

    Parameters
    ----------
    path : Path
    rows : int
    types : name and dtype of each column.
    """

    def __init__(self, path: Path, rows: int, types: Mapping[str, np.dtype[Any]]) -> None:
        self.rows, self.types, self.written = rows, dict(types), 0
        # Arrays that nobody touches take no memory; the sink leaves their place in the file open.
        arrays = [pa.array(np.empty(rows, dtype)) for dtype in self.types.values()]
        batch = pa.record_batch(arrays, names=list(self.types))
        sink = _Sink(path, [array.buffers()[1].address for array in arrays])
        with pa.PythonFile(sink, "w") as file, pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        self.places = [sink.places[address] for address in sink.left_open]
        self.file = path.open("r+b", buffering=0)

    def __enter__(self) -> EventsFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.file.close()

    def write(self, columns: Mapping[str, np.ndarray]) -> None:
        """Write the next events."""
        count = 0
        for (name, dtype), place in zip(self.types.items(), self.places, strict=True):
            values = np.ascontiguousarray(columns[name], dtype)
            count = len(values)
            self.file.seek(place + self.written * dtype.itemsize)
            self.file.write(values.data)
        self.written += count

    def feed(self, name: str, hasher: Any) -> None:
        """Feed a hasher with the bytes of a column."""
        dtype = self.types[name]
        self.file.seek(self.places[list(self.types).index(name)])
        left = self.rows * dtype.itemsize
        while left:
            block = self.file.read(min(left, BLOCK))
            hasher.update(block)
            left -= len(block)


class _Sink:
    """A file that passes over the buffers that are written later."""

    closed = False

    def __init__(self, path: Path, left_open: Sequence[int]) -> None:
        self.file, self.left_open = path.open("wb"), left_open
        self.places: dict[int, int] = {}

    def write(self, data: Any) -> int:
        """What Arrow writes: bytes, or a buffer, which has an address."""
        address: int = getattr(data, "address", 0)
        if address in self.left_open:
            self.places[address] = self.file.tell()
            self.file.seek(len(data), 1)
        else:
            self.file.write(data)
        return len(data)

    def tell(self) -> int:
        return self.file.tell()

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()
