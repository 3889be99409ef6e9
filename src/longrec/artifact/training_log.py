"""The log of a training: a row per validation, kept beside the recommender as log.csv."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from longrec.core.errors import DataError
from longrec.core.files import write_file

NAME = "log.csv"
MOST_BYTES = 16 << 20
"""Bytes that are read of a log: some 100,000 validations."""


@dataclass
class ValidationRow:
    """One validation: a row of log.csv.

    Attributes
    ----------
    epoch, step : epochs and steps done before it.
    seconds : of the whole fit so far.
    events : events read by training so far.
    loss : mean training loss since the row before; None before the first step.
    ndcg10, hr10 : of the validation targets, as served under the policy of this row; not a number
        where there are none.
    exclude_seen : that policy: whether items that a user has seen are hidden.
    ndcg10_hiding, ndcg10_showing : as served with seen items hidden, and shown.
    repeats, targets : share of the validation targets whose item is in their own input, and how
        many targets there were.
    memory_share, memory_entropy, memory_kl : how evenly the validation used the slots of memory
        banks (`longrec.mixers.product_keys.Usage`); None in a model without one.
    """

    epoch: int
    step: int
    seconds: float
    events: int
    loss: float | None
    ndcg10: float
    hr10: float
    exclude_seen: bool = True
    ndcg10_hiding: float = math.nan
    ndcg10_showing: float = math.nan
    repeats: float = 0.0
    targets: int = 0
    memory_share: float | None = None
    memory_entropy: float | None = None
    memory_kl: float | None = None


_KINDS = {"int": pl.Int64, "float": pl.Float64, "bool": pl.Boolean}
SCHEMA = {
    name: _KINDS[str(field.type).removesuffix(" | None")]
    for name, field in ValidationRow.__dataclass_fields__.items()
}


def frame_of(rows: Sequence[ValidationRow]) -> pl.DataFrame:
    """The log as a frame: one row per validation."""
    return pl.DataFrame([asdict(row) for row in rows], schema=SCHEMA)


def write_log(folder: Path, log: pl.DataFrame) -> None:
    """Write the log of a run as CSV; without rows remove the one that may be there."""
    path, text = folder / NAME, io.StringIO()
    if not len(log):
        path.unlink(missing_ok=True)
        return
    writer = csv.DictWriter(text, list(SCHEMA), lineterminator="\n")
    writer.writeheader()
    writer.writerows(log.iter_rows(named=True))
    with suppress(OSError):
        if path.read_text(encoding="utf-8") == text.getvalue():
            return
    write_file(path, text.getvalue())


def read_log(folder: Path) -> pl.DataFrame:
    """The log of a run, without rows where it has none; what older longrecs did not log is null.

    Raises
    ------
    DataError
        When it is damaged.
    """
    path = folder / NAME
    try:
        if path.exists() and not (path.is_file() and path.stat().st_size <= MOST_BYTES):
            raise ValueError("it is no file, or too large")
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                {name: _parsed(name, row.get(name)) for name in SCHEMA}
                for row in csv.DictReader(file)
            ]
    except FileNotFoundError:
        rows = []
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} is damaged ({error}): train again to have a log.") from error
    return pl.DataFrame(rows, schema=SCHEMA)


def _parsed(name: str, text: str | None) -> int | float | bool | None:
    if not text:
        return None
    kind = SCHEMA[name]
    if kind == pl.Boolean:
        return text == "True"
    return int(text) if kind == pl.Int64 else float(text)
