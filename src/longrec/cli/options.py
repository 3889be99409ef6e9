"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

Json = Annotated[bool, Option("--json", help="Print one JSON document instead of text.")]
Data = Annotated[
    Path | None,
    Option("--data", help="A histories folder; the run's own training data by default."),
]
Run = Annotated[Path, Argument(metavar="RUN", help="A run's folder.", show_default=False)]
Histories = Annotated[
    Path, Argument(metavar="HISTORIES", help="A histories folder.", show_default=False)
]
Device = Annotated[str, Option(help="auto, cpu, cuda, cuda:1, …")]
History = Annotated[
    list[str] | None, Option(metavar="ITEM...", help="A history, oldest item first.")
]
