"""Values as users give them become checked configs, by what a config's fields declare.

A config is a frozen dataclass; pydantic checks types, choices and ranges (`Bounds`) where values
come in: from Python, a command line, or a file. How fields relate to each other is checked by the
config's own `__post_init__`, as ValueError. The same declaration is what describes a setting.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, cast, get_type_hints

from longrec.config.values import bounds_of, plain, problem, stands_for, words
from longrec.core.errors import UsageError

C = TypeVar("C")


def make_config(cls: type[C], values: Mapping[str, Any], what: str | None = None) -> C:
    """A config of the class from values, which may be text.

    Parameters
    ----------
    cls : a dataclass.
    values : mapping
        By key; what is left out has its default.
    what : str or None
        Whose settings these are, in messages; the class's name if left out.

    Raises
    ------
    UsageError
        For an unknown key, or values that do not fit: all of them, each with what it may be.
    """
    known = [field.name for field in _fields(cls)]
    for key in values:
        if key not in known:
            raise UsageError(unknown_key(what or cls.__name__, key, known))
    return build_config(cls, *check_values(cls, values))


def check_values(cls: type[Any], values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Values of the right types, and what is wrong with others, a sentence each.

    Parameters
    ----------
    cls : a dataclass.
    values : mapping
        By key, all of them fields of the class.
    """
    from pydantic import ValidationError

    hints = _hints(cls)
    given = {key: plain(hints[key], value) for key, value in values.items()}
    offered = {key: stands_for(hints[key], value) for key, value in given.items()}
    try:
        checked: dict[str, Any] = _adapter(cast(Hashable, cls)).validate_python(offered)
    except ValidationError as error:
        found = {str(one["loc"][0]): one for one in reversed(error.errors(include_url=False))}
        wrong = [key for key in given if key in found]
        return {}, [problem(key, hints[key], given[key], found[key]) for key in wrong]
    missing = [
        f"{field.name} is missing, and has no default"
        for field in _fields(cls)
        if field.name not in values and _default(field) is MISSING
    ]
    return checked, missing


def build_config(cls: type[C], checked: Mapping[str, Any], problems: Iterable[str]) -> C:
    """A config of checked values; UsageError where there are problems, or fields do not agree."""
    wrong = ". ".join(problems)
    if wrong:
        raise UsageError(wrong)
    try:
        return cls(**checked)
    except ValueError as error:
        raise UsageError(str(error)) from None


def check_config(config: Any) -> None:
    """Raise UsageError for values of a config that its fields do not allow."""
    _, problems = check_values(type(config), asdict(config))
    if problems:
        raise UsageError(". ".join(problems))


def changed_settings(*configs: Any) -> dict[str, Any]:
    """Settings of configs that are unlike their defaults, by key."""
    return {
        field.name: value
        for config in configs
        for field in _fields(type(config))
        if (value := getattr(config, field.name)) != _default(field)
    }


def is_frozen(cls: Any) -> bool:
    """Whether it is a class with @dataclass(frozen=True), as configs are."""
    return (
        isinstance(cls, type)
        and is_dataclass(cls)
        and bool(cast(Any, cls).__dataclass_params__.frozen)
    )


def unknown_key(what: str, key: str, known: Iterable[str], meant: str | None = None) -> str:
    """That there is no such setting, and what is meant, or the nearest ones that there are."""
    if meant is not None:
        return f"{what} has no setting {key!r}. {meant}"
    near = difflib.get_close_matches(key, list(known), 2)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"{what} has no setting {key!r}.{hint}"


def describe_settings(cls: type[Any]) -> list[dict[str, Any]]:
    """Settings in the order of the fields, as these and the class's docstring declare them.

    Returns
    -------
    list of dict
        "key", "default", "type" (choices with bars between), "range" or None, and "meaning", from
        the docstring's section "Attributes", empty if there is none.
    """
    hints, meanings = _hints(cls), _meanings(cls)
    found = []
    for field in _fields(cls):
        default = _default(field)
        bounds = bounds_of(hints[field.name])
        found.append(
            {
                "key": field.name,
                "default": None if default is MISSING else default,
                "type": " | ".join(words(hints[field.name])),
                "range": None if bounds is None else str(bounds),
                "meaning": meanings.get(field.name, ""),
            }
        )
    return found


def _meanings(cls: type[Any]) -> dict[str, str]:
    """What docstrings of a class and its bases say below "Attributes", by name."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        text = inspect.cleandoc(vars(base).get("__doc__") or "")
        section = text.partition("Attributes\n---")[2]
        section = re.split(r"\n\n(?=\w+\n---)", section)[0]
        for names, meaning in re.findall(r"^(\w[\w, ]*) : (.+(?:\n .+)*)", section, re.MULTILINE):
            found |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return found


@cache
def _adapter(cls: Any) -> Any:
    """pydantic's check of a dataclass's fields, whichever of them are given."""
    from pydantic import ConfigDict, TypeAdapter
    from typing_extensions import TypedDict

    hints = _hints(cls)
    make: Any = TypedDict
    declared = make(cls.__name__, {f.name: hints[f.name] for f in _fields(cls)}, total=False)
    declared.__pydantic_config__ = ConfigDict(allow_inf_nan=False, arbitrary_types_allowed=True)
    return TypeAdapter(declared)


def _hints(cls: type[Any]) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _fields(cls: type[Any]) -> list[Field[Any]]:
    return [field for field in fields(cls) if field.init]


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
