"""Errors about names that a file, a frame or a folder brings name some of them, however many."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from small_histories import histories_of_ids

from longrec.core.errors import LongrecError
from longrec.core.format import LISTED, LONGEST, listed
from longrec.data.event_columns import Column, check_columns
from longrec.data.given_histories import as_given_histories
from longrec.data.histories import open_histories
from longrec.data.item_table import ItemTable
from longrec.data.read import read_events

MANY = [f"odd{number}" for number in range(1_000)]
LONG = ["x" * 100_000, "y" * 100_000]
MOST = 2 * (LISTED + 1) * (LONGEST + 4) + 500


def test_names_are_listed_up_to_some_and_to_a_length():
    assert listed([]) == "none"
    assert listed([], "no model") == "no model"
    assert listed(("a", 2)) == "a, 2"
    assert listed(MANY) == f"{', '.join(MANY[:LISTED])} and {len(MANY) - LISTED:,} more"
    assert listed(LONG) == f"{'x' * LONGEST}…, {'y' * LONGEST}…"


def lacks_a_column(names: list[str], path: Path) -> None:
    check_columns("model", ["type"], {name: Column(()) for name in names}, "this run")


def frame_of_histories(names: list[str], path: Path) -> None:
    as_given_histories(pl.DataFrame({name: [1] for name in names}))


def log_of_other_columns(names: list[str], path: Path) -> None:
    (path / "log.csv").write_text(",".join(names) + "\n")
    read_events(path / "log.csv")


def table_of_items(names: list[str], path: Path) -> None:
    ItemTable("items.csv", pl.DataFrame({name: [1] for name in names}))


def rule_on_items(names: list[str], path: Path) -> None:
    table = ItemTable("items.csv", pl.DataFrame({"item": [1], **{name: [1] for name in names}}))
    table.items_where("elsewhere = 1")


def document_of_histories(names: list[str], path: Path) -> None:
    folder = histories_of_ids(path / "h", {"u": [(1, 1), (2, 2)]}).path
    document = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(document | dict.fromkeys(names)))
    open_histories(folder)


@pytest.mark.parametrize("names", [MANY, LONG], ids=["many", "long"])
@pytest.mark.parametrize(
    "act",
    [
        *(lacks_a_column, frame_of_histories, log_of_other_columns),
        *(table_of_items, rule_on_items, document_of_histories),
    ],
)
def test_an_error_is_not_as_long_as_what_it_is_about(act, names, tmp_path: Path):
    with pytest.raises(LongrecError) as caught:
        act(names, tmp_path)
    assert len(str(caught.value)) < MOST
