"""What the model read of a history for an item."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from longrec.cli.options import Data, Json, Run

if TYPE_CHECKING:
    from longrec.inference.explain import Explanation
    from longrec.recommender import Recommender


def explain(
    run: Run,
    item: Annotated[str, typer.Option(help="The item, recommended or not.", show_default=False)],
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[ITEM...]", help="Further items.", hidden=True)
    ] = None,
    user: Annotated[
        str | None, typer.Option(metavar="ID", help="A user of the data or of the store.")
    ] = None,
    data: Data = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A store whose log has the user's events."),
    ] = None,
    history: Annotated[
        list[str] | None, typer.Option(metavar="ITEM...", help="A history, oldest item first.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Events to show.")] = 10,
    json: Json = False,
) -> None:
    """Show the events that a model attended to for an item: attention, not cause.

    It reads the whole history, in time that grows with it.

    Example: [bold]longrec explain run --item 318 --user 42[/bold]
    """
    from longrec.core import console
    from longrec.core.errors import UsageError
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
            found = _from_store(recommender, store, user, item, progress)
        else:
            given = [*history, *(more or [])] if history else None
            found = recommender.explain(item, user, data, given, progress=progress)
    if json:
        console.print_json(found.to_dict(top))
    else:
        _show(found, top)


def _from_store(
    recommender: Recommender, url: str, user: str, item: str, progress: Any
) -> Explanation:
    """Explain from the log of a store, beside whoever writes to it."""
    from contextlib import closing

    from longrec.serving.stores.protocol import check_whole, open_store
    from longrec.serving.stream.explain_user import explain_user
    from longrec.serving.stream.id_keys import ItemIndex, user_key

    # Nothing is written, so what the store would keep through a power cut is no matter.
    with closing(open_store(url, "process", readonly=True)) as store:
        check_whole(store.meta(), store.url)
        items = ItemIndex(recommender.catalog)
        return explain_user(recommender, store, items, user_key(user), item, progress)


def _show(found: Explanation, top: int) -> None:
    """The events with most attention as a table, and the rest in words."""
    import polars as pl

    from longrec.core import console

    shown = found.events[found.top(top)]
    if shown["time"].null_count():
        shown = shown.drop("time")
    else:
        shown = shown.with_columns(pl.from_epoch("time").dt.strftime("%Y-%m-%d %H:%M:%S"))
    console.table(f"item {found.item}, score {found.score:.4f}", shown.columns, shown.rows())
    others = len(found.events) - len(shown)
    here = float(shown["attention"].to_numpy().sum())
    less = float(found.events["attention"].to_numpy().sum()) - here
    words = [f"{here:.1%} of attention is on these events"]
    if others:
        words.append(f"{less:.1%} on {others:,} others")
    if found.memory:
        words.append(f"{found.memory:.1%} on the memory bank")
    console.out.print(", ".join(words) + ".", markup=False)
    console.out.print(found.note, markup=False)
