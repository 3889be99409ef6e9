"""JSON read as a schema has it: nothing that the schema does not have is read any further.

The parsers of libraries read a whole body before anything is checked, and nothing else runs
meanwhile: a mebibyte of empty lists takes one of them 60 ms. Here the text is read value by value;
the first one that is wrong ends it, whatever follows, other threads get their turns, and an error
has the place and the value.
"""

from __future__ import annotations

import difflib
import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

SHOWN = 60
"""Characters of a value that an error repeats."""
PAUSE_EVERY = 128
"""Entries of a list between two pauses."""
_KINDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
"""What a value of each type of a schema is called."""
_TYPES = {"string": str, "integer": int, "number": float, "boolean": bool, "null": type(None)}
"""What values of these types are in Python."""
_BOUNDS = {
    "minimum": (operator.ge, "at least"),
    "exclusiveMinimum": (operator.gt, "above"),
    "maximum": (operator.le, "at most"),
    "exclusiveMaximum": (operator.lt, "below"),
}
_INFINITE = math.inf, -math.inf
_WORDS = {
    **dict.fromkeys(("top", "n", "limit", "count", "size", "num_results"), "k"),
    **dict.fromkeys(("timestamp", "ts", "date"), "time"),
}
"""Fields as others call them, and as they are called here."""
_SPACE = re.compile(r"[ \t\n\r]*")

Schema = Mapping[str, Any]
Pause = Callable[[], object]
Check = Callable[[Any], None]
Read = Callable[[str, int, Pause], tuple[Any, int]]
"""From a text and a place to the value that stands there and the place behind it."""


class NotJson(ValueError):
    """A text is no JSON; `at` counts characters from 0."""

    def __init__(self, at: int, why: str = "a value is expected") -> None:
        super().__init__(f"{why}, at character {at}")


class Wrong(ValueError):
    """A value is not what the schema has.

    Attributes
    ----------
    path : names and numbers on the way to the value, the innermost first.
    words : what is wrong, after the value's name.
    """

    def __init__(self, words: str, *path: str | int) -> None:
        super().__init__(words)
        self.words, self.path = words, list(path)

    def __str__(self) -> str:
        name = cut(".".join(map(str, reversed(self.path))))
        return f"{name or 'the body'} {self.words}"


def reader_of(schema: Schema) -> Callable[[str, Pause], Any]:
    """What reads texts of one JSON value each.

    Parameters
    ----------
    schema : as pydantic makes it: objects that forbid further properties or have them of one
        schema, lists, text, numbers, booleans, null, one constant, and `anyOf` of these.

    Returns
    -------
    callable
        Of a text, and of what is called now and then while it is read; what it returns are dicts
        with the schema's defaults, lists, and plain values. It raises NotJson or Wrong.
    """
    read = _compile(schema, schema.get("$defs", {}))

    def read_whole(text: str, pause: Pause) -> Any:
        try:
            value, at = read(text, _space(text, 0), pause)
        except IndexError:
            raise NotJson(len(text), "it ends too early") from None
        at = _space(text, at)
        if at < len(text):
            raise NotJson(at, "something follows its end")
        return value

    return read_whole


def _space(text: str, at: int) -> int:
    """Behind white space."""
    return _SPACE.match(text, at).end() if at < len(text) and text[at] <= " " else at  # type: ignore[union-attr]


def _constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_decoder: Any = json.JSONDecoder(parse_constant=_constant)
_scan: Callable[[str, int], tuple[Any, int]] = _decoder.scan_once


def _scalar(text: str, at: int) -> tuple[Any, int]:
    """The text, number, boolean or null at a place; no list and no object stands there."""
    try:
        return _scan(text, at)
    except StopIteration:
        if at >= len(text):
            raise IndexError from None
        raise NotJson(at) from None
    except ValueError as error:  # a text that does not end; thousands of digits
        words = getattr(error, "msg", "a number is too long, or none")
        raise NotJson(getattr(error, "pos", at), words[0].lower() + words[1:]) from None


def _compile(schema: Schema, named: Mapping[str, Schema]) -> Read:
    """What reads a value of a schema."""
    kinds: dict[str, Schema] = {}
    for one in schema.get("anyOf", [schema]):
        one = named[one["$ref"].rpartition("/")[2]] if "$ref" in one else one
        kinds[one["type"]] = one
    number = kinds.get("number")
    wanted = _either(
        repr(one["const"]) if "const" in one else _KINDS[kind]
        for kind, one in kinds.items()
        if kind != "null" and not (kind == "integer" and number)
    )
    containers: dict[str, Read] = {}
    if "array" in kinds:
        containers["["] = _list_reader(kinds["array"], named)
    if "object" in kinds:
        containers["{"] = _object_reader(kinds["object"], named)
    checks: dict[type, Check] = {}
    for kind, type_ in _TYPES.items():
        found = kinds.get(kind, number if kind == "integer" else None)
        if found is not None:
            checks[type_] = _check_of(kind, found, _meaning(schema), wanted)

    def read(text: str, at: int, pause: Pause) -> tuple[Any, int]:
        first = text[at]
        if first in containers:
            return containers[first](text, at, pause)
        if first in "[{":
            raise Wrong(f"is {_KINDS['array' if first == '[' else 'object']}; it must be {wanted}")
        value, end = _scalar(text, at)
        check = checks.get(type(value))
        if check is None:
            raise Wrong(f"is {shown(value)}; it must be {wanted}")
        check(value)
        return value, end

    return read


def _list_reader(schema: Schema, named: Mapping[str, Schema]) -> Read:
    read_one = _compile(schema["items"], named)
    least, most = schema.get("minItems", 0), schema["maxItems"]

    def read(text: str, at: int, pause: Pause) -> tuple[list[Any], int]:
        found: list[Any] = []
        at = _space(text, at + 1)
        if text[at] == "]":
            if least:
                raise Wrong(f"has 0 entries; it must have {least:,} or more")
            return found, at + 1
        while True:
            number = len(found)
            if number == most:
                raise Wrong(f"has more than {most:,} entries; it may have {most:,}")
            if not number % PAUSE_EVERY:
                pause()
            try:
                value, at = read_one(text, at, pause)
            except Wrong as wrong:
                wrong.path.append(number)
                raise
            found.append(value)
            at, ended = _after(text, at, "]")
            if ended:
                return found, at

    return read


def _object_reader(schema: Schema, named: Mapping[str, Schema]) -> Read:
    properties = schema.get("properties", {})
    readers = {name: _compile(one, named) for name, one in properties.items()}
    required = schema.get("required", ())
    defaults = {name: one["default"] for name, one in properties.items() if "default" in one}
    others, most = None, schema.get("maxProperties", len(readers))
    if schema["additionalProperties"]:
        others = _compile(schema["additionalProperties"], named)
        check_name = _text_check(schema["propertyNames"], "")

    def reader_for(name: str, found: Mapping[str, Any]) -> Read:
        """What reads the field of a name, which none before has."""
        if name in found:
            raise Wrong("stands there twice", name)
        if others is None:
            if name not in readers:
                raise Wrong(f"is no field that is known here; {_meant(name, readers)}", name)
            return readers[name]
        if len(found) == most:
            raise Wrong(f"has more than {most:,} entries; it may have {most:,}")
        try:
            check_name(name)
        except Wrong as wrong:
            raise Wrong(f"has a name that {wrong.words}") from None
        return others

    def read(text: str, at: int, pause: Pause) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        at = _space(text, at + 1)
        ended = text[at] == "}"
        at += ended
        while not ended:
            if text[at] != '"':
                raise NotJson(at, "the name of a field is expected")
            name, at = _scalar(text, at)
            read_one = reader_for(name, found)
            at = _space(text, at)
            if text[at] != ":":
                raise NotJson(at, "a colon is expected")
            try:
                found[name], at = read_one(text, _space(text, at + 1), pause)
            except Wrong as wrong:
                wrong.path.append(name)
                raise
            at, ended = _after(text, at, "}")
        missing = [name for name in required if name not in found]
        if missing:
            first, *more = missing
            also = f", and so {'are' if more[1:] else 'is'} {' and '.join(more)}" if more else ""
            raise Wrong(f"is missing{also or _meaning(properties[first])}", first)
        return (defaults | found if defaults else found), at

    return read


def _after(text: str, at: int, end: str) -> tuple[int, bool]:
    """Behind the comma after a value, or behind the end of all values, and whether it is that."""
    at = _space(text, at)
    found = text[at]
    if found == ",":
        return _space(text, at + 1), False
    if found != end:
        raise NotJson(at, f"a comma or {end} is expected")
    return at + 1, True


def _check_of(kind: str, schema: Schema, meaning: str, wanted: str) -> Check:
    """What raises Wrong for a value of the right kind that is too long, or out of bounds."""
    if kind == "string":
        return _text_check(schema, wanted)
    if kind not in ("integer", "number"):
        return lambda value: None
    bounds = [
        (fits, schema[key], f"{words} {schema[key]:,.15g}{meaning}")
        for key, (fits, words) in _BOUNDS.items()
        if key in schema
    ]

    def check(value: float) -> None:
        if value in _INFINITE:
            raise Wrong("is too large a number")
        for fits, bound, words in bounds:
            if not fits(value, bound):
                raise Wrong(f"is {shown(value)}; it must be {words}")

    return check


def _text_check(schema: Schema, wanted: str) -> Check:
    least, most = schema.get("minLength", 0), schema.get("maxLength", math.inf)
    constant = schema.get("const")

    def check(value: str) -> None:
        if not least <= len(value) <= most:
            characters = "character" if len(value) == 1 else "characters"
            may = f"must have {least} or more" if len(value) < least else f"may have {most:,}"
            raise Wrong(f"has {len(value):,} {characters}; it {may}")
        if constant is not None and value != constant:
            raise Wrong(f"is {shown(value)}; it must be {wanted}")

    return check


def _meaning(schema: Schema) -> str:
    """What the numbers of a field are, which explains a bound."""
    words: str = schema.get("description", "").rstrip(".")
    return f": {words[0].lower()}{words[1:]}" if words.startswith("Seconds") else ""


def _either(words: Iterable[str]) -> str:
    """["text", "a whole number", "an object"] -> "text, a whole number or an object"."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _meant(name: str, known: Iterable[str]) -> str:
    """What to do about a field that is not known: which one is meant, or which there are."""
    name, own = name[:SHOWN], list(known)
    near = [_WORDS[name]] if _WORDS.get(name) in own else difflib.get_close_matches(name, own, 1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(own)}"


def shown(value: Any) -> str:
    """A text, number, boolean or null as JSON, cut where it is long."""
    return cut(json.dumps(value, ensure_ascii=False))


def cut(text: str) -> str:
    """A text that is not too long to be repeated."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
