"""Numbers, sizes and durations in words."""

from __future__ import annotations

import pytest

from longrec.core.format import duration, number, size


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.42, "0.4 s"), (35, "35 s"), (2518, "42 min"), (3900, "1 h 05 min"), (3599, "1 h 00 min")],
)
def test_durations(seconds: float, words: str):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (12, "12 B"),
        (2328, "2,328 B"),
        (18_464, "18.0 KiB"),
        (700 << 20, "700 MiB"),
        (3 << 40, "3072 GiB"),
    ],
)
def test_sizes(count: int, words: str):
    assert size(count) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1234567, "1,234,567"),
        (1234.5, "1,234"),
        (12.34, "12.3"),
        (-1.234, "-1.23"),
        (0.12345, "0.123"),
        (None, ""),
        (True, "True"),
        ("as it is", "as it is"),
    ],
)
def test_numbers(value: object, words: str):
    assert number(value) == words
