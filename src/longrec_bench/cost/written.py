"""A measurement of cost as a folder, which appears whole or not at all."""

from __future__ import annotations

import csv
from json import dumps
from pathlib import Path
from typing import Any

from longrec.data.folders import writing_folder
from longrec_bench.cost.plots import figures
from longrec_bench.cost.shown import facts, tables
from longrec_bench.shown import as_markdown


def write(path: Path, found: dict[str, Any]) -> None:
    """Write found.json, cells.csv, tables.md and the figures as PNG and SVG.

    Raises
    ------
    UsageError
        When the folder is there and not empty.
    DataError
        When it cannot be written.
    """
    with writing_folder(path) as folder:
        (folder / "found.json").write_text(dumps(found, indent=2, allow_nan=False) + "\n", "utf-8")
        _write_csv(folder / "cells.csv", found["cells"])
        (folder / "tables.md").write_text(_markdown(found), "utf-8")
        for name, forms in figures(found["cells"]):
            for form, data in forms.items():
                (folder / f"{name}.{form}").write_bytes(data)


def _write_csv(path: Path, cells: list[dict[str, Any]]) -> None:
    """A row for each cell; what a cell does not have is empty."""
    columns = list(dict.fromkeys(key for cell in cells for key in cell))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(cells)


def _markdown(found: dict[str, Any]) -> str:
    parts = [f"### {table.title}\n\n{as_markdown(table)}" for table in tables(found)]
    machine = "".join(f"- {name}: {text}\n" for name, text in facts(found).items())
    method = "".join(f"- {line}\n" for line in found["method"])
    command = f"`{found['command']}` (commit {found['commit']})\n"
    return "\n".join([command, *parts, f"### machine\n\n{machine}", f"### method\n\n{method}"])
