"""The further columns that a model reads, of events as they are logged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from longrec.core.errors import UsageError
from longrec.core.format import listed
from longrec.data.event_columns import Columns, check_columns
from longrec.serving.stores.packed_columns import unpack_columns

Values = tuple[int | float, ...]
"""Values of the columns of an event, in the model's order."""


class LoggedColumns:
    """What a model reads of the columns of events.

    Parameters
    ----------
    model : its name, for messages.
    reads : names of the columns, in order.
    columns : those that it was trained on.

    Attributes
    ----------
    names, dtypes : of the columns.
    missing : values of an event without any.

    Raises
    ------
    UsageError
        When the model was trained without one that it reads.
    """

    def __init__(self, model: str, reads: Sequence[str], columns: Columns) -> None:
        check_columns(model, reads, columns, "the recommender's training")
        self.model, self.names = model, tuple(reads)
        self._columns = [columns[name] for name in reads]
        self.dtypes = [column.dtype for column in self._columns]
        self.missing: Values = tuple(column.missing for column in self._columns)

    def values(self, packed: bytes) -> Values:
        """Values of a logged event; what fits no column is missing, since another model's was."""
        if not packed:
            return self.missing
        given, values = unpack_columns(packed), []
        for name, column in zip(self.names, self._columns, strict=True):
            try:
                values.append(column.value(given.get(name)))
            except UsageError:
                values.append(column.missing)
        return tuple(values)

    def check(self, packed: bytes) -> None:
        """Raise UsageError, naming the column, where text stands and the model reads numbers."""
        given = unpack_columns(packed)
        for name, column in zip(self.names, self._columns, strict=True):
            try:
                column.value(given.get(name))
            except UsageError as error:
                raise UsageError(f"columns.{name}: {error}") from None

    def check_given(self, packed: bytes, where: str) -> None:
        """Raise UsageError, naming the place, there and where a column has no value."""
        given = unpack_columns(packed)
        for name in self.names:
            if name not in given:
                raise UsageError(
                    f"{where}: {self.model} reads {listed(self.names)} of each event, and "
                    f'{name} is not there: send {{"item": …, "time": …, "columns": '
                    f'{{"{name}": …}}}}'
                )
        self.check(packed)

    def some(self, shape: tuple[int, ...], random: np.random.Generator) -> dict[str, np.ndarray]:
        """Values that events may have, by the column's name."""
        pairs = zip(self.names, self._columns, strict=True)
        return {name: column.some(shape, random) for name, column in pairs}

    def arrays(self, values: Iterable[Values]) -> list[np.ndarray]:
        """Values of events as an array for each column, of the type that the model reads."""
        columns: list[Any] = list(zip(*values, strict=True)) or [()] * len(self.names)
        return [np.array(c, dtype) for c, dtype in zip(columns, self.dtypes, strict=True)]
