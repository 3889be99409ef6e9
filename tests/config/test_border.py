"""Configs of anybody's: what their fields declare is all that is needed to check and describe."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Literal, get_args

import numpy as np
import pytest

from longrec.config.border import check_config, describe_settings, make_config
from longrec.core.bounds import Bounds
from longrec.core.choices import ProtocolName
from longrec.core.errors import UsageError
from longrec.data.splits import PROTOCOLS


@dataclass(frozen=True)
class Config:
    """A config.

    Attributes
    ----------
    width, share : how wide, and
        how much of it.
    rate : per step

    Notes
    -----
    name : no attribute
    """

    width: Annotated[int, Bounds(ge=1, le=9)]
    share: Annotated[float | None, Bounds(gt=0, lt=1)] = None
    rate: float = 0.5
    form: Literal["none", "short"] = "none"
    name: str = "x"
    flag: bool = False
    sizes: tuple[int, ...] = field(default_factory=lambda: (1, 2))

    def __post_init__(self) -> None:
        if self.flag and self.share is None:
            raise ValueError("flag is True, which needs a share: set share")


def test_text_becomes_what_the_fields_declare() -> None:
    text = {"width": "3", "share": "None", "rate": "1e-2", "form": "none", "flag": "true"}
    made = make_config(Config, text | {"share": "0.5", "name": "none"})
    assert asdict(made) == {
        **{"width": 3, "share": 0.5, "rate": 0.01, "form": "none", "name": "none", "flag": True},
        "sizes": (1, 2),
    }
    assert make_config(Config, {"width": np.int64(2), "share": "null"}).share is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "width is missing, and has no default"),
        ({"width": 0}, "width is 0; it must be in [1, 9]"),
        ({"width": "10"}, "width is 10; it must be in [1, 9]"),
        ({"width": "w"}, "width is 'w'; it must be an integer, in [1, 9]"),
        ({"width": 2.5}, "width is 2.5; it must be an integer, in [1, 9]"),
        ({"width": 1, "share": 1.0}, "share is 1.0; it must be in (0, 1)"),
        ({"width": 1, "rate": "nan"}, "rate is nan; it must be a finite number"),
        ({"width": 1, "rate": float("inf")}, "rate is inf; it must be a finite number"),
        ({"width": 1, "rate": "none"}, "rate is 'none'; it must be a number"),
        ({"width": 1, "form": "long"}, "form is 'long'; it must be 'none' or 'short'"),
        ({"width": 1, "name": 7}, "name is 7; it must be text"),
        ({"width": 1, "flag": "maybe"}, "flag is 'maybe'; it must be true or false"),
        ({"width": 1, "flag": True}, "flag is True, which needs a share: set share"),
        ({"width": 1, "wdth": 2}, "Config has no setting 'wdth'. Did you mean width?"),
        (
            {"width": 0, "form": 1, "flag": True},
            "width is 0; it must be in [1, 9]. form is 1; it must be 'none' or 'short'",
        ),
    ],
)
def test_what_is_wrong_is_told_with_what_it_may_be(values, message) -> None:
    with pytest.raises(UsageError) as caught:
        make_config(Config, values)
    assert str(caught.value) == message


@dataclass(frozen=True)
class Choices:
    num: Literal[1, 2, 4] = 1
    rate: Annotated[float | Literal["auto"], Bounds(gt=0)] = "auto"
    count: int | Literal["auto", "1_6"] | None = None
    scale: float = 1.0
    name: str = ""
    either: int | str = 0
    mode: Literal[True, "maybe"] = True


def test_text_spells_choices_and_types_of_a_union() -> None:
    text = {"num": "2", "rate": "0.5", "count": "16", "either": "7", "mode": "true"}
    made = make_config(Choices, text)
    assert (made.num, made.rate, made.count, made.either) == (2, 0.5, 16, "7")
    assert made.mode is True
    made = make_config(Choices, {"rate": "auto", "count": "1_6", "either": 7, "name": "1_6"})
    assert (made.rate, made.count, made.either, made.name) == ("auto", "1_6", 7, "1_6")
    assert make_config(Choices, {"count": "none"}).count is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num": "3"}, "num is '3'; it must be 1, 2 or 4"),
        ({"num": True}, "num is True; it must be 1, 2 or 4"),
        ({"rate": "foo"}, "rate is 'foo'; it must be a number above 0 or 'auto'"),
        ({"rate": -1}, "rate is -1; it must be a number above 0 or 'auto'"),
        ({"rate": "inf"}, "rate is 'inf'; it must be a finite number above 0 or 'auto'"),
        ({"count": True}, "count is True; it must be an integer, 'auto', '1_6' or none"),
        ({"count": 2**63}, f"count is {2**63}; it must be in [{1 - 2**63}, {2**63 - 1}]"),
        ({"count": b"16"}, "count is b'16'; it must be an integer, 'auto', '1_6' or none"),
        ({"scale": np.bool_(True)}, "scale is True; it must be a number"),
        ({"scale": "1_0.5"}, "scale is '1_0.5'; it must be a number"),
        ({"name": b"x"}, "name is b'x'; it must be text"),
        ({"either": True}, "either is True; it must be an integer or text"),
        ({"mode": False}, "mode is False; it must be True or 'maybe'"),
    ],
)
def test_what_pydantic_would_take_and_nobody_means_is_refused(values, message) -> None:
    with pytest.raises(UsageError) as caught:
        make_config(Choices, values)
    assert str(caught.value) == message


def test_a_config_made_in_python_can_be_checked_too() -> None:
    check_config(Config(3))
    with pytest.raises(UsageError, match="width is 0; it must be in"):
        check_config(Config(0))


def test_settings_are_described_by_their_declaration() -> None:
    rows = {row.pop("key"): row for row in describe_settings(Config)}
    meaning = "how wide, and how much of it."
    assert rows == {
        "width": {"default": None, "type": "int", "range": "in [1, 9]", "meaning": meaning},
        "share": {
            **{"default": None, "type": "float | none", "range": "in (0, 1)"},
            "meaning": meaning,
        },
        "rate": {"default": 0.5, "type": "float", "range": None, "meaning": "per step"},
        "form": {"default": "none", "type": "none | short", "range": None, "meaning": ""},
        "name": {"default": "x", "type": "str", "range": None, "meaning": ""},
        "flag": {"default": False, "type": "bool", "range": None, "meaning": ""},
        "sizes": rows["sizes"],
    }
    assert rows["sizes"]["default"] == (1, 2)


def test_bounds_in_words() -> None:
    found = [str(b) for b in (Bounds(gt=0), Bounds(ge=1), Bounds(lt=2), Bounds(le=3))]
    assert found == ["above 0", "at least 1", "below 2", "at most 3"]


def test_the_protocols_that_a_setting_may_name_are_those_that_there_are() -> None:
    assert get_args(ProtocolName) == tuple(PROTOCOLS)
