"""The index of a recommender."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from longrec.cli.options import Json, Run


class Kind(StrEnum):
    """How items are found."""

    auto = "auto"
    exact = "exact"
    approximate = "approximate"


def index(
    run: Run,
    kind: Annotated[
        Kind, typer.Option(help="auto: approximate in catalogs so large that it is ahead.")
    ] = Kind.auto,
    json: Json = False,
) -> None:
    """Build the index that `longrec serve` takes, keep it in RUN, and measure its recall.

    Example: [bold]longrec index run --kind approximate[/bold]
    """
    from longrec.core import console
    from longrec.recommender import load
    from longrec.retrieval.index_cache import make_index

    recommender = load(run)
    with console.progress_bar("building the index") as progress:
        found, about = make_index(recommender, kind.value, progress)
    facts = {
        "index": found.name,
        "items": found.n_items,
        "recall_at_10": found.recall,
        **(about or {}),
    }
    if json:
        console.print_json({"run": str(run)} | facts)
        return
    console.facts_table(str(run), {key.replace("_", " "): value for key, value in facts.items()})
