"""`longrec info`: what histories, a run or a store of users are, told for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Argument

from longrec.cli.common import Json, Plugin, open_for_command
from longrec.core import console
from longrec.core.errors import DataError
from longrec.core.format import duration, number, size
from longrec.core.terminal_pictures import bars, line

DIGITS = 16
"""Hex digits of a digest that are shown."""


def info(
    path: Annotated[
        str,
        Argument(
            metavar="HISTORIES|RUN|STORE",
            help="A folder that longrec made, or a store's URL: lmdb:///folder, redis://host/0.",
            show_default=False,
        ),
    ],
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Show what histories, a run or a store of users hold; nothing is changed.

    Example: [bold]longrec info histories[/bold]
    """
    if "://" in path or path.startswith("lmdb:"):
        show_store(path, json)
        return
    folder = Path(path)
    kind = _kind_of(folder)
    if kind == "histories":
        _show_histories(folder, json)
    elif kind == "run":
        _show_run(folder, json)
    elif kind == "store":
        show_store(path, json)
    else:
        raise _unknown(folder, kind)


def _kind_of(folder: Path) -> str:
    """What a folder is, by its contents: "histories", "run", "store", another kind, or ""."""
    files = {
        "events.arrow": "histories",
        "shards.json": "histories",
        "training.json": "run",
        "model.safetensors": "run",
        "compare.json": "a comparison",
        "manifest.json": "an export of a run",
        "log.parquet": "a backup of a store",
    }
    for name, kind in files.items():
        if (folder / name).is_file():
            return kind
    return "store" if any(folder.glob("store-*.mdb")) else ""


def _unknown(folder: Path, kind: str) -> DataError:
    """What to say of a path that is none of the three."""
    if not folder.exists():
        return DataError(f"{folder}: no such folder")
    if not folder.is_dir():
        return DataError(
            f"{folder} is a file; info takes a folder that longrec made. A log becomes histories: "
            f"longrec prepare {folder} --out HISTORIES"
        )
    inside = sorted(p for p in folder.glob("*") if p.is_dir() and not p.name.startswith("."))
    inside += sorted(folder.glob("runs/*"))
    known = [f"{p} ({_kind_of(p)})" for p in inside if _kind_of(p)]
    there = f". In it are {', '.join(known[:5])}" + (", …" if len(known) > 5 else "")
    if kind:
        report = f"; its report is {folder / 'report.html'}" if kind == "a comparison" else ""
        return DataError(
            f"{folder} is {kind}{report}; info takes histories, runs and stores"
            + (there if known else "")
        )
    return DataError(
        f"{folder} is nothing that longrec made: it has no events.arrow (histories), no "
        "model.safetensors or training.json (a run) and no store-N.mdb (a store of users)"
        + (there if known else "")
    )


# ---- histories


def _show_histories(folder: Path, json: bool) -> None:
    from longrec.data.about import about_histories
    from longrec.data.histories import open_histories

    with console.progress_bar("reading the histories") as progress:
        about = about_histories(open_histories(folder), progress)
    if json:
        console.print_json(about)
        return
    lengths, popular, repeats = about["lengths"], about["popularity"], about["repeats"]
    time, gaps = about["time"], about["gaps"]
    _facts(
        f"histories {folder}",
        {
            "users": about["users"],
            "items": about["items"],
            "events": about["events"],
            "events of a user": _spread(lengths),
            "repeats": f"{repeats['share']:.1%} of events are of an item that the user had before",
            "time": "none: the order of events alone is known"
            if time is None
            else f"{_day(time['first'])} to {_day(time['last'])}, {time['days']:,.1f} days",
            "from one event to the next": "" if gaps is None else _gaps(gaps),
            "popularity": f"the top 1% of items have {popular['top_1_percent']:.1%} of events, the "
            f"top 10% {popular['top_10_percent']:.1%}; {popular['items_for_half']:,} items have "
            f"half; {popular['items_with_under_5_events']:,} have fewer than 5 events",
            **{f"column {one['column']}": _column(one) for one in about["columns"]},
            "table of items": ", ".join(about["item_table"]),
            "left out": ", ".join(f"{n:,} {what}" for what, n in about["dropped"].items() if n),
            "source": about["source"],
            "made": about["created"],
            "fingerprint": f"{about['fingerprint'][:DIGITS]}…",
            "on disk": size(about["bytes"]),
        },
    )
    _lengths_picture("users by their number of events", lengths["users"])
    if time is not None:
        console.print_text("events over time")
        console.print_text(f"  {line(time['events'], lowest=0)}")
        console.print_text(
            f"  {_day(time['first'])}{_day(time['last']):>{len(time['events']) - 10}}"
        )
    titled = any("title" in one for one in popular["most"])
    most = [
        [
            str(one["item"]),
            one["events"],
            f"{one['share']:.2%}",
            *([one["title"] or ""] if titled else []),
        ]
        for one in popular["most"]
    ]
    head = ["item", "events", "of all", *(["title"] if titled else [])]
    console.table("most popular items", head, most)


def _spread(lengths: Mapping[str, Any]) -> str:
    return (
        f"{lengths['mean']:,.1f} on average; half have up to {lengths['p50']:,}, 90% up to "
        f"{lengths['p90']:,}, 99% up to {lengths['p99']:,}; from {lengths['min']:,} to "
        f"{lengths['max']:,}"
    )


def _gaps(gaps: Mapping[str, Any]) -> str:
    words = (
        f"half within {_long(gaps['p50'])}, 90% within {_long(gaps['p90'])}, at most "
        f"{_long(gaps['max'])}; {gaps['same_second']:.1%} in the same second"
    )
    return words + (f"; {gaps['back_in_time']:.1%} back in time" if gaps["back_in_time"] else "")


def _long(seconds: float) -> str:
    """Seconds in words, days where they are many."""
    if seconds < 10:
        return f"{seconds:.0f} s"
    return duration(seconds) if seconds < 172_800 else f"{seconds / 86_400:,.0f} days"


def _column(column: Mapping[str, Any]) -> str:
    missing = f", {column['missing']:.1%} without" if column["missing"] else ""
    if column["kind"] == "text":
        most = ", ".join(f"{one['word']} {one['share']:.1%}" for one in column["most"][:5])
        words = f"text, {column['words']:,} words: {most}" + (", …" if column["words"] > 5 else "")
        return words + missing
    if column["mean"] is None:
        return f"{column['kind']}, no value"
    low, mean, high = (f"{column[key]:,.6g}" for key in ("min", "mean", "max"))
    return f"{column['kind']}, {low} to {high}, {mean} on average{missing}"


def _lengths_picture(title: str, bins: Sequence[Mapping[str, int]]) -> None:
    rows = [
        (f"{one['from']:,}" if one["from"] == one["to"] else f"{one['from']:,}-{one['to']:,}",
         one["users"])
        for one in bins
    ]  # fmt: skip
    console.print_text(title)
    for row in bars(rows):
        console.print_text(f"  {row}")


# ---- a run


def _show_run(folder: Path, json: bool) -> None:
    from longrec.artifact.policy import transitions_words
    from longrec.runs.about import about_run

    about = about_run(folder)
    if json:
        console.print_json(about)
        return
    data, training, protocol = about["data"] or {}, about["training"] or {}, about["protocol"]
    settings = ", ".join(f"{key}={value}" for key, value in about["settings"].items())
    kept = about.get("kept_bytes")
    _facts(
        f"run {folder}",
        {
            "state": _state(about),
            "model": about["model"] + (f" of {about['plugin']}" if about["plugin"] else ""),
            "settings" if about["problem"] else "settings unlike the defaults": settings or "none",
            "recipe": about["recipe"] if about["recipe"] != "own" else None,
            "added score": (about["added_score"] or {}).get("name"),
            "items": about["items"],
            "parameters": about.get("parameters"),
            "kept of a user": None
            if "keeps" not in about
            else about["keeps"] + ("" if kept is None else f", {size(kept)}"),
            "data": ""
            if not data
            else f"{data['path']}: {data['users']:,} users, "
            f"{data['items']:,} items, {data['events']:,} events",
            "source": data.get("source"),
            "fingerprint": f"{data['fingerprint'][:DIGITS]}…" if data else None,
            "protocol": _protocol(protocol),
            "ended": None if not training else _ended(training, about["resumable"]),
            "seen items": about["seen_items"],
            "transitions": about["transitions"] and transitions_words(about["transitions"]),
            "warm start from": about["warm_start"],
            "measured run": about["measured"],
            "command": about["command"],
            "seed": str(about["seed"]),
            "code": _code(about),
            "begun": about["started"],
            "on disk": size(about["bytes"]),
        },
    )
    if about["problem"]:
        console.say(f"warning: {about['problem']}")
    if about["chosen"]:
        rows = [[one["key"], str(one["value"]), one["why"]] for one in about["chosen"]["choices"]]
        console.table("chosen for the log", ["setting", "value", "why"], rows)
    _curve_pictures(about["curve"])
    numbers = training.get("validation") or {}
    if numbers:
        beside = {f"{name} (baseline)": n for name, n in (about["baselines"] or {}).items()}
        rows = [
            [name, *(n[key] for key in numbers)]
            for name, n in ({about["model"]: numbers} | beside).items()
        ]
        console.table(
            "validation, as served", ["", *(k.removeprefix("served/") for k in numbers)], rows
        )
    if about["evaluations"]:
        console.table(
            "evaluations, the latest first",
            ["split", "protocol", "targets", "metric", "value", "95% interval"],
            [
                [one["split"], one["protocol"], number(one["targets"]), one["metric"], one["value"],
                 "{:.4f} to {:.4f}".format(*one["interval"])]
                for one in about["evaluations"]
            ],
        )  # fmt: skip
    elif about["state"] != "not ended" and not about["final"]:
        console.say(f"not evaluated yet: longrec evaluate {folder}")


def _state(about: Mapping[str, Any]) -> str:
    if about["state"] == "going on":
        return "ended, and goes on with more epochs or minutes; the rest is of what stands so far"
    if about["state"] == "not ended":
        final = ", to be trained on all events when it is measured" if about["final"] else ""
        return f"not ended: it trains, or was interrupted and goes on with --resume{final}"
    if about["final"]:
        return "a final run, trained on all events: another one was measured"
    return "measured: its validation and test events were kept from training"


def _protocol(protocol: Mapping[str, Any]) -> str:
    counts = [
        f"{protocol[f'{split}_targets']:,} {split} targets"
        for split in ("validation", "test")
        if f"{split}_targets" in protocol
    ]
    return ", ".join([str(protocol.get("name")), *counts])


def _ended(training: Mapping[str, Any], resumable: bool) -> str:
    state = "" if training.get("converged") else ", not converged"
    best = training.get("best_epoch")
    return (
        f"{training['stop']}{state}, {training['epochs']:,} epochs in "
        f"{duration(training['seconds'])}"
        + (f", best after {best:,}" if best else "")
        + (", can go on (--resume)" if resumable else "")
    )


def _code(about: Mapping[str, Any]) -> str:
    versions = about["versions"] or {}
    commit = f", commit {about['commit']}" if about["commit"] else ""
    return f"longrec {versions.get('longrec')}, torch {versions.get('torch')}{commit}"


def _curve_pictures(curve: Sequence[Mapping[str, Any]]) -> None:
    """Loss and validation by validation, a row of letters each, with what the ends are."""
    for key, title, best in (("loss", "training loss", min), ("ndcg10", "validation NDCG@10", max)):
        known = [(row[key], row["epoch"]) for row in curve if row[key] is not None]
        if len(known) < 2:
            continue
        value, epoch = best(known, key=lambda one: one[0])
        (first, begin), (last, end) = known[0], known[-1]
        console.print_text(
            f"{title}, epochs {begin} to {end}: {first:.4f} to {last:.4f}, best {value:.4f} "
            f"(epoch {epoch})"
        )
        console.print_text(f"  {line([row[key] for row in curve])}")


# ---- a store


def show_store(url: str, json: bool) -> None:
    """Show a store of users, opened readonly."""
    from longrec.serving.maintenance.about import about_store

    with open_for_command(url) as store, console.progress_bar("reading the store") as progress:
        about = about_store(store, progress)
    if json:
        console.print_json(about)
        return
    read, lengths = about["users_read"], about["lengths"]
    some = "" if read >= about["users"] else f" (of the first {read:,} users)"
    _facts(
        f"store {about['url']}",
        {
            "users": about["users"],
            "events": about["events"],
            f"events of a user{some}": "" if lengths is None else _spread(lengths),
            f"last event{some}": about["last_event"],
            "seen items": about["seen_items"],
            "bytes": size(about["bytes"])
            + (" (of the whole server)" if about["url"].startswith("redis") else ""),
            "schema": about["schema"],
            "created": about["created"],
        },
    )
    if about["models"]:
        rows = [
            [m["name"], m["digest"][:DIGITS], "yes" if m["current"] else "no", number(m["records"]),
             m["run"] or "not noted"]
            for m in about["models"]
        ]  # fmt: skip
        columns = ["model", "digest", "served", "records", "first opened with"]
        console.table("models", columns, rows)
    if lengths is not None:
        _lengths_picture(f"users by their number of events{some}", lengths["users"])
    if not about["whole"]:
        console.say(f"half restored: run `longrec store restore FOLDER {about['url']}` again")


# ---- what they share


def _facts(title: str, facts: Mapping[str, object]) -> None:
    """Facts that there are, as a table."""
    console.facts_table(title, {k: v for k, v in facts.items() if v is not None and v != ""})


def _day(moment: str | int) -> str:
    return str(moment)[:10]
