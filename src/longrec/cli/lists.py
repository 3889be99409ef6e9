"""Options that take several values, in every command alike.

Values stand one after the other, or the option is given again: `--user 42 43` and
`--user 42 --user 43` are the same. Names and numbers may also have commas between: `--ks 5,10`.
Ids and settings are never split at commas, which may be part of them. An option of one value that
is given twice is an error: neither value may count without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from typer.core import TyperCommand

from longrec.core.errors import UsageError

NUMBER = re.compile(r"-[0-9]")
"""How an id begins that is a number below zero: no option does."""


class ListCommand(TyperCommand):
    """A command whose repeatable options take several values, too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = _each_with_its_option(self, args)
        refuse_repeated(self, ctx, args)
        return super().parse_args(ctx, args)


def refuse_repeated(command: Any, ctx: Any, args: Sequence[str]) -> None:
    """Raise UsageError for an option of one value that is given twice, or switched on and off."""
    if ctx.resilient_parsing:  # words to be completed
        return
    *_, order = command.make_parser(ctx).parse_args(list(args))
    for param in dict.fromkeys(order):
        one = not getattr(param, "multiple", True)
        switch = getattr(param, "is_flag", False) and not param.secondary_opts
        if one and not switch and order.count(param) > 1:
            name = "/".join((*param.opts, *param.secondary_opts))
            raise UsageError(f"{name} is given twice and takes one value: give it once")


def words(given: Sequence[str] | None, otherwise: str = "") -> list[str]:
    """Names as they were given, or else by default, those with commas between apart."""
    return [word for text in given or [otherwise] for word in text.split(",") if word]


def numbers(option: str, given: Sequence[str] | None, otherwise: str = "") -> tuple[int, ...]:
    """Whole numbers, in the same way.

    Raises
    ------
    UsageError
        When something is none.
    """
    found = words(given, otherwise)
    for word in found:
        if not re.fullmatch(r"[+-]?[0-9]+", word):
            raise UsageError(f"{option} has {word!r}; give whole numbers, such as {option} 5 10")
    return tuple(map(int, found))


def _each_with_its_option(command: TyperCommand, args: Sequence[str]) -> list[str]:
    """The words of a command line with the option before each value of a list.

    Where a required argument would be missing, the last value of a list is taken for it: RUN may
    stand behind `--user 42 43`.
    """
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options: dict[str, Any] = {
        name: param
        for param in command.params
        if param not in arguments
        for name in (*param.opts, *param.secondary_opts)
    }
    wanted = sum(param.required for param in arguments)  # less those that are found
    found: list[list[str]] = []  # words that stay together
    further: list[tuple[int, int]] = []  # of values that follow others: (list, place in found)
    rest, lists = iter(args), count()
    name, number = "", 0
    for word in rest:
        if name and (not word.startswith("-") or word == "-" or NUMBER.match(word)):
            further.append((number, len(found)))
            found.append([f"{name}={word}"])
            continue
        if word == "--":
            found += [[f"{name}={value}"] for value in rest] if name else [[word, *rest]]
            wanted -= 0 if name else len(found[-1]) - 1
            break
        name, equals, _ = word.partition("=")
        param = options.get(name)
        found.append([word, *_value_of(param, rest)] if param and not equals else [word])
        wanted -= not word.startswith("-") or word == "-"
        if not getattr(param, "multiple", False):
            name = ""
        number = next(lists)
    last = [place for number, place in further if number == further[-1][0]]
    for place in last[::-1][: max(0, wanted)]:
        found[place] = [found[place][0].partition("=")[2]]
    return [word for words in found for word in words]


def _value_of(param: Any, rest: Iterator[str]) -> list[str]:
    """The word behind an option that takes a value."""
    if getattr(param, "is_flag", False) or getattr(param, "count", False):
        return []
    return [word for word in [next(rest, None)] if word is not None]
