"""How the times of all parts of a loaded log are read, and in which unit they come out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from longrec.core.errors import UsageError
from longrec.data.engine import Engine
from longrec.data.load import Loader
from longrec.data.sources import TEXT
from longrec.data.times import (
    PER_SECOND,
    SAMPLE,
    TimePlan,
    band_counts,
    detect_unit,
    plan_of_type,
    plan_of_values,
)
from longrec.data.types import is_untyped


class LogTimes:
    """The times of a log ("time"), or what orders its events ("order"), in ticks of one unit.

    Attributes
    ----------
    ticks : of the table `raw`, in SQL; NULL where a value cannot be read.
    per_second : ticks in a second.
    unit : of the log, "datetime" if a part has datetimes.
    kinds : what the column holds, in words.
    """

    def __init__(
        self, loader: Loader, key: str, time_unit: str | None, time_format: str | None
    ) -> None:
        engine, value, (name, kind) = loader.engine, loader.raw[key], loader.wanted[key]
        stated = time_unit is not None or key == "order"
        grouped: dict[TimePlan, list[int]] = {}
        for number, part in enumerate(loader.parts):
            typed = None if is_untyped(part, name) else plan_of_type(part.types[name])
            plan = typed or plan_of_values(
                engine,
                _sample(engine, value, number),
                f"{part.name}, column {name!r}",
                time_format if key == "time" else None,
                stated,
            )
            grouped.setdefault(plan, []).append(number)
        self.kinds = " or ".join(dict.fromkeys(plan.kind for plan in grouped))
        if key == "time" and time_unit is not None:
            _check_unit(time_unit, grouped, f"{loader.parts[0].name}, column {name!r}")
        numbers = [n for plan, own in grouped.items() if plan.fixed is None for n in own]
        whole = kind == "BIGINT" or (kind == TEXT and _all_whole(engine, value, numbers))
        units = _units(engine, value, numbers, time_unit) if key == "time" else {}
        scaled: dict[tuple[TimePlan, int], list[int]] = {}
        for plan, own in grouped.items():
            for number in own:
                fixed = (
                    plan.per_second if plan.fixed or key == "order" else PER_SECOND[units[number]]
                )
                scaled.setdefault((plan, fixed), []).append(number)
        self.per_second = max(per for _, per in scaled)
        cases = {}
        for (plan, per), own in scaled.items():
            factor = self.per_second // per
            ticks = plan.ticks(value, whole)
            cases[f"TRY(({ticks}) * {factor})" if factor > 1 else ticks] = own
        self.ticks = _by_part(cases)
        names = {plan.fixed or units.get(own[0], "s") for (plan, _), own in scaled.items()}
        finest = max(names - {"datetime"}, key=lambda u: PER_SECOND[u], default="datetime")
        self.unit = "datetime" if "datetime" in names else finest


def _sample(engine: Engine, value: str, part: int) -> list[Any]:
    rows = engine.run(
        f"SELECT {value} FROM raw WHERE part = ? AND nullif({value}::VARCHAR, '') IS NOT NULL "
        f"LIMIT {SAMPLE}",
        [part],
    )
    return [row[0] for row in rows]


def _all_whole(engine: Engine, value: str, parts: Sequence[int]) -> bool:
    if not parts:
        return True
    odd = f"NOT regexp_full_match({value}, '[+-]?[0-9]+') AND {value} <> ''"
    return not engine.row(f"SELECT count(*) AS n FROM raw WHERE {_among(parts)} AND {odd}")["n"]


def _units(
    engine: Engine, value: str, parts: Sequence[int], time_unit: str | None
) -> dict[int, str]:
    """The unit of each part whose times are numbers."""
    if not parts or time_unit is not None:
        return dict.fromkeys(parts, time_unit or "s")
    bands = band_counts(f"TRY_CAST({value} AS DOUBLE)")
    counts = ", ".join(f"{count} AS {unit}" for unit, count in bands.items())
    rows = engine.run(f"SELECT part, {counts} FROM raw WHERE {_among(parts)} GROUP BY part")
    units = {row[0]: detect_unit(dict(zip(bands, row[1:], strict=True))) for row in rows}
    return {part: units.get(part, "s") for part in parts}


def _among(parts: Sequence[int]) -> str:
    return f"part IN ({', '.join(map(str, parts))})"


def _by_part(cases: Mapping[str, Sequence[int]]) -> str:
    """A value in SQL that is another one in other parts."""
    if len(cases) == 1:
        return next(iter(cases))
    whens = " ".join(f"WHEN {_among(own)} THEN {value}" for value, own in cases.items())
    return f"CASE {whens} END"


def _check_unit(unit: str, plans: Iterable[TimePlan], where: str) -> None:
    """Raise UsageError for a stated unit that does not fit the column."""
    for plan in plans:
        if plan.kind != "nothing" and (unit == "datetime") != (plan.fixed == "datetime"):
            raise UsageError(
                f"{where} holds {plan.kind}, so time_unit={unit!r} does not fit. "
                f"Leave time_unit out or use {'datetime' if plan.fixed else 's, ms, us or ns'}."
            )
