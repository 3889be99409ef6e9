"""Pictures of block letters, and of plain ones where the output has no others."""

from __future__ import annotations

import io
import math
import sys

import pytest

from longrec.core.terminal_pictures import bars, line


@pytest.fixture
def encoded(monkeypatch):
    """Let the output have an encoding."""

    def use(encoding: str) -> None:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))

    use("utf-8")
    return use


def test_a_line_lies_between_its_extremes(encoded):
    assert line([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert line([5, None, 5, math.nan, 6]) == "▁ ▁ █"
    assert line([5, 5], lowest=0) == "██"
    assert line([3, 3, 3]) == "▁▁▁"
    assert line([]) == line([None]) == ""


def test_many_values_are_averaged(encoded):
    assert line([0] * 50 + [1] * 50, width=4) == "▁▁██"
    assert len(line(range(1000), width=7)) == 7
    assert line([None] * 10 + [1, 2] * 10, width=3)[0] == " "


def test_bars_are_as_long_as_their_numbers(encoded):
    assert bars([("1", 8), ("2-4", 16), ("5-9", 0), ("10-19", 1)], width=2) == [
        "    1  █ 8",
        "  2-4  ██ 16",
        "  5-9   0",
        "10-19  ▏ 1",
    ]
    assert bars([]) == []


def test_other_encodings_get_plain_letters(encoded):
    encoded("ascii")
    assert line([0, 7]) == "_#"
    assert bars([("a", 1), ("b", 2)], width=4) == ["a  ## 1", "b  #### 2"]
