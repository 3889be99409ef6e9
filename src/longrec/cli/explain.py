"""What a model read of a history for an item."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from longrec.cli.common import Data, History, Json, Plugin, Run, open_for_command
from longrec.core import console
from longrec.core.errors import UsageError

if TYPE_CHECKING:
    from longrec.inference.explain import Explanation
    from longrec.recommender import Recommender


def explain(
    run: Run,
    item: Annotated[str, Option(help="The item, recommended or not.", show_default=False)],
    user: Annotated[
        str | None, Option(metavar="ID", help="A user of the data or of the store.")
    ] = None,
    data: Data = None,
    store: Annotated[
        str | None, Option(metavar="URL", help="A store whose log has the user's events.")
    ] = None,
    history: History = None,
    top: Annotated[int, Option("-k", "--top", min=1, help="Events to show.")] = 10,
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
            found = recommender.explain(item, user, data, history or None, progress=progress)
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
    if not found.tells_attention:
        events = events.drop("attention", "contribution")
    console.table(f"item {found.item}, score {found.score:.4f}", events.columns, events.rows())
    if found.tells_attention:
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
    often = found.followed.filter(pl.col("times") > 0)
    if len(often):
        after = ", ".join(f"after {item} {times:,.1f} times" for item, times in often.rows())
        console.out.print(f"People took {found.item} soon {after}.", markup=False)
    console.out.print(found.note, markup=False)
