"""A report on runs that exist."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from longrec.cli.common import EXCLUDE_SEEN, Json, Plugin
from longrec.core import console
from longrec.core.choices import ProtocolName, SplitName


def report(
    runs: Annotated[
        list[Path],
        Argument(metavar="RUN...", help="Folders of runs, or of comparisons.", show_default=False),
    ],
    out: Annotated[
        Path, Option(help="The report: .html, or .md for Markdown.", show_default=False)
    ],
    data: Annotated[
        Path | None,
        Option("--data", help="The histories of the evaluations; those of each run if unset."),
    ] = None,
    split: Annotated[SplitName, Option(help="Which targets.")] = "test",
    protocol: Annotated[
        ProtocolName | None, Option(help="How the log is cut; that of training if unset.")
    ] = None,
    exclude_seen: Annotated[
        Literal["auto", "yes", "no"] | None,
        Option(
            "--exclude-seen",
            help="The policy on seen items as served; auto: each run by its own. If unset, runs "
            "must have the same.",
            show_default=False,
        ),
    ] = None,
    items: Annotated[
        Path | None,
        Option(
            metavar="TABLE",
            help="CSV, JSON lines or Parquet with the columns item and title.",
            show_default=False,
        ),
    ] = None,
    title: Annotated[str | None, Option(help="The page's heading.", show_default=False)] = None,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Compare runs that were evaluated, with paired tests, in one page; nothing is trained.

    Example: [bold]longrec report elastic-run sasrec-run --out report.html[/bold]
    """
    from longrec.comparison.document import summary_table
    from longrec.comparison.existing import report as write
    from longrec.evaluation.summary import label

    found = write(
        *(runs, out),
        data=data,
        split=split,
        protocol=protocol,
        exclude_seen=None if exclude_seen is None else EXCLUDE_SEEN[exclude_seen],
        items=items,
        title=title,
    )
    if json:
        console.print_json(found.to_dict())
        return
    console.table(f"by {label(found.metric)}", *summary_table(found.rows))
    for name, text in found.summary.items():
        console.print_text(f"{name.capitalize()}: {text}")
    console.say(f"report: {found.path}")
