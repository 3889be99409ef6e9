"""Counts, paths, names and functions that are given, and what is said of the rest."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from longrec.core.arguments import (
    check_count,
    check_names,
    check_path,
    check_progress,
    check_shown,
    check_text,
)
from longrec.core.errors import UsageError


@pytest.mark.parametrize("value", [True, "5", 2.5, 0, -1, None, [5], np.float64(5)])
def test_counts_are_whole_numbers_from_one(value):
    with pytest.raises(UsageError, match=r"^k is .*; it must be"):
        check_count("k", value)


@pytest.mark.parametrize("value", [1, 10**30, np.int32(7)])
def test_counts(value):
    assert check_count("k", value) == value


@pytest.mark.parametrize("value", [5, None, b"run", ["run"], pl.DataFrame()])
def test_paths_are_text_or_paths(value):
    with pytest.raises(UsageError, match=r"^out is .*; give the path of a folder"):
        check_path("out", value)


def test_progress_is_called():
    check_progress(print)
    check_progress(None)
    with pytest.raises(UsageError, match="progress is True; give a function"):
        check_progress(True)
    for shown in (True, False, None):
        check_shown(shown)
    with pytest.raises(UsageError, match=r"progress is 5; give True or False.*, or None$"):
        check_shown(5)


def test_text_and_names():
    check_text("type", None)
    assert check_names("columns", "a") == ("a",)
    assert check_names("columns", ["a", "b", "a"]) == ("a", "b")
    with pytest.raises(UsageError, match=r"^type is b'a'; give text"):
        check_text("type", b"a")
    for value in (5, None, [1], {"a": 1}, (one for one in "ab")):
        with pytest.raises(UsageError, match=r"^columns is .*; give a list of names"):
            check_names("columns", value)
