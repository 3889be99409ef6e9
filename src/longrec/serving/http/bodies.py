"""Bodies of requests: read as their schemas have them, and what holds of several fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

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
)

Body = dict[str, Any]
"""Fields of a body by name, with the schema's defaults; they are plain values, lists and dicts."""
KIND = b"application/json"
NO_OBJECT = "the body is no JSON object; send one, with content-type: application/json"


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


def _check_answer(lists: int, k: int) -> None:
    if lists * k > MAX_ANSWERED:
        raise UsageError(
            f"{lists:,} lists of {k:,} items are more than {MAX_ANSWERED:,} items: ask for fewer "
            "at once"
        )


_CHECKS: dict[type[BaseModel], Callable[[Body], None]] = {
    EventsIn: lambda body: None,
    DropIn: _check_drop,
    RecommendationsIn: _check_recommendations,
    SimilarIn: _check_similar,
    ExplanationIn: _check_explanation,
}
BODIES = tuple(_CHECKS)
"""The schemas of all bodies."""
_READERS = {schema: reader_of(schema.model_json_schema()) for schema in BODIES}


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
