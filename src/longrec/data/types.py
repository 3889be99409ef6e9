"""The type of each column over all parts of a log, and what ids, types and numbers are kept as.

Text files have no types. There a column of ids is integers if every value spells one, whatever
stands in row 30,000; else every id stays as it is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from longrec.core.errors import DataError
from longrec.data.columns import ROLES
from longrec.data.engine import Engine
from longrec.data.sources import FOREIGN, TEXT, Part

INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
LARGE = ("UBIGINT", "HUGEINT", "UHUGEINT")
FLOATS = ("FLOAT", "DOUBLE")
WORDS = (TEXT, "UUID", "BLOB", "ENUM")
FAMILIES = {"integer": INTEGERS, "large": LARGE, "float": FLOATS, "text": WORDS}
NOTHING = '"NULL"'
"""The type of a column without values."""
NO_VALUES = ("STRUCT", "MAP", "UNION", "LIST", NOTHING, "INTERVAL")
"""What is no single value."""
NANOSECONDS = ("TIMESTAMP_NS", "TIMESTAMPTZ_NS")
ZONED = "TIMESTAMP WITH TIME ZONE"
MOMENTS = ("DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", ZONED, *NANOSECONDS)
INTEGER = r"-?(?:0|[1-9][0-9]*)"
"""The one spelling that an integer has: "007" is text."""
_MISSING = (
    *("null", "none", "nil", "nan", "na", "n/a", "n.a.", "nat", "undefined", "missing", "unknown"),
    *("<na>", "<null>", "(null)", "[null]", "#n/a", "#null!", "\\n", "-", "--", "?"),
)
MISSING_WORDS = (
    *dict.fromkeys(form for w in _MISSING for form in (w, w.upper(), w.capitalize())),
    *("NaN", "NaT"),
)
"""What programs write for a missing value, in the letters that they use."""
_SHOWN = {
    **{
        "VARCHAR": "text",
        "untyped": "text",
        "ENUM": "text",
        "UUID": "UUIDs",
        "BLOB": "bytes",
        "DOUBLE": "float64",
    },
    **{"FLOAT": "float32", "BIGINT": "int64", "INTEGER": "int32", "SMALLINT": "int16"},
    **{"TINYINT": "int8", "UBIGINT": "uint64", "UINTEGER": "uint32", "USMALLINT": "uint16"},
    **{"UTINYINT": "uint8", "BOOLEAN": "booleans", "DATE": "dates", NOTHING: "nothing but null"},
}


def shown(kind: str) -> str:
    """A type of the engine in words."""
    if kind.startswith("TIMESTAMP"):
        return "datetimes"
    return _SHOWN.get(_base(kind), kind.lower())


def _base(kind: str) -> str:
    return kind.partition("(")[0]


def family(kind: str) -> str:
    """What a type is for joining files: "integer", "large", "float", "text", itself or ""."""
    base = _base(kind)
    if kind.endswith("]") or base in (*NO_VALUES, FOREIGN):
        return ""
    if base == "DECIMAL":
        return "large" if kind.endswith(",0)") else "float"
    return next((name for name, kinds in FAMILIES.items() if base in kinds), kind)


_VALUES = (*FAMILIES, "BOOLEAN")


def is_untyped(part: Part, name: str) -> bool:
    """Whether a column of a part is text because nothing says its type."""
    return part.untyped or name in part.partition


def _kinds(name: str, parts: Iterable[Part]) -> dict[str, Part]:
    """The types of a column, "untyped" where nothing says it, and the first part that has each."""
    found: dict[str, Part] = {}
    for part in parts:
        found.setdefault("untyped" if is_untyped(part, name) else part.types[name], part)
    if len(found) > 1:
        found.pop(NOTHING, None)  # as of a part without rows, it goes with any other
    return found


def join_ids(role: str, name: str, parts: Sequence[Part], engine: Engine) -> str:
    """The type in which the ids of all parts are loaded.

    Raises
    ------
    DataError
        When a type cannot be ids, or the same id could be another one in another file.
    """
    found = _kinds(name, parts)
    for kind, part in found.items():
        if not family(kind):
            raise DataError(
                f"{part.name}, column {name!r} is of type {shown(kind)}, which cannot be "
                f"{ROLES[role]}. Convert it to integers or text."
            )
    families = set(map(family, found))
    numbers = families & {"integer", "large", "float"}
    if len(families) > 1 and families - {"integer", "large", "float", "untyped", "text"}:
        raise _differ(name, found)
    if "text" in families and numbers:
        raise _differ(name, found)
    if len(found) == 1 and (families == {"integer"} or found.keys() == {"UBIGINT"}):
        return next(iter(found))
    if "large" in families and not _fit(name, parts, engine):
        return TEXT
    if numbers and "untyped" not in families:
        return "BIGINT"
    if families <= {"untyped", "text"} or numbers:
        return TEXT
    [kind] = families - {"untyped"}
    return kind


def _fit(name: str, parts: Iterable[Part], engine: Engine) -> bool:
    """Whether all large numbers of a column fit into int64."""
    far = "{0} IS NOT NULL AND TRY_CAST({0} AS BIGINT) IS NULL"
    large = [p for p in parts if not is_untyped(p, name) and family(p.types[name]) == "large"]
    return not any(_has(part, name, engine, far) for part in large)


def _has(part: Part, name: str, engine: Engine, condition: str) -> bool:
    """Whether a condition, in SQL with {0} for the column, is true of a row of a typed part."""
    column, scan = part.column(name, [name]), part.scan(engine, [name])
    where = condition.format(column)
    return bool(engine.row(f"SELECT count(*) AS n FROM {scan} WHERE {where}")["n"])


def join_values(name: str, parts: Sequence[Part]) -> str:
    """The type in which a further column of all parts is loaded: numbers, booleans or text."""
    found = _kinds(name, parts)
    for kind, part in found.items():
        if family(kind) not in (*_VALUES, "untyped"):
            raise DataError(
                f"{part.name}, column {name!r} is of type {kind}; event columns are numbers, "
                "booleans or text."
            )
    families = set(map(family, found))
    if families <= {"untyped", "text"}:
        return TEXT
    if len(found) == 1 and families <= {"integer", "float"} and "DECIMAL" not in next(iter(found)):
        return next(iter(found))
    if families <= {"integer"}:
        return "BIGINT"
    if families <= {"integer", "large", "float"}:
        return "DOUBLE"
    if families == {"BOOLEAN"}:
        return "BOOLEAN"
    if "untyped" in families and "text" not in families and "BOOLEAN" not in families:
        return TEXT
    raise _differ(name, found)


def join_types(name: str, parts: Sequence[Part], engine: Engine) -> str:
    """Types of events are words, whatever they were."""
    for part in parts:
        kind = TEXT if is_untyped(part, name) else part.types[name]
        if family(kind) not in _VALUES:
            raise DataError(
                f"{part.name}, column {name!r} is of type {kind}, which cannot be the types of "
                "events. Convert it to text or whole numbers."
            )
        if family(kind) == "float":
            column, scan = part.column(name, [name]), part.scan(engine, [name])
            numbered = f"SELECT row_number() OVER () AS row, {column} AS value FROM {scan}"
            odd = f"SELECT row, value FROM ({numbered}) WHERE value <> round(value) LIMIT 1"
            for row, value in engine.run(odd):
                raise DataError(
                    f"{part.name}, column {name!r}, row {row}: {value!r} is a float that is no "
                    "whole number, so no type. Convert the column to text or whole numbers."
                )
    return TEXT


def join_times(name: str, parts: Sequence[Part]) -> str:
    """The type in which times, or what orders events, are loaded."""
    kinds, numbers = set(), ("integer", "large", "float", "untyped")
    for kind, part in _kinds(name, parts).items():
        if family(kind) not in numbers and kind not in (*MOMENTS, TEXT, NOTHING):
            raise DataError(
                f"{part.name}, column {name!r} is of type {kind}, which is no time. Give numbers "
                "(s, ms, us or ns since 1970), datetimes, dates or ISO text."
            )
        text = kind in (TEXT, "untyped")
        kinds.add(TEXT if text else "DOUBLE" if family(kind) == "float" else "BIGINT")
    return TEXT if TEXT in kinds else "DOUBLE" if "DOUBLE" in kinds else "BIGINT"


def _differ(name: str, found: dict[str, Part]) -> DataError:
    (one, first), (other, second) = list(found.items())[:2]
    return DataError(
        f"column {name!r} is {shown(one)} in {first.name} and {shown(other)} in {second.name}. "
        "Convert one, so that the same id (or time) is the same value in every file."
    )


def bytes_without_text(
    names: Iterable[str], parts: Sequence[Part], engine: Engine
) -> frozenset[str]:
    """Columns of bytes of which some are not the bytes of text."""
    odd = "{0} IS NOT NULL AND TRY(decode({0})) IS NULL"
    return frozenset(
        name
        for name in names
        for part in parts
        if not is_untyped(part, name) and part.types[name] == "BLOB"
        if _has(part, name, engine, odd)
    )


def is_integer(value: str) -> str:
    """Whether text is the plain spelling of an integer that int64 holds, in SQL."""
    return f"TRY_CAST({value} AS BIGINT)::VARCHAR = {value}"


def is_whole(value: str) -> str:
    """The same, or of a whole number with zeros behind a point, "12.0"."""
    return (
        f"({is_integer(value)} OR ({ends_in_zeros(value)} AND {is_integer(before_point(value))}))"
    )


def ends_in_zeros(value: str) -> str:
    """Whether text is the spelling of an integer with zeros behind a point, in SQL."""
    return f"regexp_full_match({value}, '{INTEGER}\\.0+')"


def before_point(value: str) -> str:
    """The integer part of such text, in SQL."""
    return f"split_part({value}, '.', 1)"


def is_decimal(value: str) -> str:
    """Whether text spells a number, in SQL: the engine alone would take 1_000 and 0x1."""
    number = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:nan|NaN|inf|Infinity)"
    return f"regexp_full_match({value}, '{number}')"
