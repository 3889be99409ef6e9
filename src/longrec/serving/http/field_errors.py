"""What is wrong with which field of a request, in our words: its name, its value and the mend.

pydantic finds it; of a value that may be of several types it tells one error per type, which are
one sentence here.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from longrec.serving.http import schemas

SHOWN = 60
"""Characters of a value that an error repeats."""
TOLD = 5
"""Fields that one answer tells of."""
_KINDS = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "list": "a list",
    "dict": "an object",
    "model": "an object",
}
"""By the first word of pydantic's name for a value of a wrong type."""
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "above"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "below"),
}
_WORDS = {
    **dict.fromkeys(("top", "n", "limit", "count", "size", "num_results"), "k"),
    **dict.fromkeys(("timestamp", "ts", "date"), "time"),
}
"""Fields as others call them, and as they are called here."""
_MEANT = {"time": "seconds since 1970 (UTC)"}
"""By a field's name what its numbers are, which explains a bound."""

Path = tuple[str | int, ...]
Found = Mapping[str, Any]


def told_of(errors: Sequence[Found], body: Any, fields: Sequence[str] = ()) -> str:
    """Sentences for pydantic's errors about a request.

    Parameters
    ----------
    errors : sequence of mapping
        As `errors()` of a validation has them; places begin with "body", "query" or "path".
    body : the body as it was read.
    fields : what the body may have, in the order in which it is told.
    """
    if errors and errors[0]["type"] == "json_invalid":
        why = str(errors[0].get("ctx", {}).get("error", "")).rstrip(".")
        return f"the body is no JSON ({why}, at character {errors[0]['loc'][-1]})"
    by_field: dict[Path, list[Found]] = {}
    for error in errors:
        by_field.setdefault(_field(error, body), []).append(error)
    outer = {field[:end] for field in by_field for end in range(len(field))}
    for field in outer & by_field.keys():  # plain, or an object: then the inner errors count
        if all(_wanted_kind(one) for one in by_field[field]):
            del by_field[field]
    told = [_sentence(field, by_field[field], fields) for field in list(by_field)[:TOLD]]
    more = f"; and {len(by_field) - TOLD:,} more" if len(by_field) > TOLD else ""
    return "; ".join(told) + more


def _field(error: Found, body: Any) -> Path:
    """Where the error is, without the names of types that pydantic puts into the place."""
    source, *rest = error["loc"] or ("body",)
    if source != "body":
        return tuple(rest)
    value, found = body, []
    for number, part in enumerate(rest, 1):
        last = number == len(rest)
        known = isinstance(value, dict) and part in value
        if known or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            value = value[part]
        elif not (last and error["type"] == "missing"):
            continue  # a type
        found.append(part)
    return tuple(found)


def _sentence(field: Path, errors: Sequence[Found], fields: Sequence[str]) -> str:
    """What is wrong with one field."""
    # A value of one of several types is held against the others as well, which tells nothing.
    telling = [one for one in errors if not _wanted_kind(one)] or errors
    first = telling[0]
    kind, context, name = first["type"], first.get("ctx", {}), _cut(".".join(map(str, field)))
    if kind == "missing":
        meant = _MEANT.get(str(field[-1])) if field else None
        told = f"{name} is missing" + (f": {meant}" if meant else "")
        return told if name else "there is no body: send a JSON object"
    if kind == "extra_forbidden":
        return f"{name} is no field that is known here; {_meant(field, fields)}"
    if kind == "value_error":
        words = str(context.get("error", first["msg"]))
        return f"{name}: {words}" if name else words
    if not name and _wanted_kind(first):
        return "the body is no JSON object; send one, with content-type: application/json"
    name = name or "the body"
    if kind in ("too_long", "string_too_long", "too_short", "string_too_short"):
        return f"{name} has {_size(first)}"
    wanted = _either([_wanted(one) for one in telling])
    if wanted:
        meant = _MEANT.get(str(field[-1])) if field and kind in _BOUNDS else None
        return f"{name} is {_shown(first['input'])}; it must be {wanted}" + (
            f": {meant}" if meant else ""
        )
    return f"{name} is {_shown(first['input'])}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _either(words: Iterable[str]) -> str:
    """["text", "a whole number", "an object"] -> "text, a whole number or an object"."""
    found = list(dict.fromkeys(filter(None, words)))
    if "a number" in found and "a whole number" in found:
        found.remove("a whole number")
    *others, last = found or [""]
    return f"{', '.join(others)} or {last}" if others else last


def _wanted_kind(error: Found) -> str:
    """What a value of a wrong type should have been; empty for any other error."""
    if error["type"] == "literal_error":
        return str(error["ctx"]["expected"])
    word, _, rest = error["type"].partition("_")
    of_type = rest in ("type", "parsing", "from_float", "attributes_type", "parsing_size", "number")
    return _KINDS.get(word, "") if of_type else ""


def _wanted(error: Found) -> str:
    """What a value must be, by one of its errors."""
    if error["type"] in _BOUNDS:
        key, words = _BOUNDS[error["type"]]
        return f"{words} {error['ctx'][key]:,.15g}"
    return _wanted_kind(error)


def _size(error: Found) -> str:
    """How long a value is and may be: "1,001 entries; it may have 1,000"."""
    context, value = error["ctx"], error["input"]
    words = ("character", "characters") if isinstance(value, str) else ("entry", "entries")
    size = context.get("actual_length", len(value) if hasattr(value, "__len__") else 0)
    least, most = context.get("min_length"), context.get("max_length")
    may = f"it must have {least:,} or more" if least is not None else f"it may have {most:,}"
    return f"{size:,} {words[size != 1]}; {may}"


def _shown(value: Any) -> str:
    """A value as JSON; what is long or has parts by what it is."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return "of another type"
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _meant(field: Path, fields: Sequence[str]) -> str:
    """What to do about a field that is not known: which one is meant, or leave it out."""
    own = fields
    if len(field) > 1:  # of an event
        own = list((schemas.EventIn if field[0] == "events" else schemas.HistoryEvent).model_fields)
    word = str(field[-1])[:SHOWN]
    near = [_WORDS[word]] if _WORDS.get(word) in own else difflib.get_close_matches(word, own, 1)
    if near:
        return f"did you mean {near[0]}?"
    return f"there are {', '.join(own)}" if own else "leave it out"
