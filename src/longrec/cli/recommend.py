"""What a trained model is asked: the best items for users and histories, and items like items."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from longrec.cli.common import (
    EXCLUDE_SEEN,
    Address,
    Data,
    Engine,
    History,
    Json,
    Plugin,
    Run,
    SeenItems,
    cluster_of,
)
from longrec.cli.evaluate import Cut, Protocol, one_cut
from longrec.cli.rows import EscapeFormulas, Form, OutFile, chosen_format, write_rows
from longrec.core import console
from longrec.core.choices import SplitName
from longrec.core.errors import LongrecError, UsageError

if TYPE_CHECKING:
    import polars as pl

    from longrec.recommender import Recommender

FILE = "FILE|-"
K = Annotated[int, Option("-k", "--top", min=1, help="Items wanted.")]
Exclude = Annotated[
    list[str] | None, Option(metavar="ITEM...", help="Items not to be recommended.")
]
ExcludeFile = Annotated[Path | None, Option(metavar=FILE, help="The same from a file.")]
Among = Annotated[list[str] | None, Option(metavar="ITEM...", help="Recommend these items only.")]
AmongFile = Annotated[Path | None, Option(metavar=FILE, help="The same from a file.")]
Items = Annotated[
    Path | None,
    Option(metavar="TABLE", help="CSV, JSON lines or Parquet with a column item, for --where."),
]
Where = Annotated[
    str | None,
    Option(
        metavar="RULE",
        help="Recommend items only for which it is true: \"category = 'shoes' AND price < 50\".",
    ),
]


def recommend(
    run: Run,
    user: Annotated[
        list[str] | None, Option(metavar="ID...", help="Users to recommend to.")
    ] = None,
    user_file: Annotated[
        Path | None,
        Option(metavar=FILE, help="The same from a file: an id per line, CSV or JSON lines."),
    ] = None,
    data: Data = None,
    history: History = None,
    history_file: Annotated[
        Path | None,
        Option(metavar=FILE, help="Several histories, as JSON lines or a CSV of events."),
    ] = None,
    everybody: Annotated[bool, Option("--all", help="All users of the data.")] = False,
    split: Annotated[
        SplitName | None,
        Option(help="The targets that evaluate ranks, each for what came before it."),
    ] = None,
    protocol: Protocol = None,
    cut: Cut = None,
    k: K = 10,
    exclude: Exclude = None,
    exclude_file: ExcludeFile = None,
    among: Among = None,
    among_file: AmongFile = None,
    where: Where = None,
    items: Items = None,
    exclude_seen: SeenItems = "auto",
    form: Form = None,
    out: OutFile = None,
    escape_formulas: EscapeFormulas = False,
    engine: Engine = None,
    address: Address = None,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Recommend items to users, or for histories that you give.

    Example: [bold]longrec recommend run --user 42 43 -k 5 --json[/bold]
    """
    from longrec.artifact.policy import seen_items_line
    from longrec.data.given_histories import as_given_histories
    from longrec.data.given_rows import read_ids
    from longrec.recommender import load

    asked = (user, user_file, history, history_file, everybody or None, split)
    if sum(bool(one) for one in asked) != 1:
        raise UsageError(
            "give one of --user ID..., --user-file, --history ITEM..., --history-file, --all and "
            "--split"
        )
    if engine is not None and not everybody:
        raise UsageError("--engine goes with --all: a few users are recommended to at once")
    own_events = history or history_file
    if own_events and data is not None:
        raise UsageError("--history brings its own events: leave --data out")
    chosen = chosen_format(form, out, json, escape_formulas)
    files = _files(user_file, history_file, exclude_file, among_file)
    limits = _limits(exclude, files[2], among, files[3], where, items)
    recommender = load(run)
    names = recommender.names
    users = read_ids(files[0], "user", names.get("user")) if user_file is not None else user
    given = as_given_histories(files[1] if history_file is not None else [history or []], names)
    hides = EXCLUDE_SEEN[exclude_seen]
    console.say(seen_items_line(recommender, hides))
    with (
        cluster_of(engine, address) as cluster,
        console.progress_bar("recommending") as progress,
    ):
        workers = None
        if cluster is not None:
            from longrec.cluster.scoring import ScoringWorkers

            workers = ScoringWorkers(cluster, plugin or ())
        found = recommender.recommend(
            users,
            data,
            given if own_events else None,
            k=k,
            exclude_seen=hides,
            progress=progress,
            split=split,
            protocol=protocol,
            cut=one_cut(cut),
            workers=workers,
            **limits,
        )
    if chosen == "json" and split is None:
        everyone = recommender.data(data).user_ids if everybody else users
        of = given.users if own_events else everyone
        policy = None if any(one is not None for one in limits.values()) else "personal"
        found = _with_users_without_items(found, of, policy)
    if chosen == "table":
        found = _with_titles(found, recommender, data)
    write_rows(found, chosen, out, "recommendations", escape_formulas)


def similar(
    run: Run,
    item: Annotated[list[str] | None, Option(metavar="ITEM...", help="Which items.")] = None,
    item_file: Annotated[
        Path | None,
        Option(metavar=FILE, help="The same from a file: an id per line, CSV or JSON lines."),
    ] = None,
    k: K = 10,
    exclude: Exclude = None,
    exclude_file: ExcludeFile = None,
    among: Among = None,
    among_file: AmongFile = None,
    where: Where = None,
    items: Items = None,
    form: Form = None,
    out: OutFile = None,
    escape_formulas: EscapeFormulas = False,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Show the items most like some items: those whose vectors are nearest, by cosine.

    Example: [bold]longrec similar run --item sku-17 sku-4 -k 5[/bold]
    """
    from longrec.recommender import load

    if bool(item) == (item_file is not None):
        raise UsageError("give one of --item ITEM... and --item-file")
    chosen = chosen_format(form, out, json, escape_formulas)
    files = _files(item_file, exclude_file, among_file)
    limits = _limits(exclude, files[1], among, files[2], where, items)
    recommender = load(run)
    found = recommender.similar(item or files[0], k, **limits)
    if chosen == "table":
        found = _with_titles(found, recommender, None)
    write_rows(found, chosen, out, "similar items", escape_formulas)


def _with_titles(found: pl.DataFrame, recommender: Recommender, data: Path | None) -> pl.DataFrame:
    """Rows for people: with the items' titles, where the histories keep a table that has some."""
    import polars as pl

    from longrec.data.kept_items import kept_table
    from longrec.data.titles import item_titles, title_column

    try:
        histories = recommender.data(data)
    except LongrecError:  # lists do not need the histories of training, so titles are not missed
        return found
    table = kept_table(histories)
    if table is None or title_column(table.frame) is None:
        return found
    titles = item_titles(histories, histories.catalog.find(found["item"]), table)
    column = pl.Series("title", [titles.get(item, "") for item in found["item"]], pl.String)
    return found.insert_column(found.columns.index("item") + 1, column)


def _files(*given: Path | None) -> list[Any]:
    """Files as Python takes them, - being standard input, which can be read once."""
    if sum(str(one) == "-" for one in given) > 1:
        raise UsageError("standard input (-) can be one file only: name the others")
    if sys.stdin is None and "-" in map(str, given):
        raise UsageError("standard input (-) is closed: name a file, or give it something to read")
    return [sys.stdin if str(one) == "-" else one for one in given]


def _limits(
    exclude: list[str] | None,
    exclude_file: Any,
    among: list[str] | None,
    among_file: Any,
    where: str | None,
    items: Path | None,
) -> dict[str, Any]:
    """What may be recommended, as Python takes it."""
    for name, here, file in (
        ("exclude", exclude, exclude_file),
        ("among", among, among_file),
    ):
        if here and file is not None:
            raise UsageError(f"give either --{name} ITEM... or --{name}-file")
    if items is not None and where is None:
        raise UsageError("--items is the table for a rule: give that, too, as --where RULE")
    return {
        "exclude": exclude or exclude_file,
        "among": among or among_file,
        "where": where,
        "items": items,
    }


def _with_users_without_items(
    found: pl.DataFrame, asked: Sequence[Any] | pl.Series | None, policy: str | None
) -> pl.DataFrame:
    """A row without rank, item and score more for each user to whom no item was left."""
    import polars as pl

    from longrec.data.catalog import as_ids

    users = (
        as_ids([] if asked is None else asked, found.schema["user"], "user")
        .alias("user")
        .unique(maintain_order=True)
    )
    left = users.filter(~users.is_in(found["user"].unique().implode(), nulls_equal=True))
    if not len(left):
        return found
    more = left.to_frame().with_columns(policy=pl.lit(policy, pl.String))
    return pl.concat([found, more], how="diagonal")
