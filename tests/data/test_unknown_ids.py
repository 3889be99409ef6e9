"""What is said of ids that nobody knows."""

from __future__ import annotations

import polars as pl
import pytest

from longrec.data.unknown_ids import likely_cause, unknown_line

NUMBERS = pl.Series([1, 2, 372, 373])
TEXT = pl.Series(["bob", "i01", "0042"])
DECIMALS = pl.Series(["1.0", "372.0"])


@pytest.mark.parametrize(
    ("id_", "known", "words"),
    [
        ("372,373", NUMBERS, "looks like 2 ids in one, such as 372"),
        ("[372, 373]", NUMBERS, "looks like 2 ids in one"),
        ("bob;i01", TEXT, "looks like 2 ids in one, such as 'bob'"),
        ("372.0", NUMBERS, "'372.0' is a decimal number where the id is 372"),
        (372, DECIMALS, "372 stands as '372.0' there"),
        ("00372", NUMBERS, "differs from 372 by leading zeros"),
        ("42", TEXT, "differs from '0042' by leading zeros"),
        ("'372'", NUMBERS, "has quotes or brackets that 372 has not"),
        ("Bob ", TEXT, "differs from 'bob' by capitals or spaces"),
        (b"Bob", TEXT, "'Bob' differs from 'bob' by capitals"),
        ("ann", NUMBERS, "whole numbers such as 1, and 'ann' is none"),
        (None, NUMBERS, "None is none"),
        (7, pl.Series(["i01"]), "text such as 'i01', and 7 is a number"),
        ("7", pl.Series([], dtype=pl.String), "no id is known at all"),
    ],
)
def test_likely_causes(id_, known, words):
    assert words in likely_cause([id_], known)


@pytest.mark.parametrize(("id_", "known"), [(999, NUMBERS), ("eve", TEXT), ("7", TEXT)])
def test_no_cause_is_made_up(id_, known):
    assert likely_cause([id_], known) is None


def test_the_cause_of_most_is_told():
    unknown = ["372.0", *(f"{n},{n + 1}" for n in (1, 372)), "no"]
    assert "'1,2' looks like" in likely_cause(unknown, NUMBERS)


def test_a_line_counts_them_and_shows_three():
    line = unknown_line("users", [7, 8, 9, 9, 10], 12, "histories", NUMBERS)
    assert line == "5 of 12 users are unknown to histories: 7, 8, 9, …"
    assert unknown_line("items", ["372.0"], 1, "the model", NUMBERS).startswith(
        "1 of 1 items is unknown to the model: '372.0'. Likely cause: '372.0' is a decimal"
    )
