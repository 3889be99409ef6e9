"""Moments at which a log is cut, as text: dates and times of day in UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def cut_times(text: str) -> tuple[int | None, int]:
    """Read a test cut, or a validation and a test cut with a comma between.

    Parameters
    ----------
    text : str
        "2018-06-01", "2018-06-01T12:00", "2018-05-01,2018-06-01"; in UTC unless it says otherwise.

    Returns
    -------
    (int or None, int)
        Seconds since 1970 of the validation cut, None where only one is given, and of the test cut.

    Raises
    ------
    ValueError
        When it is anything else, or the validation cut is not before the test cut.
    """
    try:
        found = [_seconds(part.strip()) for part in text.split(",")]
        for seconds in found:
            moment(seconds)  # which a table will show
    except (ValueError, OverflowError, OSError):
        found = []
    if len(found) not in (1, 2):
        raise ValueError(
            f"cut is {text!r}; it must be a date such as 2018-06-01 (or 2018-06-01T12:00), or two "
            "with a comma between, of validation and test"
        )
    if len(found) == 1:
        return None, found[0]
    if found[0] >= found[1]:
        raise ValueError(
            f"cut is {text!r}; the first date, of validation, must be before that of the test"
        )
    return found[0], found[1]


def moment(seconds: int) -> str:
    """A moment as people read it: "2018-06-01", with the time of day unless that is midnight."""
    found = datetime.fromtimestamp(seconds, UTC)
    return found.strftime("%Y-%m-%d" if seconds % 86_400 == 0 else "%Y-%m-%d %H:%M:%S")


def _seconds(text: str) -> int:
    read = datetime.fromisoformat(text)
    return int((read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp())
