"""A column that lies in several files, read as if it lay in one.

What is asked for comes as an array of its own; nothing else is read. Whole columns, as in
`column < 3`, are read as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from longrec.core.arrays import Ints


class Joined(NDArrayOperatorsMixin):
    """Arrays (n_1,), (n_2,), … of one dtype, one behind the other, as NumPy reads an array (n,).

    Attributes
    ----------
    parts : the arrays, without empty ones.
    """

    ndim = 1

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = [part for part in parts if len(part)] or list(parts[:1])
        self.dtype = self.parts[0].dtype
        ends = np.cumsum([len(part) for part in self.parts], dtype=np.int64)
        self._begins, self._ends, self.size = ends - [len(p) for p in self.parts], ends, ends[-1]

    def __len__(self) -> int:
        return int(self.size)

    @property
    def shape(self) -> tuple[int]:
        """As of an array."""
        return (len(self),)

    def min(self) -> Any:
        """The smallest value."""
        return min(part.min() for part in self.parts)

    def max(self) -> Any:
        """The largest value."""
        return max(part.max() for part in self.parts)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return self._between(at)
        at = np.asarray(at)
        if at.dtype == np.bool_:
            if at.shape != self.shape:
                raise IndexError(f"a mask of shape {at.shape} for {len(self):,} values")
            masks = np.split(at, self._ends[:-1])
            return np.concatenate([p[mask] for p, mask in zip(self.parts, masks, strict=True)])
        return self._at(at.astype(np.int64, copy=False))

    def _between(self, at: slice) -> Any:
        start, stop, step = at.indices(len(self))
        if step != 1:
            return self._at(np.arange(start, stop, step))
        first = int(np.searchsorted(self._ends, start, "right"))
        found = list[np.ndarray]()
        for begin, part in zip(self._begins[first:], self.parts[first:], strict=True):
            if begin >= stop and found:
                break
            found.append(part[max(start - begin, 0) : max(stop - begin, 0)])
        if not found:
            return np.zeros(0, self.dtype)
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _at(self, at: Ints) -> Any:
        """Values at places of any shape, counted from the end where they are negative."""
        if at.size and not -len(self) <= at.min() <= at.max() < len(self):
            raise IndexError(f"places {at.min()} to {at.max()} of {len(self):,} values")
        at = np.where(at < 0, at + len(self), at)
        part_of = np.searchsorted(self._ends, at, "right")
        found = np.empty(at.shape, self.dtype)
        for number in np.unique(part_of):
            here = part_of == number
            found[here] = self.parts[number][at[here] - self._begins[number]]
        return found[()]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = np.concatenate(self.parts)
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        arrays = [np.asarray(one) if isinstance(one, Joined) else one for one in inputs]
        return getattr(ufunc, method)(*arrays, **options)


def parts_of(column: np.ndarray | Joined) -> list[np.ndarray]:
    """The arrays that a column lies in."""
    return column.parts if isinstance(column, Joined) else [column]
