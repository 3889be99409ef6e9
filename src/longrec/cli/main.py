"""The command line: `longrec VERB`, the same verbs as the Python API.

Exit status 0: done; 1: the work failed; 2: the call was wrong. Progress goes to standard error,
results to standard output. Each command is a function below; its help is its docstring.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

from longrec.cli import (
    bench,
    check,
    compare,
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
        int | None, typer.Option(min=1, max=1024, help="CPU threads; all cores by default.")
    ] = None,
) -> None:
    """Next-item recommendation from very long user histories: from logs to recommendations."""
    if version:
        from longrec.core.version import version as of_longrec

        typer.echo(f"longrec {of_longrec()}")
        raise typer.Exit
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
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
    serve.serve,
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


def main() -> None:
    """Entry point: what a user can mend is told in one line, without a traceback."""
    from longrec.core.outputs import write_whole

    write_whole()
    try:
        try:
            with _warnings_in_one_line():
                app()
        finally:
            sys.stdout.flush()  # what cannot be written is told as everything else is
    except Exception as error:
        _end_with(error)


def _end_with(error: Exception) -> None:
    """Tell an error in one line and end; one that no user can mend is raised on."""
    from longrec.core.errors import LongrecError
    from longrec.core.files import disk_full

    if isinstance(error, BrokenPipeError):
        sys.exit(1)  # whoever read our output has stopped: nothing more to say
    if isinstance(error, LongrecError):
        _fail(str(error), error.exit_status)
    if (full := disk_full(error)) is not None:
        _fail(f"{full}: free space on it", 1)
    if isinstance(error, UnicodeEncodeError) and error.encoding == "utf-8":
        # bytes of standard input that Python keeps as surrogates
        _fail(f"{error.object[:60]!r} is no text: it was given in bytes that are not UTF-8", 2)
    if isinstance(error, OSError | MemoryError):
        _fail(str(error) or type(error).__name__, 1)
    if isinstance(error, RuntimeError) and "memory" in str(error):
        # torch's own errors for want of it are of this class
        _fail(f"not enough memory: {str(error).splitlines()[0]}", 1)
    raise error


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """What users are warned of is a line for them, without the place in our code."""
    with warnings.catch_warnings():
        plain = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if category is not UserWarning:
                plain(message, category, *where, **more)
                return
            from longrec.core.console import say

            say(f"warning: {message}")

        warnings.showwarning = show
        yield


def _fail(message: str, status: int) -> NoReturn:
    from longrec.core.console import fail

    fail(message)
    sys.exit(status)


if __name__ == "__main__":
    main()
