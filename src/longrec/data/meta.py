"""What a folder of histories says of itself, read with each value checked.

`meta.json` of a folder and `shards.json` of a folder of shards have the same fields. Whatever
stands there is one of the kinds below, or is told by the field's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from longrec.core.arguments import described, is_utf8
from longrec.core.errors import DataError
from longrec.core.format import listed
from longrec.core.sealed import is_of_type

MOST = 1 << 63


@dataclass(frozen=True)
class HistoriesMeta:
    """What `meta.json` says; times are in seconds since 1970 (UTC), None when the log had none."""

    schema_version: int
    n_users: int
    n_items: int
    n_events: int
    has_time: bool
    time_unit: str | None
    first_time: int | None
    last_time: int | None
    dropped: dict[str, int]
    source: str
    fingerprint: str
    created: str
    files: dict[str, int] = field(default_factory=dict)
    labels: dict[str, list[str]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    shards: dict[str, str] = field(default_factory=dict)
    """The folder and the fingerprint of each shard, in the order of their users; {}: it has none.
    """


def read_meta(place: Path, document: dict[str, Any]) -> HistoriesMeta:
    """What a document says that was read from a place, whose version is checked already.

    Parameters
    ----------
    place : of the file, for messages.
    document : its content.

    Raises
    ------
    DataError
        When a field is missing, unknown, of a wrong type or of an impossible value.
    """
    # Histories of before 0.2 do not tell how they were read; those without shards name none.
    document = {"options": {}, "shards": {}} | document
    odd = {item.name for item in fields(HistoriesMeta)}.symmetric_difference(document)
    if odd:
        raise DataError(f"{place} lacks or adds {listed(sorted(map(ascii, odd)))}: {_MEND}.")
    for name, kind in _KINDS.items():
        if not kind.fits(document[name]):
            raise _wrong(place, name, document[name], kind.words)
    for name, value in document["options"].items():
        if name not in _OPTIONS:
            raise DataError(
                f"{place}: options has {name!a:.60}, which is none of prepare's: {_MEND}."
            )
        kind = _OPTIONS[name]
        if not kind.fits(value):
            raise _wrong(place, f"options.{name}", value, kind.words)
    has_time = document["has_time"]
    for name in ("first_time", "last_time"):
        if (document[name] is not None) != has_time:
            raise _wrong(place, name, document[name], f"as has_time, {has_time}, says")
    if has_time and document["first_time"] > document["last_time"]:
        words = f"a time up to last_time, {document['last_time']}"
        raise _wrong(place, "first_time", document["first_time"], words)
    return HistoriesMeta(**document)


_MEND = "it was edited by hand, or damaged; undo that, or prepare the log again"


def _wrong(place: Path, name: str, value: Any, words: str) -> DataError:
    return DataError(f"{place}: {name} is {_Shown(value)!a}, and must be {words}: {_MEND}.")


class _Shown(NamedTuple):
    """A value as errors show it: no text that cannot be printed, and none without end."""

    value: Any

    def __repr__(self) -> str:
        return described(self.value)


class _Kind(NamedTuple):
    fits: Callable[[Any], bool]
    words: str


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and is_utf8(value)


def _is_count(value: Any) -> bool:
    return is_of_type(value, int) and 0 <= value < MOST


def _is_moment(value: Any) -> bool:
    return value is None or (is_of_type(value, int) and -MOST <= value < MOST)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _by_name(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, dict) and all(map(_is_text, value)) and all(map(fits, value.values()))
    )


_COUNT = _Kind(_is_count, "a whole number from 0")
_TEXT = _Kind(_is_text, "text")
_TEXT_OR_NULL = _Kind(lambda value: value is None or _is_text(value), "text, or null")
_FLAG = _Kind(_is_flag, "true or false")
_LIST = _Kind(_is_list, "a list of text")
_MOMENT = _Kind(_is_moment, "whole seconds since 1970, or null")
_KINDS = {
    "n_users": _COUNT,
    "n_items": _COUNT,
    "n_events": _COUNT,
    "has_time": _FLAG,
    "time_unit": _TEXT_OR_NULL,
    "first_time": _MOMENT,
    "last_time": _MOMENT,
    "dropped": _Kind(_by_name(_is_count), "an object of whole numbers from 0"),
    "source": _TEXT,
    "fingerprint": _Kind(_is_digest, "a SHA-256, 64 digits of 0-9 and a-f"),
    "created": _TEXT,
    "files": _Kind(_by_name(_is_count), "an object of sizes, whole numbers from 0"),
    "labels": _Kind(_by_name(_is_list), "an object of lists of text"),
    "options": _Kind(_by_name(lambda value: True), "an object"),
    "shards": _Kind(_by_name(_is_digest), "an object of SHA-256, 64 digits of 0-9 and a-f"),
}
_OPTIONS = {
    **dict.fromkeys(("user", "item", "time", "order", "time_unit", "time_format"), _TEXT_OR_NULL),
    **dict.fromkeys(("type", "encoding"), _TEXT_OR_NULL),
    **dict.fromkeys(("row_order", "skip_bad_rows"), _FLAG),
    **dict.fromkeys(("columns", "header"), _LIST),
}
"""Of `read_events`: by these a log is read again as this one was."""
