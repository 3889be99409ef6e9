"""One value of a setting against what its field declares: how it is read, and what is wrong.

pydantic decides what fits. It is lenient in ways that nobody means, True as the number 1 or "1_6"
as 16: such values are refused here before it sees them.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np

from longrec.core.bounds import Bounds

LARGEST = 2**63 - 1
"""Of whole numbers: what tensors and files hold in 64 bits."""
MOST_SHOWN = 200
"""Characters of a value that a message shows."""
_MUST_BE = {
    "int": "an integer",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
}
"""By the first word of pydantic's name for what is wrong."""
_OF_TYPE = {int: "int", float: "float", bool: "bool", str: "string"}
_REFUSED = object()
"""Stands in for a value that pydantic would take and nobody means: it fits no field."""


def plain(hint: Any, value: Any) -> Any:
    """A value as it was meant: numpy's numbers as Python's, text that spells None or a choice.

    Parameters
    ----------
    hint : the field's type.
    value : as given.
    """
    if isinstance(value, np.generic):
        return value.item()
    options = options_of(hint)
    if not isinstance(value, str) or str in options or value in options:
        return value
    if type(None) in options and value.lower() in ("none", "null"):
        return None
    spelled = {str(one).lower(): one for one in options if isinstance(one, int)}
    return spelled.get(value.strip().lower(), value)


def stands_for(hint: Any, value: Any) -> Any:
    """What pydantic is to check: the value, or what fits nothing where it would be too lenient.

    It would take True for 1, bytes for text and "1_6" for 16, and no size of an integer is too
    large for it.
    """
    options = [one for one in options_of(hint) if one not in (None, type(None))]
    if not all(one in _OF_TYPE or isinstance(one, int | str) for one in options):
        return value  # pydantic knows other types best
    boolean = bool in options or any(one is value for one in options)
    underscored = isinstance(value, str) and "_" in value and str not in options
    lenient = (
        (isinstance(value, bool) and not boolean)
        or isinstance(value, bytes | bytearray)
        or (underscored and value not in options)
        or _too_large(options, value)
    )
    return _REFUSED if lenient else value


def problem(key: str, hint: Any, value: Any, error: Mapping[str, Any]) -> str:
    """What is wrong with a value, and what it may be, in a sentence.

    Parameters
    ----------
    key, hint, value : of the setting, its field's type, and what was given.
    error : pydantic's first one about it.
    """
    bounds, kind, options = bounds_of(hint), str(error["type"]), options_of(hint)
    finite = kind.startswith("finite")
    if _too_large(options, value):
        return f"{key} is {_shown(value, str)}; it must be {_in_64_bits(bounds)}"
    if kind != "literal_error" and len([one for one in options if one is not type(None)]) > 1:
        return f"{key} is {_shown(value)}; it must be {_choices(options, bounds, finite)}"
    if bounds is not None and kind.startswith(("greater", "less")):
        return f"{key} is {value}; it must be {bounds}"
    if kind == "literal_error":
        return f"{key} is {_shown(value)}; it must be {error['ctx']['expected']}"
    must_be = _MUST_BE.get(kind.split("_")[0])
    if must_be is None:
        message = error["msg"]
        return f"{key} is {_shown(value)}: {message[0].lower()}{message[1:]}"
    shown = value if finite else _shown(value)
    return f"{key} is {shown}; it must be {must_be}" + ("" if bounds is None else f", {bounds}")


def bounds_of(hint: Any) -> Bounds | None:
    """The range that a field declares."""
    extras = hint.__metadata__ if get_origin(hint) is Annotated else ()
    return next((extra for extra in extras if isinstance(extra, Bounds)), None)


def options_of(hint: Any) -> list[Any]:
    """Annotated[int | None, ...] -> [int, NoneType]; Literal["a", "b"] -> ["a", "b"]."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, types.UnionType):
        return [option for part in get_args(hint) for option in options_of(part)]
    return list(get_args(hint)) if get_origin(hint) is Literal else [hint]


def words(hint: Any) -> list[str]:
    """The options of a setting as text: ["int", "none"], ["next", "masked"]."""
    return [
        "none" if option is type(None) else getattr(option, "__name__", str(option))
        for option in options_of(hint)
    ]


def _choices(options: list[Any], bounds: Bounds | None, finite: bool) -> str:
    """[float, "auto"] -> "a number or 'auto'"."""
    found = []
    for option in options:
        if option is type(None):
            word = "none"
        elif isinstance(option, type):
            kind = "finite" if finite and option is float else _OF_TYPE.get(option, "")
            word = _MUST_BE.get(kind, option.__name__)
            if bounds is not None and option in (int, float):
                word = f"{word} {bounds}"
        else:
            word = repr(option)
        found.append(word)
    return f"{', '.join(found[:-1])} or {found[-1]}"


def _too_large(options: list[Any], value: Any) -> bool:
    """Whether it is, or spells, an integer of more than 64 bits where integers are asked for."""
    if int not in options or float in options or isinstance(value, bool):
        return False
    if isinstance(value, str):
        whole = re.fullmatch(r"\s*[+-]?0*(\d+)(?:\.0*)?\s*", value, re.ASCII)
        if whole is None:
            return False
        return len(whole[1]) > 19 or int(whole[1]) > LARGEST
    return isinstance(value, int | float) and LARGEST < abs(value) < math.inf


def _in_64_bits(bounds: Bounds | None) -> Bounds:
    """A field's range, with the ends that all whole numbers have."""
    bounds = Bounds() if bounds is None else bounds
    if bounds.ge is None and bounds.gt is None:
        bounds = replace(bounds, ge=-LARGEST)
    return bounds if (bounds.le, bounds.lt) != (None, None) else replace(bounds, le=LARGEST)


def _shown(value: Any, spell: Any = repr) -> str:
    try:
        shown = str(spell(value))
    except ValueError:  # Python writes no integer of thousands of digits
        return "an integer of thousands of digits"
    return shown if len(shown) <= MOST_SHOWN else f"{shown[:MOST_SHOWN]}…"
