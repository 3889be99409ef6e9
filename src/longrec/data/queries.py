"""What the engine is asked for the rows of a part, in SQL, as the table `raw` takes them.

Text is as it stands, without spaces around it; an empty field is NULL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from longrec.data.bad_rows import LONGEST
from longrec.data.engine import Engine, literal, path_literal
from longrec.data.files import File
from longrec.data.sources import TEXT, Part
from longrec.data.times import typed_ticks

EXACT = {"FLOAT": 1 << 24, "DOUBLE": 1 << 53}
"""Beyond that a float stands for more than one integer."""
GIVEN = r"trim(c0, E' \t\r') <> ''"
"""Whether a line holds something."""


class Queries:
    """Queries for the wanted columns, in their order.

    Parameters
    ----------
    wanted : what is loaded, by role or name: the column that it stands in, and its type in `raw`.
    hex : columns of bytes that are no text, which are spelt in hexadecimal digits.
    """

    def __init__(self, wanted: Mapping[str, tuple[str, str]], hex: frozenset[str]) -> None:
        self.wanted, self.hex = wanted, hex
        self.names = list(dict.fromkeys(column for column, _ in wanted.values()))

    def typed(self, part: Part, engine: Engine) -> str:
        """Of a part that has types."""
        values = ", ".join(self._typed(part, key) for key in self.wanted)
        return f"SELECT {values} FROM {part.scan(engine, self.names)}"

    def _typed(self, part: Part, key: str) -> str:
        name, wanted = self.wanted[key]
        found = part.column(name, self.names)
        if name in part.partition:
            return _clean(found)
        if name in self.hex:
            return f"lower(hex({found}))"
        if key in ("time", "order"):
            return typed_ticks(found, part.types[name], wanted)
        return as_type(found, part.types[name], wanted)

    def texts(self, part: Part, place: Callable[[str], str] | None = None) -> str:
        """The columns of a part of text; `place` tells where one is that no folder names."""
        return ", ".join(
            _clean(
                part.column(name, self.names)
                if place is None or name in part.partition
                else place(name)
            )
            for name, _ in self.wanted.values()
        )

    def csv(self, file: File, part: Part, quote: str) -> str:
        """Of a text file in which `quote`, if any, is the quote mark."""
        assert part.dialect is not None
        columns = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(len(part.dialect.header)))
        options = {
            "delim": literal(part.dialect.separator),
            "quote": literal(quote),
            "escape": literal(quote),
            "skip": str(part.dialect.skip),
            "columns": f"{{{columns}}}",
        }
        return f"SELECT {self.texts(part)} FROM {_read_csv(file, options)}"

    def json(self, file: File, part: Part, only: str = "true") -> str:
        """Of JSON lines for which a condition is true."""
        inside = self.inside(part)
        ids = [self.wanted[role][0] for role in ("user", "item")]

        def place(name: str) -> str:
            value = f"v[{inside.index(name) + 1}]"
            if name not in ids:
                return value
            kind = f"json_type(c0, {_path_of(name)})"
            nested = f"{value}[1] IN ('{{', '[') AND {kind} IN ('OBJECT', 'ARRAY')"
            return f"CASE WHEN {nested} THEN NULL ELSE {value} END"

        return (
            f"SELECT {self.texts(part, place)} FROM (SELECT {_extracted(inside)} AS v, c0 "
            f"FROM {lines(file)} WHERE {GIVEN} AND {only})"
        )

    def inside(self, part: Part) -> list[str]:
        """The columns that a part's rows have, and no folder names."""
        return [name for name in self.names if name not in part.partition]

    def has_any(self, part: Part) -> str:
        """Whether a line of JSON has a value for one of them."""
        values = _extracted(self.inside(part))
        return f"coalesce(len(list_filter({values}, lambda x: x IS NOT NULL)), 0) > 0"


def lines(file: File) -> str:
    """What stands behind FROM: lines of a file as they are, in the column c0."""
    # A mark that no JSON has divides nothing.
    options = {"delim": "chr(1)", "quote": "''", "escape": "''", "skip": "0"}
    return _read_csv(file, options | {"columns": "{'c0': 'VARCHAR'}"})


def _extracted(names: Sequence[str]) -> str:
    """The values of some keys of a line of JSON, a list in SQL; NULL where it is none."""
    return f"TRY(json_extract_string(c0, [{', '.join(map(_path_of, names))}]))"


def _path_of(name: str) -> str:
    """A key of JSON in SQL."""
    return literal('$."' + name.replace("\\", "\\\\").replace('"', '\\"') + '"')


def _read_csv(file: File, options: Mapping[str, str]) -> str:
    always = {
        "header": "false",
        "auto_detect": "false",
        "store_rejects": "true",
        "strict_mode": "true",
        "allow_quoted_nulls": "false",
        "max_line_size": str(LONGEST),
        "compression": literal(file.packing or "none"),
    }
    words = ", ".join(f"{key} = {value}" for key, value in (always | dict(options)).items())
    return f"read_csv({path_literal(file.path)}, {words})"


def _clean(value: str) -> str:
    """Text without spaces around it; also where a quote mark stands behind a space."""
    bare = f"trim({value}, E' \\t\\r\ufeff')"  # files put together have the mark of UTF-8 inside
    inside = f"replace({bare}[2:-2], '\"\"', '\"')"
    quoted = f"starts_with({value}, ' ') AND length({bare}) > 1 AND {bare} LIKE '\"%\"'"
    return f"CASE WHEN {quoted} THEN {inside} ELSE {bare} END"


def as_type(value: str, found: str, wanted: str) -> str:
    """A value of a type that was found as the table takes it; NULL where that cannot be."""
    if found == wanted:
        return value
    if wanted == "BIGINT" and (found in ("FLOAT", "DOUBLE") or found.startswith("DECIMAL")):
        # pandas turns integers into floats where one is missing; they come out as integers.
        whole = f"{value} = round({value})"
        if not found.startswith("DECIMAL"):
            whole += f" AND isfinite({value}::DOUBLE) AND abs({value}) <= {EXACT[found]}"
        return f"CASE WHEN {whole} THEN TRY_CAST({value} AS BIGINT) END"
    if found == "BLOB":
        return f"TRY(decode({value}))"
    if wanted == TEXT and (found in ("FLOAT", "DOUBLE") or found.startswith("DECIMAL")):
        text = f"coalesce({as_type(value, found, 'BIGINT')}::VARCHAR, {value}::VARCHAR)"
        return f"CASE WHEN isfinite({value}::DOUBLE) THEN {text} END"
    return f"TRY_CAST({value} AS {wanted})"
