"""What may be given as ids, and what is said of the rest."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from longrec.core.errors import UsageError
from longrec.data.given_ids import check_id, check_ids

IDS = {
    "list": [1, "a", None, 2.0, b"x"],
    "tuple": (1, 2),
    "range": range(3),
    "array": np.array([1, 2]),
    "array of text": np.array(["a", "b"]),
    "array of times": np.array(["2020-01-01"], "M8[ns]"),
    "numpy scalars": [np.int64(1), np.str_("a")],
    "datetimes": [datetime(2020, 1, 1)],
    "polars": pl.Series(["a"]),
    "pandas": pd.Series([5, 6], index=[9, 8]),
    "pandas index": pd.Index([5, 6]),
    "pandas' nothing": [pd.NA, pd.Timestamp(0)],
    "tensor": torch.tensor([1, 2]),
    "nobody": [],
}
NO_IDS = {
    "text": "372,373",
    "bytes": b"372",
    "number": 5,
    "nothing": None,
    "generator": (one for one in "ab"),
    "map": map(str, [1]),
    "mapping": {"a": 1},
    "keys": {"a": 1}.keys(),
    "set": {1, 2},
    "table": pl.DataFrame({"user": [1]}),
    "pandas table": pd.DataFrame({"user": [1]}),
    "two dimensions": np.zeros((2, 2), int),
    "no dimension": np.array(5),
    "array of booleans": np.array([True]),
    "series of booleans": pl.Series([True]),
    "series of lists": pl.Series([[1]]),
    "a list in it": [1, [2]],
    "a boolean in it": [1, True],
    "a mapping in it": [{"user": 1}],
    "an object in it": [object()],
    "a class in it": [int],
    "a complex number in it": [1j],
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_in_an_order_are_taken(kind):
    found = check_ids("users", IDS[kind])
    assert len(found) == len(IDS[kind])
    assert [one for one in found if isinstance(one, np.generic)] == [
        one for one in IDS[kind] if kind in ("numpy scalars", "array of times")
    ]


@pytest.mark.parametrize("kind", NO_IDS)
def test_what_is_no_list_of_ids_is_refused_by_name(kind):
    with pytest.raises(UsageError, match=r"^users[. ].*; give a list of ids"):
        check_ids("users", NO_IDS[kind])


def test_the_first_that_is_no_id_is_named():
    with pytest.raises(UsageError, match=r"^users\.2 is of type list; give"):
        check_ids("users", [1, 2, [3], {}])


@pytest.mark.parametrize("value", [None, True, [1], {"a": 1}, pl.Series([1]), np.zeros(1)])
def test_one_id_is_text_or_a_number(value):
    with pytest.raises(UsageError, match=r"^item is .*; give one id, text or a number"):
        check_id("item", value)
