"""Types and further columns from logs to what models read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from longrec.core.errors import DataError, UsageError
from longrec.data.batches import TrainingData
from longrec.data.event_columns import Column, check_columns
from longrec.data.prepare import prepare
from longrec.data.read import read_events
from longrec.data.sampling import Masking, Prefixes

LOG = pl.DataFrame(
    {
        "user": [1, 1, 1, 1, 2, 2, 2],
        "item": [5, 6, 7, 5, 6, 5, 7],
        "time": [1, 2, 3, 4, 1, 2, 3],
        "event_kind": ["view", "buy", None, "view", "cart", "view", "buy"],
        "weight": [0.5, None, 2.5, 1e39, -1.0, 2.0, 3.0],
        "bought": [True, False, False, True, False, True, True],
    }
)
COLUMNS = ("weight", "bought")


@pytest.fixture
def histories(tmp_path: Path):
    return prepare(LOG, tmp_path / "h", type="event_kind", columns=COLUMNS)


def test_types_are_words_and_numbers_are_float32(histories) -> None:
    assert histories.columns == {
        "type": Column(("buy", "cart", "view")),
        "weight": Column(),
        "bought": Column(),
    }
    at = np.arange(4)
    types, weights = (histories.read_column(name, at) for name in ("type", "weight"))
    assert (types.dtype, weights.dtype) == (np.int64, np.float32)
    assert types.tolist() == [2, 0, -1, 2]
    assert weights.tolist() == [0.5, 0, 2.5, 0]  # none, and none that float32 has room for
    assert histories.read_column("bought", at[:, None]).tolist() == [[1], [0], [0], [1]]


@pytest.mark.parametrize(
    ("types", "words"),
    [
        ([3, 1, 3, 2, 1, 1, 1], ("1", "2", "3")),
        ([3.0, None, 3, 2, 1, 1, 1], ("1", "2", "3")),
        ([True, False, True, True, None, True, True], ("false", "true")),
        (pl.Series(["b", "a", "b", "a", "a", "a", "a"], dtype=pl.Categorical), ("a", "b")),
    ],
)
def test_types_of_any_kind_are_text(tmp_path, types, words) -> None:
    h = prepare(LOG.with_columns(type=pl.Series(types)), tmp_path / "h", columns=("type",))
    assert h.columns["type"].words == words


def test_what_is_no_type(tmp_path) -> None:
    with pytest.raises(DataError, match=r"'weight', row 1: 0.5 is a float that is no whole"):
        read_events(LOG, type="weight")
    with pytest.raises(DataError, match="cannot be the types of events"):
        read_events(LOG.with_columns(day=pl.date(2024, 1, 1)), type="day")
    with pytest.raises(UsageError, match="Did you mean 'event_kind'"):
        read_events(LOG, type="event_king")
    both = LOG.with_columns(type=pl.lit("x"))
    with pytest.raises(UsageError, match="which columns= names, too"):
        read_events(both, type="event_kind", columns=("type",))


def test_a_column_that_looks_like_types_is_told_and_not_taken() -> None:
    events = read_events(LOG.rename({"event_kind": "Event_Type"}))
    assert events.columns == ()
    assert "note  Event_Type looks like the types of events" in events.describe()
    two = LOG.rename({"event_kind": "action"}).with_columns(behavior=pl.lit("x"))
    assert "looks like" not in read_events(two).describe()
    described = read_events(LOG, type="event_kind").describe()
    assert "  type  event_kind (as named), text" in described


def test_numbers_of_text_files_are_numbers(tmp_path) -> None:
    LOG.with_columns(note=pl.lit("7kg"), none=pl.lit(None)).write_csv(tmp_path / "log.csv")
    h = prepare(
        tmp_path / "log.csv",
        tmp_path / "h",
        type="event_kind",
        columns=("weight", "note"),
    )
    assert h.columns["weight"].words is None
    assert h.columns["note"].words == ("7kg",)
    assert h.read_column("weight", np.arange(3)).tolist() == [0.5, 0, 2.5]
    assert h.columns["type"].words == ("buy", "cart", "view")


def test_values_of_callers_are_read_as_those_of_histories() -> None:
    words, numbers = Column(("3", "buy", "true")), Column()
    given = ["buy", 3, 3.0, "3", True, "no", None]
    assert [words.value(value) for value in given] == [1, 0, 0, 0, 2, -1, -1]
    assert [numbers.value(x) for x in (2, 0.5, True, None, 1e39, np.nan)] == [2, 0.5, 1, 0, 0, 0]
    with pytest.raises(UsageError, match="'2' is text"):
        numbers.value("2")


def test_words_in_the_codes_of_others(histories) -> None:
    other = {"type": Column(("view", "other", "buy")), "weight": Column()}
    changed = histories.in_words_of(other)
    assert changed.extra["type"].tolist() == [0, 2, -1, 0, -1, 0, 2]
    assert changed.columns["type"] == other["type"]
    assert changed.extra["weight"] is histories.extra["weight"]
    assert histories.in_words_of(histories.columns) is histories
    found = histories.read_columns(other, np.array([0, 4]))
    assert {name: x.tolist() for name, x in found.items()} == {"type": [0, -1], "weight": [0.5, -1]}
    longer = Column(("a", "b")).extended(Column(("b", "c")))
    assert longer.words == ("a", "b", "c")


def test_what_a_model_lacks_is_named() -> None:
    found = {"type": Column(("a",)), "weight": Column(("1kg",))}
    check_columns("m", ("type",), found, "h")
    with pytest.raises(UsageError, match=r"m reads the column 'price'.*there are: 'type', 'wei"):
        check_columns("m", ("type", "price"), found, "h")
    with pytest.raises(UsageError, match=r"--type COLUMN"):
        check_columns("m", ("type",), {}, "h")
    with pytest.raises(UsageError, match="numbers in the column 'type'"):
        check_columns("m", ("type",), {"type": Column()}, "h")
    with pytest.raises(UsageError, match="text in it where training had numbers"):
        check_columns("m", ("weight",), found, "h", {"weight": Column()})


@pytest.mark.parametrize("sampling", [None, Prefixes(2), Masking(0.5, 0.2)])
def test_batches_have_the_columns_that_are_read_and_hidden_events_have_none(
    histories, sampling
) -> None:
    ends = histories.offsets[1:]
    names = ("type", "weight")
    data = TrainingData(histories, ends, None, 2, 64, 0, sampling, names)
    hidden = shown = 0
    for number in range(8):
        for batch in data.epoch(number).batches():
            assert batch.columns is not None
            assert set(batch.columns) == set(names)
            for row in range(len(batch.items)):
                for place in range(batch.items.shape[1]):
                    item = int(batch.items[row, place])
                    kind, weight = (batch.columns[name][row, place].item() for name in names)
                    if target := int(batch.targets[row, place]):  # those of the target itself
                        assert batch.target_columns is not None
                        wanted = tuple(batch.target_columns[n][row, place].item() for n in names)
                        at = np.flatnonzero(histories.items == target)
                        assert wanted in set(
                            zip(*(histories.read_column(n, at) for n in names), strict=True)
                        )
                    hides = isinstance(sampling, Masking) and batch.targets[row, place] > 0
                    if hides or not item:
                        assert (kind, weight) == (-1, 0)
                        hidden += bool(hides)
                        continue
                    shown += 1
                    at = np.flatnonzero(histories.items == item)
                    pairs = zip(
                        histories.read_column("type", at),
                        histories.read_column("weight", at),
                        strict=True,
                    )
                    assert (kind, weight) in list(pairs)
    assert shown
    assert bool(hidden) == isinstance(sampling, Masking)
    plain = TrainingData(histories, ends, None, 2, 64, 0, sampling)
    assert plain.epoch(0).batch(0).columns is None
