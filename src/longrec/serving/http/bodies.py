"""Bodies of requests: read as their schemas have them, and what holds of several fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError

from longrec.core.errors import UsageError
from longrec.serving.http.errors import Refused
from longrec.serving.http.json_reader import NotJson, Pause, Wrong, reader_of
from longrec.serving.http.schemas import (
    MAX_ANSWERED,
    DropIn,
    EventsIn,
    ExplanationIn,
    RecommendationsIn,
    SimilarIn,
    VectorsIn,
)

FAST = 1024
"""Bytes of a body up to which pydantic may read it: whatever stands there takes microseconds."""
Body = dict[str, Any]
"""Fields of a body by name, with the schema's defaults; they are plain values, lists and dicts."""
KIND = b"application/json"
NO_OBJECT = "the body is no JSON object; send one, with content-type: application/json"


def _check_events(body: Body) -> None:
    if body["recommend"] is not None:
        try:
            _check_recommendations(body["recommend"])
        except UsageError as error:
            raise UsageError(f"recommend: {error}") from None


def _check_recommendations(body: Body) -> None:
    names = "user", "history", "users", "histories"
    if sum(body[name] is not None for name in names) != 1:
        raise UsageError("give one of user, history, users and histories")
    _check_answer(len(body["users"] or body["histories"] or ()), body["k"])
    events = sum(map(len, body["histories"] or ()))
    if events > MAX_ANSWERED:
        raise UsageError(
            f"the histories have {events:,} events and may have {MAX_ANSWERED:,} together: ask "
            "for fewer at once"
        )


def _check_similar(body: Body) -> None:
    _check_answer(len(body["items"]), body["k"])


def _check_explanation(body: Body) -> None:
    if (body["user"] is None) == (body["history"] is None):
        raise UsageError("give either user or history")


def _check_drop(body: Body) -> None:
    if (body["event_id"] is None) == (body["number"] is None):
        raise UsageError("give either event_id or number")


def _check_nothing(body: Body) -> None:
    """Its fields are all that is to be checked."""


def _check_answer(lists: int, k: int) -> None:
    if lists * k > MAX_ANSWERED:
        raise UsageError(
            f"{lists:,} lists of {k:,} items are more than {MAX_ANSWERED:,} items: ask for fewer "
            "at once"
        )


_CHECKS: dict[type[BaseModel], Callable[[Body], None]] = {
    EventsIn: _check_events,
    DropIn: _check_drop,
    RecommendationsIn: _check_recommendations,
    SimilarIn: _check_similar,
    ExplanationIn: _check_explanation,
    VectorsIn: _check_nothing,
}
BODIES = tuple(_CHECKS)
"""The schemas of all bodies."""
_READERS = {schema: reader_of(schema.model_json_schema()) for schema in BODIES}


def _read_fast(schema: type[BaseModel], raw: bytes) -> Body | None:
    """A small body that is right; None where it is not, or may not be, which the reader tells.

    pydantic reads it three times as fast as the reader. But it reads all of a body, whatever is
    wrong with it, and of a field that stands there twice it takes the last one: if that happened
    there are more colons than fields (as there are where a text has some).
    """
    try:
        read = schema.model_validate_json(raw, strict=True)
    except ValidationError:
        return None
    fields, body = _plain(read)
    return body if raw.count(b":") == fields else None


_NESTED = BaseModel, list, dict


def _plain(value: Any) -> tuple[int, Any]:
    """How many fields were given in a value, and the value as the reader has it."""
    if isinstance(value, dict):  # columns
        return len(value), value
    fields, plain = 0, list[Any]()
    if isinstance(value, list):
        for one in value:
            if isinstance(one, _NESTED):
                more, one = _plain(one)
                fields += more
            plain.append(one)
        return fields, plain
    fields, body = len(value.__pydantic_fields_set__), value.__dict__.copy()
    for name, one in body.items():
        if isinstance(one, _NESTED):
            more, body[name] = _plain(one)
            fields += more
    return fields, body


def read_body(schema: type[BaseModel], raw: bytes, pause: Pause = lambda: None) -> Body:
    """A body, checked; the first thing that is wrong ends it.

    Parameters
    ----------
    schema : one of `BODIES`.
    raw : all of its bytes.
    pause : called now and then while it is read.

    Raises
    ------
    UsageError
        When it is none; the message names the field, the value and the mend.
    Refused
        When it is no text.
    """
    if not raw:
        raise UsageError("there is no body: send a JSON object")
    if len(raw) <= FAST and (found := _read_fast(schema, raw)) is not None:
        _CHECKS[schema](found)
        return found
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise Refused(400, "json", "the body cannot be read as JSON: send UTF-8 text") from None
    try:
        body: Body = _READERS[schema](text, pause)
    except NotJson as error:
        raise UsageError(f"the body is no JSON ({error})") from None
    except Wrong as wrong:
        raise UsageError(str(wrong) if wrong.path else NO_OBJECT) from None
    _CHECKS[schema](body)
    return body
