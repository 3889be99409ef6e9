"""What people see: progress on standard error, tables, and errors without a traceback."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from longrec.core.format import number

# Ids, paths and messages are shown as they are: no markup, emoji codes or control characters.
out = Console(highlight=False, soft_wrap=True, emoji=False)
if not out.is_terminal and "COLUMNS" not in os.environ:
    out.width = 160  # a file or a pipe: tables need not fold
in_notebook = out.is_jupyter
# A notebook shows standard error on red, and rich's own output there line by line in boxes; its
# kernel asks for colours (FORCE_COLOR), with which rich takes it for a terminal.
err = Console(
    stderr=not in_notebook,
    force_terminal=False if in_notebook else None,
    force_jupyter=False,
    highlight=False,
    soft_wrap=True,
    emoji=False,
)


_quiet = _silent = False


def be_quiet(quiet: bool) -> None:
    """Whether notes and progress are left out from now on; warnings and errors never are."""
    global _quiet
    _quiet = quiet


def be_silent() -> None:
    """From now on this process says nothing but errors: another one tells the same."""
    be_quiet(True)
    out.quiet = True
    global _silent
    _silent = True


BAR = 12
"""Characters of a bar: what it stands beside says more."""


def is_interactive() -> bool:
    """Whether a person sees progress on standard error: a terminal or a notebook."""
    return not _quiet and (err.is_terminal or in_notebook)


def live_bar(*columns: ProgressColumn) -> Progress:
    """A bar for people, of these columns: in a terminal or a notebook, and nowhere else."""
    if in_notebook and not _quiet:
        from longrec.core.notebook_bar import NotebookBar

        return NotebookBar(*columns, console=err)
    return Progress(*columns, console=err, transient=True, disable=not is_interactive())


def say(text: str) -> None:
    """A note for people, on standard error; a warning is one that begins with "warning:"."""
    if not _silent and (not _quiet or text.startswith("warning:")):
        err.print(plain(text), markup=False)


def status(description: str) -> AbstractContextManager[Any]:
    """A sign that something is going on, of which nothing else can be told."""
    return nullcontext() if _quiet else err.status(description)


def fail(message: str) -> None:
    """An error for people, on standard error."""
    err.print(Text.assemble(("error:", "red"), " ", plain(message)))


def print_text(text: str) -> None:
    """A line of results for people, on standard output."""
    out.print(plain(text), markup=False)


def plain(text: str) -> str:
    """Text that cannot steer a terminal: control characters become \\x1b and the like."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def print_json(value: Any) -> None:
    """One JSON document on standard output, for programs."""
    sys.stdout.write(json.dumps(value, indent=2, default=str, allow_nan=False) + "\n")
    sys.stdout.flush()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on standard output; numbers stand to the right."""
    drawn = Table(title=Text(plain(title)), title_justify="left", title_style="bold")
    drawn.show_header = any(columns)
    for index, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        drawn.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(_cell(value)) for value in row))
    out.print(drawn)


def facts_table(title: str, facts: Mapping[str, object]) -> None:
    """Names and values, one row each; whole numbers with commas."""
    rows = [
        [name.replace("_", " "), number(value) if isinstance(value, int) else str(value)]
        for name, value in facts.items()
    ]
    table(title, ["", ""], rows)


def _cell(value: object) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return plain(text).replace("\n", "\\n")


def room_for_words() -> int:
    """Characters of a line of progress that spinner, bar, share and time left leave."""
    return max(err.width - (BAR + 17), 20)


def shortened(text: str, most: int) -> str:
    """Text of so many characters at most; what is cut off is a "…"."""
    return text if len(text) <= most else text[: max(most - 1, 0)] + "…"


@contextmanager
def progress_bar(description: str) -> Iterator[Any]:
    """A bar that is called with (done, total), and with a new description if that changes."""
    with live_bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(BAR),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
    ) as bar:
        task = bar.add_task(plain(description), total=None)

        def update(done: float, total: float, words: str = description) -> None:
            bar.update(task, completed=done, total=total, description=plain(words))

        yield update


def shown(
    progress: Callable[..., None] | bool | None, description: str
) -> AbstractContextManager[Callable[..., None] | None]:
    """What is called as work goes on: the caller's function, or a bar; None: nothing.

    True shows a bar, None shows it where a person looks on.
    """
    if progress is True or (progress is None and is_interactive()):
        return progress_bar(description)
    return nullcontext(progress or None)
