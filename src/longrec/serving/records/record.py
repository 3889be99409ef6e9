"""A user's record: what a model keeps of one history, as bytes of fixed size and versioned layout.

    offset  bytes  content
    0       4      "LRU" and the layout's version, 2
    4       4      size of the record in bytes
    8       8      start of the model's state digest
    16      32     sequence, version, skipped, late: `Header` in stores/protocol.py
    48      ...    the model's state, tensor by tensor in the order of its named tuples
    ...     8 K    item indices of the last K known events, the latest first, 0 where there were
                   none: where an added score reads K of them
    end - 8 8      a checksum over the user and all before (stores/checks.py)

Little-endian throughout, each tensor at a multiple of 8 bytes. The digest decides what the tensors
are, so the layout need not describe itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longrec.core.errors import DataError
from longrec.serving.stores.checks import SEAL
from longrec.serving.stores.protocol import HEADER

MAGIC = b"LRU2"
TIME = "time"
"""Field of the last event's time: the name it has in `UserState`."""
RECENT = "recent"
"""Field of the last items, which is no part of the model's state."""


class RecordLayout:
    """The bytes of a model's records, and how its states stand in them.

    Parameters
    ----------
    state : named tuple of tensors
        The state of one user without events, batch first.
    digest : str
        Hex digest of what shapes the states.
    reach : int
        How many last items are kept beside the state.

    Attributes
    ----------
    dtype : numpy dtype of a record; its fields are those of the header, the state's tensors and
        the last items.
    fields : names of the state's tensors, in order.
    """

    def __init__(self, state: Any, digest: str, reach: int = 0) -> None:
        self.digest, self._example = digest, state
        names = ["magic", "size", "digest", "sequence", "version", "skipped", "late"]
        formats: list[Any] = ["S4", "<u4", "V8", *["<i8"] * 4]
        offsets, end = [0, 4, 8, 16, 24, 32, 40], HEADER.size
        self.fields = []
        for name, tensor in _named_tensors(state):
            names.append(name)
            self.fields.append(name)
            value = tensor.detach().numpy().dtype.newbyteorder("<")
            formats.append((value, tuple(tensor.shape[1:])))
            offsets.append(end)
            end += -(-tensor[0].numel() * value.itemsize // 8) * 8
        if reach:
            names.append(RECENT)
            formats.append((np.dtype("<i8"), (reach,)))
            offsets.append(end)
            end += 8 * reach
        names.append("seal")
        formats.append("<u8")
        offsets.append(end)
        end += SEAL.size
        self.dtype = np.dtype(
            {"names": names, "formats": formats, "offsets": offsets, "itemsize": end}
        )
        self._empty = np.zeros(1, self.dtype)
        self._empty["magic"], self._empty["size"] = MAGIC, end
        self._empty["digest"] = np.void(bytes.fromhex(digest)[:8])
        for name, tensor in _named_tensors(state):
            self._empty[name] = tensor.numpy()
        self._start = self._empty.tobytes()[:16]

    @property
    def size(self) -> int:
        """Bytes of a record."""
        return self.dtype.itemsize

    def load(self, blobs: Sequence[bytes | None]) -> np.ndarray:
        """Records (n,) of their bytes, as a copy; of None the record of a user without events.

        Raises
        ------
        DataError
            When some bytes are a record of another model, of a newer layout, or none.
        """
        empty = self._empty.tobytes()
        for blob in blobs:
            if blob is not None and (blob[:16] != self._start or len(blob) != self.size):
                raise DataError(self._mismatch(blob))
        whole = bytearray().join(empty if blob is None else blob for blob in blobs)
        return np.frombuffer(whole, self.dtype)

    def state(self, records: np.ndarray) -> Any:
        """The states of records (n,), tensors that share their memory."""
        return self.state_of([torch.from_numpy(records[name]) for name in self.fields])

    def state_of(self, tensors: Sequence[Tensor]) -> Any:
        """The state whose tensors these are, in order."""
        return _rebuild(self._example, iter(tensors))

    def write(self, records: np.ndarray, state: Any) -> None:
        """Write states into records (n,), of which they may hold parts: a step may move them on."""
        for name, values in [(name, own(x.numpy(), records)) for name, x in _named_tensors(state)]:
            records[name] = values

    def _mismatch(self, blob: bytes) -> str:
        mend = "rebuild the records of this model (stream.rebuild())"
        if blob[:3] != MAGIC[:3]:
            return f"a user's record does not begin as one of longrec's: {mend}"
        if blob[3:4] > MAGIC[3:]:
            return (
                f"a user's record has layout {blob[3:4]!r}, this longrec reads 2: upgrade longrec"
            )
        if blob[8:16] != self._start[8:]:
            return (
                f"a user's record belongs to a model of digest {blob[8:16].hex()}…, this one has "
                f"{self.digest[:16]}…: {mend}"
            )
        return f"a user's record has {len(blob)} bytes instead of {self.size}: {mend}"


def flat(state: Any) -> list[Tensor]:
    """The tensors of a state, in order."""
    return [tensor for _, tensor in _named_tensors(state)]


def own(values: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """The values where nothing is overwritten that is written to some other arrays."""
    return values.copy() if any(np.may_share_memory(values, x) for x in others) else values


def _named_tensors(state: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a state, however nested: layers.0.mean, ..., time, count."""
    names = getattr(state, "_fields", range(len(state)))
    for name, part in zip(names, state, strict=True):
        if isinstance(part, Tensor):
            yield f"{prefix}{name}", part
        else:
            yield from _named_tensors(part, f"{prefix}{name}.")


def _rebuild(example: Any, tensors: Iterator[Tensor]) -> Any:
    parts = [
        next(tensors) if isinstance(part, Tensor) else _rebuild(part, tensors) for part in example
    ]
    return type(example)(*parts) if hasattr(example, "_fields") else tuple(parts)
