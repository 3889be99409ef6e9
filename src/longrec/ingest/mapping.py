"""Which fields of a message are user, item and time: small expressions, which run nothing.

user=user.id            a field in a field; items[0] is the first of a list
item=sku|product        the first of these that is there
time=ts/1000            numbers may follow, by + - * and /, from left to right
type='view'             a text for all messages
user=@key  time=@time   the message's own key (text) and time (seconds)
user="user-id"          a name with other characters than letters, digits and _
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from longrec.core.errors import UsageError
from longrec.ingest.source import Message

REQUIRED = ("user", "item", "time")
EVENT_ID = "event_id"

_TOKEN = re.compile(
    r"\s*(?:(?P<name>@?[^\W\d]\w*)|\"(?P<quoted>[^\"]+)\"|'(?P<text>[^']*)'"
    r"|(?P<number>\d+(?:\.\d+)?)|(?P<sign>[.|\[\]*/+-]))"
)


def _key(message: Message) -> str | None:
    try:
        return None if message.key is None else message.key.decode()
    except UnicodeDecodeError:
        raise UsageError("the message's key has bytes that are not UTF-8") from None


_OWN: dict[str, Callable[[Message], Any]] = {"@key": _key, "@time": lambda message: message.time}

Step = str | int
Part = Callable[[Any, Message], Any]


class Expression:
    """One expression; `of(document, message)` is its value, None where the fields are not there.

    Raises
    ------
    UsageError
        When it cannot be read; the message shows where.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._tokens = self._split()
        self._parts = [self._part()]
        while self._next("|"):
            self._parts.append(self._part())
        self._sums: list[tuple[str, int | float]] = []
        while (sign := self._next("+", "-", "*", "/")) is not None:
            kind, number = self._take("number")
            if kind != "number":
                raise self._wrong("a number", number)
            value = float(number) if "." in number else int(number)
            if sign == "/" and not value:
                raise UsageError(f"{text!r} divides by 0")
            self._sums.append((sign, value))
        if self._tokens:
            raise self._wrong("an end, |, or one of + - * / and a number", self._tokens[0][1])

    def of(self, document: Any, message: Message) -> Any:
        """Its value for a message.

        Raises
        ------
        UsageError
            When it calculates with what is no number.
        """
        found = None
        for part in self._parts:
            found = part(document, message)
            if found is not None:
                break
        if not self._sums or found is None:
            return found
        if isinstance(found, str):
            found = number_of(found)
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise UsageError(f"{self.text} is to calculate with what is no number")
        try:
            for sign, number in self._sums:
                found = _calculated(found, sign, number)
        except OverflowError:
            raise UsageError(f"{self.text} gives a number without end") from None
        return found

    def _split(self) -> list[tuple[str, str]]:
        tokens, at, text = [], 0, self.text.rstrip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise self._wrong("a field's name", text[at:])
            kind = found.lastgroup or ""
            tokens.append((kind, found[kind]))
            at = found.end()
        return tokens

    def _wrong(self, wanted: str, found: str) -> UsageError:
        return UsageError(
            f"{self.text!r}: where {found!r} stands there must be {wanted}; such as user.id, "
            "sku|product, ts/1000, 'view', @key or \"a name\""
        )

    def _next(self, *signs: str) -> str | None:
        if self._tokens and self._tokens[0][0] == "sign" and self._tokens[0][1] in signs:
            return self._tokens.pop(0)[1]
        return None

    def _take(self, *kinds: str) -> tuple[str, str]:
        """The next token, if it is of these kinds; else ("", what stands there)."""
        if self._tokens and self._tokens[0][0] in kinds:
            return self._tokens.pop(0)
        return "", self._tokens[0][1] if self._tokens else "the end"

    def _part(self) -> Part:
        kind, word = self._take("name", "quoted", "text")
        if not kind:
            raise self._wrong("a field's name", word)
        if kind == "text":
            return lambda document, message: word
        if kind == "name" and word.startswith("@"):
            if word not in _OWN:
                raise UsageError(f"{self.text!r}: {word} is none of {', '.join(_OWN)}")
            own = _OWN[word]
            return lambda document, message: own(message)
        steps: list[Step] = [word]
        while (sign := self._next(".", "[")) is not None:
            if sign == ".":
                kind, word = self._take("name", "quoted")
                if not kind or word.startswith("@"):
                    raise self._wrong("a field's name", word)
                steps.append(word)
            else:
                kind, word = self._take("number")
                if not kind or "." in word or self._next("]") is None:
                    raise self._wrong("a whole number and ]", word)
                steps.append(int(word))
        return lambda document, message: _reached(document, steps)


def _reached(document: Any, steps: Sequence[Step]) -> Any:
    """What stands in a document at the end of a path, or None."""
    for step in steps:
        if isinstance(step, int):
            if not isinstance(document, list) or step >= len(document):
                return None
            document = document[step]
        elif isinstance(document, Mapping):
            document = document.get(step)
        else:
            return None
    return document


def _calculated(value: int | float, sign: str, number: int | float) -> int | float:
    if sign == "+":
        return value + number
    if sign == "-":
        return value - number
    if sign == "*":
        return value * number
    whole = isinstance(value, int) and isinstance(number, int) and value % number == 0
    return value // number if whole else value / number


def number_of(text: str) -> int | float | str:
    """The number that a text spells, else the text."""
    if re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    if re.fullmatch(r"-?[0-9]{1,18}\.[0-9]{1,18}", text):
        return float(text)
    return text


class FieldMap:
    """What of a message is an event: `of(document, message)` gives the fields of one.

    Parameters
    ----------
    assignments : sequence of str
        "NAME=EXPRESSION"; user, item, time and event_id are those of an event, others its further
        columns.
    reads : sequence of str
        Columns that the model reads: those without an expression are taken as they are named.

    Attributes
    ----------
    unread : names given that are neither of an event nor of a column that the model reads.
    """

    def __init__(self, assignments: Sequence[str] = (), reads: Sequence[str] = ()) -> None:
        given: dict[str, Expression] = {}
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            name = name.strip()
            if not equals or not name or not text.strip():
                raise UsageError(
                    f"--map has {assignment!r}; write NAME=FIELD, such as user=user.id"
                )
            if name in given:
                raise UsageError(f"--map has {name} twice")
            given[name] = Expression(text)
        self.unread = [name for name in given if name not in {*REQUIRED, EVENT_ID, *reads}]
        for name in (*REQUIRED, EVENT_ID, *reads):
            if name not in given:
                given[name] = Expression(f'"{name}"')
        self.event_id = given.pop(EVENT_ID)
        self._required = {name: given.pop(name) for name in REQUIRED}
        self._columns = given

    def of(self, document: Any, message: Message) -> dict[str, Any]:
        """user, item, time, event_id and columns of the event in a message.

        Raises
        ------
        UsageError
            When one of the first three is not there, or cannot be calculated.
        """
        fields: dict[str, Any] = {}
        for name, expression in self._required.items():
            fields[name] = expression.of(document, message)
            if fields[name] is None:
                raise UsageError(f"there is no {name}: the message has no {expression.text}")
        fields["time"] = time_of(fields["time"])
        own = self.event_id.of(document, message)
        fields[EVENT_ID] = message.event_id if own is None else own
        columns = {name: one.of(document, message) for name, one in self._columns.items()}
        fields["columns"] = {name: value for name, value in columns.items() if value is not None}
        return fields


def time_of(value: Any) -> Any:
    """A time of a message: text that spells a number of seconds, or a date, is that."""
    if not isinstance(value, str):
        return value
    number = number_of(value)
    if not isinstance(number, str):
        return number
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise UsageError("time is text that is neither seconds nor a date") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
