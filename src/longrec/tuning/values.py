"""Which values of a setting are tried: read from text, and drawn for a trial.

learning_rate=3e-4..3e-3     every number between, by its logarithm where the ends are far apart
loss=full,sampled            one of these
dim=x0.5,x1,x2               the same, times the value that the search begins with
experts                      as the model declares it, or by its type: half to twice as much
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

from longrec.config.border import check_values
from longrec.config.values import bounds_of, options_of
from longrec.core.errors import UsageError

if TYPE_CHECKING:
    import optuna

FAR = 8
"""Ends of a range that are so many times apart, or more, have their logarithm drawn evenly."""
AROUND = "x0.5..x2"
"""What is tried of a number of which nobody has said anything."""
Value = bool | int | float | str | None


@dataclass(frozen=True)
class Range:
    """Every number from `low` to `high`, whole ones if both are; `by_log` by its logarithm."""

    low: float
    high: float
    whole: bool

    @property
    def by_log(self) -> bool:
        """Whether logarithms are drawn evenly."""
        return self.low > 0 and self.high / self.low >= FAR

    def drawn(self, trial: optuna.Trial, name: str) -> Value:
        """The value that a trial has, of four digits that count."""
        if self.whole:
            return int(trial.suggest_int(name, int(self.low), int(self.high), log=self.by_log))
        found = float(f"{trial.suggest_float(name, self.low, self.high, log=self.by_log):.4g}")
        return min(max(found, self.low), self.high)

    def __contains__(self, value: object) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high  # type: ignore[operator]

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}"


@dataclass(frozen=True)
class Choices:
    """One of some values."""

    values: tuple[Value, ...]

    def drawn(self, trial: optuna.Trial, name: str) -> Value:
        """The value that a trial has."""
        chosen: Value = trial.suggest_categorical(name, self.values)
        return chosen

    def __contains__(self, value: object) -> bool:
        return any(value == one and type(value) is type(one) for one in self.values)

    def __str__(self) -> str:
        return ",".join("none" if one is None else str(one) for one in self.values)


def parse_search(texts: Iterable[str]) -> dict[str, str]:
    """["dim=32,64", "experts"] -> {"dim": "32,64", "experts": ""}.

    Raises
    ------
    UsageError
        For a key that is given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        key, values = key.strip(), values.strip()
        if not key or (equals and not values):
            raise UsageError(
                f"search has {text!r}; give KEY=LOW..HIGH, KEY=A,B,C or KEY alone, such as "
                "dropout=0..0.5"
            )
        if key in found:
            raise UsageError(f"search has {key!r} twice")
        found[key] = values
    return found


def values_of(cls: type[Any], key: str, text: str, begin: Value) -> Range | Choices:
    """What is tried of a setting.

    Parameters
    ----------
    cls : the config that has it.
    key : its name.
    text : as above; empty for what its type says.
    begin : its value in the trial that the search begins with.

    Raises
    ------
    UsageError
        For values that do not fit the setting, or of which only one is left.
    """
    hint = get_type_hints(cls, include_extras=True)[key]
    options = options_of(hint)
    if not text and _is_number(begin):
        text = AROUND
    if text:
        low, dots, high = text.partition("..")
        ends = (low, high) if dots else text.split(",")
        found = [_checked(cls, key, text, one.strip(), begin) for one in ends]
        if dots:
            return _range(key, text, found, whole=float not in options)
    else:
        found = [True, False] if options == [bool] else [o for o in options if o is not type(None)]
        if any(isinstance(one, type) for one in found):
            raise UsageError(f"search {key}: which values? Give {key}=LOW..HIGH or {key}=A,B,C")
    values = tuple(dict.fromkeys(found))
    if len(values) < 2:
        raise UsageError(
            f"search {key}={text}: that is one value; fix it by a setting (--set {key}={values[0]})"
        )
    return Choices(values)


def _range(key: str, text: str, ends: list[Value], whole: bool) -> Range:
    low, high = ends
    if not _is_number(low) or not _is_number(high) or not low < high:  # type: ignore[operator]
        raise UsageError(
            f"search {key}={text}: a range goes from a number to a larger one, such as 0.1..0.5"
        )
    return Range(low, high, whole)  # type: ignore[arg-type]


def _checked(cls: type[Any], key: str, text: str, one: str, begin: Value) -> Value:
    """One value of a text, of the setting's own type; "x2" is twice what the search begins with."""
    value: object = one
    factor = one.removeprefix("x")
    if factor != one and _spells_number(factor):
        if not _is_number(begin):
            raise UsageError(
                f"search {key}={text}: {one!r} is times what it begins with, which is {begin!r} "
                "and no number: give the values themselves"
            )
        value = float(factor) * begin  # type: ignore[operator]
        if isinstance(begin, int):
            bounds = bounds_of(get_type_hints(cls, include_extras=True)[key])
            least = 0 if bounds is None or bounds.ge is None else int(bounds.ge)
            value = max(round(value), least)
    checked, problems = check_values(cls, {key: value})
    if problems:
        raise UsageError(f"search {key}={text}: {problems[0]}")
    found: Value = checked[key]
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _spells_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def shown(settings: Mapping[str, Value]) -> str:
    """Settings in a line, as `--set` takes them."""
    return " ".join(f"{k}={'none' if v is None else v}" for k, v in settings.items())
