"""Words that the command line and the Python interface both take, each list of them once."""

from __future__ import annotations

from typing import Any, Literal, get_args

from longrec.core.arguments import described
from longrec.core.errors import UsageError

Durability = Literal["power", "process"]
"""Acknowledged events survive a power cut ("power": on disk before they are acknowledged), or the
death of the process alone ("process")."""
IndexKind = Literal["auto", "exact", "approximate"]
"""How items are found; auto is approximate in catalogs so large that it is faster."""
SplitName = Literal["test", "validation"]
"""Which targets of a protocol are ranked."""
ExcludeSeen = bool | Literal["auto"]
"""Whether items that a user has seen are left out; auto: as validation decided."""

MessageFormat = Literal["json", "avro", "avro-registry", "fields"]
"""What messages of a log are; fields: those of an entry of a Redis stream; avro-registry: with a
schema registry's five bytes in front."""
Recipe = Literal["own", "paper", "auto"]
"""Which values settings have that are not given: our defaults, those that the model's paper trained
with, or what the log and the minutes ask for."""

ProtocolName = Literal["leave-one-out", "global-time", "prequential", "all"]
"""How a log is cut: which events train, validate and test; all: every event trains, as `longrec
refit` has it."""


MOST_SEEDS = 1000
"""Trainings of each model that a comparison takes."""


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise UsageError unless a value is one of the words of a Literal."""
    words = get_args(choices)
    if not isinstance(value, str) or value not in words:
        *first, last = map(repr, words)
        choose = " or ".join(part for part in (", ".join(first), last) if part)
        raise UsageError(f"{name} is {described(value)}; choose {choose}")
