"""`longrec serve` that gets a signal at a named instant of its start, or of a change of its model.

    python -c "…; main()" ORDER serve RUN …

ORDER is a file that a test writes a line to: an instant, a signal's number, and perhaps a run that
the link RUN shall point at from then on. Whoever comes to that instant deletes the file and obeys.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLACES = {
    "signals": ("longrec.serving.http.signals", "Signals", "__enter__"),
    "load": ("longrec.artifact.artifact", "Artifact", "load"),
    "index": ("longrec.serving.http.service", "", "open_index"),
    "open": ("longrec.serving.stream.stream", "", "open_store"),
    "register": ("longrec.serving.stream.stream", "", "register"),
    "lifespan": ("longrec.serving.http.store_work", "StoreWork", "begin"),
    "page": ("longrec.serving.stream.rebuild", "Rebuild", "_note"),
    "take over": ("longrec.serving.stream.stream", "", "take_over"),
    "switch": ("longrec.serving.http.service", "Service", "replace"),
    "close": ("longrec.serving.stream.stream", "Stream", "close"),
    "drop": ("longrec.serving.http.store_work", "", "drop_old"),
    "dropped": ("longrec.serving.stores.lmdb_store", "LmdbStore", "drop"),
}
"""What is called at an instant: module, class or "", name."""
INSTANTS = [f"{when} {place}" for place in PLACES for when in ("before", "after")]


def main() -> None:
    """What the process does; the rest of its arguments are the command line's."""
    from importlib import import_module

    order = Path(sys.argv.pop(1))
    sys.argv[0] = "longrec"
    import_module("longrec.serving.stream.rebuild").USERS = 3  # some pages
    for place, (module, owner, name) in PLACES.items():
        holder: Any = import_module(module)
        holder = getattr(holder, owner) if owner else holder
        _watch(order, holder, name, place)
    from longrec.cli.main import main as command_line

    command_line()


def _watch(order: Path, holder: Any, name: str, place: str) -> None:
    called: Callable[..., Any] = getattr(holder, name)

    def call(*args: Any, **named: Any) -> Any:
        _obey(order, f"before {place}")
        result = called(*args, **named)
        _obey(order, f"after {place}")
        return result

    bound = getattr(called, "__self__", None) is not None  # a class method
    setattr(holder, name, staticmethod(call) if bound else call)


def _obey(order: Path, here: str) -> None:
    try:
        instant, number, run = order.read_text().split("|")
    except (OSError, ValueError):
        return
    if instant != here:
        return
    order.unlink()
    if run:
        point(Path(sys.argv[sys.argv.index("serve") + 1]), Path(run))
    os.kill(os.getpid(), int(number))


def point(link: Path, run: Path) -> None:
    """Let a link point at a run, at one moment."""
    new = link.with_suffix(".new")
    new.symlink_to(run)
    os.replace(new, link)
