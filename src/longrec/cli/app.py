"""All commands: `longrec VERB`, the same verbs as the Python API.

Each command is a function of a file of this room; its help is its docstring.
"""

from __future__ import annotations

from typing import Annotated

import typer

from longrec.cli import (
    bench,
    check,
    compare,
    consume,
    data,
    evaluate,
    explain,
    info,
    recommend,
    report,
    serve,
    store,
    train,
    tune,
)
from longrec.cli.command import Command, Group
from longrec.core import threads as core_threads
from longrec.core.started import refuse_several
from longrec.serving.http import signals

SHARED = "train", "refit"
"""Commands whose work several processes of torchrun share."""
SMALL = "serve", "store"
"""Commands whose work is many small pieces: a few records at a time."""

app = typer.Typer(
    name="longrec",
    cls=Group,
    help="Next-item recommendation from very long user histories: from logs to recommendations.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def top(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="CPU threads; by default as many as it may use cores, and one where work is small "
            "(serve, store).",
        ),
    ] = None,
) -> None:
    """Next-item recommendation from very long user histories: from logs to recommendations."""
    if ctx.invoked_subcommand == "serve":
        ctx.obj = ctx.with_resource(signals.Signals())  # before anything is imported
    elif ctx.invoked_subcommand != "consume":  # which takes them itself
        signals.release()
    if version:
        from longrec.core.version import version as of_longrec

        typer.echo(f"longrec {of_longrec()}")
        raise typer.Exit
    if ctx.invoked_subcommand is not None and ctx.invoked_subcommand not in SHARED:
        refuse_several(ctx.invoked_subcommand)
    small = ctx.invoked_subcommand in SMALL
    core_threads.use(core_threads.choose(threads, small))  # before NumPy and PyTorch are imported
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit(2)


for command in (
    data.prepare,
    train.train,
    train.refit,
    evaluate.evaluate,
    recommend.recommend,
    recommend.similar,
    explain.explain,
    serve.index,
    serve.export,
    serve.push,
    serve.serve,
    consume.consume,
    train.models,
    info.info,
    check.check_model,
    compare.compare,
    tune.tune,
    report.report,
    compare.demo,
):
    app.command()(command)
for name, group in (("data", data.app), ("store", store.app), ("bench", bench.app)):
    app.add_typer(group, name=name, no_args_is_help=True)
for one in (app, data.app, store.app, bench.app):
    for registered in one.registered_commands:
        registered.cls = Command
