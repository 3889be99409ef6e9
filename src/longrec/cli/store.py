"""Stores of users: looked at, backed up, restored, carried over, verified, compacted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from longrec.cli.common import (
    AnotherCatalog,
    Json,
    Plugin,
    Run,
    open_for_command,
    print_result,
    resumable,
)
from longrec.cli.info import show_store
from longrec.core import console
from longrec.core.choices import Durability
from longrec.core.errors import LongrecError, UsageError
from longrec.core.threads import used

if TYPE_CHECKING:
    from longrec.serving.maintenance.verify import Problem

NAMED = 100
"""Events that are named which a backup lacks."""
app = typer.Typer(help="Stores of users: looked at, backed up, restored, verified, compacted.")

Url = Annotated[
    str,
    Argument(
        metavar="URL",
        help="lmdb:///folder (or a path), redis://host/0, rediss://…",
        show_default=False,
    ),
]
Backup = Annotated[
    Path, Argument(metavar="FOLDER", help="The backup's folder.", show_default=False)
]


@app.command()
def info(url: Url, json: Json = False) -> None:
    """Show what a store holds, as `longrec info URL` does.

    Example: [bold]longrec store info lmdb:///var/lib/shop[/bold]
    """
    show_store(url, json)


@app.command()
def backup(url: Url, folder: Backup, json: Json = False) -> None:
    """Write a store to a folder that any store can be restored from, beside whoever writes to it.

    Example: [bold]longrec store backup lmdb:///var/lib/shop backup-monday[/bold]
    """
    from longrec.serving.maintenance.backup import backup as write
    from longrec.serving.stream.id_keys import id_of

    with open_for_command(url) as store, console.progress_bar("backing up") as progress:
        copied = write(store, folder, progress)
    counts: dict[str, Any] = {"users": copied.users, "events": copied.events}
    missing = [{"user": id_of(user), "event": event} for user, event in copied.missing]
    document = {"url": store.url, "path": str(folder)} | counts
    print_result(
        json,
        document | {"missing": missing, "unnamed": copied.unnamed, "problems": copied.problems},
        str(folder),
        {"from": store.url} | counts,
    )
    if missing or copied.problems:
        for user, event in [] if json else copied.missing[:NAMED]:
            what = "the whole log" if event is None else f"event {event:,}"
            console.print_text(f"missing: {what} of user {id_of(user)}")
        for words in () if json else copied.problems:
            console.print_text(words)
        if copied.unnamed and not json:
            console.print_text(f"missing: {copied.unnamed:,} users of whom no id is left")
        lost = missing or copied.unnamed
        raise LongrecError(
            f"{store.url} is damaged: {folder} holds "
            + ("the rest of it" if lost else "all that was logged in it")
            + ". See `longrec store verify`"
        )


@app.command()
def restore(
    source: Annotated[
        str,
        Argument(
            metavar="SOURCE",
            help="The backup's folder, or sqlite:///file of a store of longrec 0.1.0.",
            show_default=False,
        ),
    ],
    url: Url,
    json: Json = False,
) -> None:
    """Bring a backup back into an empty store, of the same kind or another.

    If it is interrupted, the same command goes on; until it has ended nobody can use the store.
    Backups hold the log: records are made as users are next read, or at once by `rebuild`.

    Example: [bold]longrec store restore backup-monday redis://localhost:6379/0[/bold]
    """
    from longrec.serving.maintenance.restore import check_source
    from longrec.serving.maintenance.restore import restore as bring_back

    check_source(source)
    with (
        open_for_command(url, write=True) as store,
        console.progress_bar("restoring") as progress,
        resumable(),
    ):
        copied = bring_back(source, store, progress)
    counts: dict[str, Any] = {"users": copied.users, "events": copied.events}
    document = {"url": store.url, "path": source} | counts
    print_result(json, document, store.url, {"from": source} | counts)


@app.command()
def upgrade(url: Url, json: Json = False) -> None:
    """Carry over a store that a longrec before 0.2.0 wrote, in its place, while nobody uses it.

    Logs and event ids come over; records are made as users are next read, or at once by `rebuild`.
    If it is interrupted, the same command goes on.

    Example: [bold]longrec store upgrade lmdb:///var/lib/shop[/bold]
    """
    from longrec.serving.maintenance.upgrade import upgrade as carry_over

    with console.progress_bar("carrying over") as progress, resumable():
        done = carry_over(url, progress)
    counts = {"users": done.users, "events": done.events}
    print_result(json, {"url": done.url} | counts, done.url, counts)


@app.command()
def rebuild(
    url: Url,
    run: Run,
    data: Annotated[
        Path | None,
        Option(metavar="HISTORIES", help="Bring these histories in first, in front of the logs."),
    ] = None,
    durability: Annotated[
        Durability, Option(help="That of whoever serves the store: power, or process.")
    ] = "power",
    another_catalog: AnotherCatalog = False,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Make all users' records anew with RUN's model, which the store serves from then on.

    If it is interrupted, the same command goes on. A server that runs does the same on HUP.

    Example: [bold]longrec store rebuild lmdb:///var/lib/shop run --data histories[/bold]
    """
    from longrec.recommender import load

    with (
        load(run).open_stream(
            url, durability, beside=True, fresh_counts=None, another_catalog=another_catalog
        ) as stream,
        console.progress_bar("rebuilding") as progress,
        resumable(),
    ):
        console.say(str(used()))
        rebuilt = stream.rebuild(data, progress)._asdict()
    safe_url, seconds = stream.store.url, f"{rebuilt['seconds']:.1f}"
    print_result(json, {"url": safe_url} | rebuilt, safe_url, rebuilt | {"seconds": seconds})


@app.command()
def verify(
    url: Url,
    run: Annotated[
        Path | None,
        Option(metavar="RUN", help="Hold this run's records against a replay of the log, too."),
    ] = None,
    show: Annotated[
        bool, Option("--show", help="Name the users of all problems, not of losses alone.")
    ] = False,
    accept_losses: Annotated[
        bool, Option("--accept-losses", help="Tell no more of what the store lost in a crash.")
    ] = False,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Check a store: whole logs, event ids, records. The exit status is 1 if there are problems.

    Example: [bold]longrec store verify lmdb:///var/lib/shop --run run[/bold]
    """
    from longrec.serving.maintenance.retention import models_of
    from longrec.serving.maintenance.verify import verify as check

    replay = None
    if run is not None:
        from longrec.recommender import load
        from longrec.serving.maintenance.replay import Replay

        replay = Replay(load(run))
    if accept_losses:
        with open_for_command(url), open_for_command(url, write=True) as store:
            store.change_meta(lambda meta: meta.pop("losses", None))
    with open_for_command(url) as store, console.progress_bar("verifying") as progress:
        found, meta = check(store, replay, progress), store.meta()
    models = [
        model | {"behind": found.behind[model["digest"]]}
        for model in models_of(meta, found.records)
    ]
    problems = [_described(problem, show) for problem in found.problems]
    compared = {} if run is None else {"compared": found.compared, "outdated": found.outdated}
    counts = {"users": found.users, "events": found.events} | compared
    document = {"url": store.url} | counts | {"models": models, "problems": problems}
    print_result(json, document, store.url, counts | {"problems": len(problems)})
    if not json:
        if models:
            columns = ["name", "records", "behind"]
            console.table("models", columns, [[model[key] for key in columns] for model in models])
        _print_problems(problems)
    if problems:
        kinds = ", ".join(problem["problem"] for problem in problems)
        raise LongrecError(f"{store.url} is not whole: {kinds}")


@app.command("drop-event")
def drop_event(
    url: Url,
    user: Annotated[str, Argument(help="Whose event it is.", show_default=False)],
    event_id: Annotated[
        str | None, Option("--event-id", metavar="ID", help="The id it was logged with.")
    ] = None,
    number: Annotated[
        int | None, Option(min=1, help="Its place in the user's log, from 1, in place of its id.")
    ] = None,
    json: Json = False,
) -> None:
    """Take a wrong event out of a user's log, as if it had never been there.

    The user's records are made anew from the log when the user is next read, and what is counted
    of the log is counted anew. Where a server writes to an LMDB store, ask it instead: POST
    /v1/dropped-events.

    Example: [bold]longrec store drop-event lmdb:///var/lib/shop ann --event-id order-9[/bold]
    """
    from longrec.serving.stores.packed_columns import unpack_columns
    from longrec.serving.stores.protocol import DAMAGED
    from longrec.serving.stream.dropping import drop_event as drop
    from longrec.serving.stream.id_keys import event_key, id_of, user_key

    if (event_id is None) == (number is None):
        raise UsageError("give either --event-id or --number")
    name = None if event_id is None else event_key(event_id)
    with open_for_command(url):
        pass  # or it is refused, where opening to write would make a store
    with open_for_command(url, write=True) as store:
        event = drop(store, user_key(user), name, number)
    if event is None:
        which = f"number {number}" if event_id is None else f"with the id {event_id!r}"
        raise UsageError(f"{store.url}: user {user!r} has no event {which}")
    facts = {
        "item": id_of(event.item),
        "time": None if event is DAMAGED else event.time,
        "event_id": None if event.event_id is None else id_of(event.event_id),
        "columns": unpack_columns(event.columns),
    }
    print_result(json, {"url": store.url, "user": user, "dropped": facts}, "dropped", facts)


def _described(problem: Problem, show: bool) -> dict[str, Any]:
    """A problem as JSON; whose data is lost is named always."""
    from longrec.serving.stream.id_keys import id_of

    about: dict[str, Any] = {
        "problem": problem.words,
        "number": problem.number,
        "mend": problem.mend,
    }
    if show or problem.is_damage:
        about["users"] = [id_of(user) for user in problem.users]
    if problem.events:
        about["events"] = list(problem.events)
    if problem.notes:
        about["notes"] = list(problem.notes)
    return about


def _print_problems(problems: Sequence[dict[str, Any]]) -> None:
    for problem in problems:
        console.print_text(f"{problem['number']:,} {problem['problem']}")
        events = problem.get("events", ())
        for number, user in enumerate(problem.get("users", ())):
            console.print_text(f"  {user}" + (f", event {events[number]:,}" if events else ""))
        for note in problem.get("notes", ()):
            console.print_text(f"  {note}")
        console.print_text(f"  mend: {problem['mend']}")


@app.command()
def compact(url: Url, json: Json = False) -> None:
    """Delete the records of models that the store serves no more, and give back free room.

    What was deleted, forgotten users among it, is in the file no longer.

    Example: [bold]longrec store compact lmdb:///var/lib/shop[/bold]
    """
    from longrec.serving.maintenance.retention import drop_old
    from longrec.serving.maintenance.verify import verify as check

    with open_for_command(url) as store:  # or it is refused, where opening to write would make one
        damaged = check(store).problems if store.inspect() else ()
    with open_for_command(url, write=True) as store, console.status("compacting"):
        dropped = drop_old(store)
        before, after = store.compact()
    for model in [] if json else dropped:
        console.say(
            f"dropped {model['records']:,} records of {model['name']} ({model['digest'][:16]})"
        )
    sizes = {"bytes_before": before, "bytes_after": after}
    problems = [_described(problem, False) for problem in damaged]
    document = {"url": store.url, "dropped": dropped} | sizes | {"problems": problems}
    print_result(json, document, store.url, sizes)
    if problems:
        if not json:
            _print_problems(problems)
        raise LongrecError(f"{store.url} was damaged: what is named is lost, and all else is kept")
