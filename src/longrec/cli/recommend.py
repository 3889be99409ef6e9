"""What a trained model is asked: recommendations, and what it read of a history for an item."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from typer import Argument, Option

from longrec.cli.common import EXCLUDE_SEEN, Data, History, Json, Plugin, Run, SeenItems
from longrec.cli.evaluate import Cut, Protocol
from longrec.cli.store import open_for_command
from longrec.core import console
from longrec.core.choices import SplitName
from longrec.core.errors import UsageError
from longrec.core.files import write_file

if TYPE_CHECKING:
    import polars as pl

    from longrec.inference.explain import Explanation
    from longrec.recommender import Recommender

Format = Literal["table", "csv", "parquet", "json"]


def recommend(
    run: Run,
    more: Annotated[
        list[str] | None, Argument(metavar="[ID...]", help="Further ids.", hidden=True)
    ] = None,
    data: Data = None,
    user: Annotated[
        list[str] | None, Option(metavar="ID...", help="Users to recommend to.")
    ] = None,
    history: History = None,
    everybody: Annotated[bool, Option("--all", help="All users of the data.")] = False,
    split: Annotated[
        SplitName | None,
        Option(help="The targets that evaluate ranks, each for what came before it."),
    ] = None,
    protocol: Protocol = None,
    cut: Cut = None,
    k: Annotated[int, Option("-k", min=1, help="Items per user.")] = 10,
    exclude_seen: SeenItems = "auto",
    form: Annotated[
        Format | None,
        Option("--format", help="How to write them: by --out's ending, else as a table."),
    ] = None,
    out: Annotated[
        Path | None, Option(help="A .csv, .parquet or .json file instead of standard output.")
    ] = None,
    plugin: Plugin = None,
) -> None:
    """Recommend items to users, or for a history that you give.

    Example: [bold]longrec recommend run --user 42 43 -k 5 --format json[/bold]
    """
    from longrec.artifact.policy import seen_items_line
    from longrec.core.serialise import serialise
    from longrec.recommender import load

    if sum((bool(user), bool(history), everybody, split is not None)) != 1:
        raise UsageError("give one of --user ID..., --history ITEM..., --all and --split")
    if more and not (user or history):
        option = "--all" if everybody else "--split"
        raise UsageError(f"{option} takes no ids, but {more[0]!r} was given")
    if history and data is not None:
        raise UsageError("--history brings its own events: leave --data out")
    chosen = _chosen_format(form, out)
    recommender = load(run)
    hides = EXCLUDE_SEEN[exclude_seen]
    console.say(seen_items_line(recommender, hides))
    ids = [*(history or user or []), *(more or [])]
    with console.progress_bar("recommending") as progress:
        found = recommender.recommend(
            ids if user else None,
            data,
            [ids] if history else None,
            k=k,
            exclude_seen=hides,
            progress=progress,
            split=split,
            protocol=protocol,
            cut=cut,
        )
    if chosen == "table":
        console.table("recommendations", found.columns, found.rows())
        return
    if chosen == "json" and split is None:
        asked = [0] if history else recommender.data(data).user_ids if everybody else ids
        found = _with_users_without_items(found, asked)
    written = serialise(found, chosen)
    if out is None:
        sys.stdout.buffer.write(written)
        sys.stdout.flush()  # here, where a reader that has stopped is no traceback
    else:
        write_file(out, written)
        console.say(f"{len(found):,} rows in {out}")


def _with_users_without_items(
    found: pl.DataFrame, asked: Sequence[Any] | pl.Series
) -> pl.DataFrame:
    """A row without rank, item and score more for each user to whom no item was left."""
    import polars as pl

    from longrec.data.catalog import as_ids

    users = as_ids(asked, found.schema["user"], "user").alias("user").unique(maintain_order=True)
    left = users.filter(~users.is_in(found["user"].unique().implode(), nulls_equal=True))
    if not len(left):
        return found
    more = left.to_frame().with_columns(policy=pl.lit("personal"))
    return pl.concat([found, more], how="diagonal")


def _chosen_format(form: Format | None, out: Path | None) -> str:
    """What to write, known before any work is done."""
    if out is None:
        if form == "parquet" and sys.stdout.isatty():
            raise UsageError("Parquet is not for a terminal: pass --out FILE")
        return form or "table"
    ending = out.suffix.removeprefix(".").lower()
    chosen = form or (ending if ending in get_args(Format) else "table")
    if chosen == "table":
        raise UsageError(
            f"{out}: a table is for the screen; pass --format csv, parquet or json, or name the "
            "file so"
        )
    if not out.parent.is_dir():
        raise UsageError(f"{out}: there is no folder {out.parent}")
    return chosen


def explain(
    run: Run,
    item: Annotated[str, Option(help="The item, recommended or not.", show_default=False)],
    more: Annotated[
        list[str] | None, Argument(metavar="[ITEM...]", help="Further items.", hidden=True)
    ] = None,
    user: Annotated[
        str | None, Option(metavar="ID", help="A user of the data or of the store.")
    ] = None,
    data: Data = None,
    store: Annotated[
        str | None, Option(metavar="URL", help="A store whose log has the user's events.")
    ] = None,
    history: History = None,
    top: Annotated[int, Option(min=1, help="Events to show.")] = 10,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Show the events that a model attended to for an item: attention, not cause.

    It reads the whole history, in time that grows with it.

    Example: [bold]longrec explain run --item 318 --user 42[/bold]
    """
    from longrec.recommender import load

    if (user is None) == (not history):
        raise UsageError("give either --user ID or --history ITEM...")
    if more and not history:
        raise UsageError(f"--user takes one id, but {more[0]!r} was given, too")
    if history and (data is not None or store is not None):
        raise UsageError("--history brings its own events: leave --data and --store out")
    if data is not None and store is not None:
        raise UsageError("the user's events are in the histories or in the store: give one of them")
    recommender = load(run)
    with console.progress_bar("explaining") as progress:
        if store is not None:
            assert user is not None
            found = _explain_from_store(recommender, store, user, item, progress)
        else:
            given = [*history, *(more or [])] if history else None
            found = recommender.explain(item, user, data, given, progress=progress)
    if json:
        console.print_json(found.to_dict(top))
    else:
        _print_explanation(found, top)
        if found.seen and recommender.exclude_seen:
            console.out.print("The user has seen it, so it is left out of recommendations.")
        if found.unknown_events and not history:  # of a history that is told already
            console.say(f"{found.unknown_events:,} events are of items the model does not know")


def _explain_from_store(
    recommender: Recommender, url: str, user: str, item: str, progress: Any
) -> Explanation:
    """Explain from the log of a store, beside whoever writes to it."""
    from longrec.serving.stores.protocol import check_whole
    from longrec.serving.stream.id_keys import ItemIndex, user_key
    from longrec.serving.stream.user_log import explain_user

    with open_for_command(url) as store:
        check_whole(store.meta(), store.url)
        items = ItemIndex(recommender.catalog)
        return explain_user(recommender, store, items, user_key(user), item, progress)


def _print_explanation(found: Explanation, top: int) -> None:
    """The events with most attention as a table, and the rest in words."""
    import polars as pl

    events = found.events[found.top(top)]
    if events["time"].null_count():
        events = events.drop("time")
    else:
        events = events.with_columns(pl.from_epoch("time").dt.strftime("%Y-%m-%d %H:%M:%S"))
    console.table(f"item {found.item}, score {found.score:.4f}", events.columns, events.rows())
    others = len(found.events) - len(events)
    on_these = float(events["attention"].to_numpy().sum())
    on_others = float(found.events["attention"].to_numpy().sum()) - on_these
    words = [f"{on_these:.1%} of attention is on these events"]
    if others:
        words.append(f"{on_others:.1%} on {others:,} others")
    if found.memory:
        words.append(f"{found.memory:.1%} on the memory bank")
    console.out.print(", ".join(words) + ".", markup=False)
    if found.bias or found.added:
        parts = [f"{found.bias:.4f} is the item's own for every user"] if found.bias else []
        parts += [f"{found.added:.4f} comes from the added score"] if found.added else []
        console.out.print("Of the score " + " and ".join(parts) + ".", markup=False)
    console.out.print(found.note, markup=False)
