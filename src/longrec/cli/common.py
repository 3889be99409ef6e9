"""What several commands share: options, one result, and how to go on after Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from longrec.cli.completion import complete_setting
from longrec.core import console
from longrec.core.choices import ExcludeSeen
from longrec.core.errors import LongrecError, UsageError
from longrec.core.files import disk_full

if TYPE_CHECKING:
    from longrec.cluster.ray_cluster import Cluster
    from longrec.serving.stores.protocol import Store

Json = Annotated[bool, Option("--json", help="Print one JSON document instead of text.")]
Engine = Annotated[
    Literal["ray"] | None,
    Option(help="Who shares the work out to several processes; else this one does it all."),
]
Address = Annotated[
    str | None,
    Option(metavar="HOST:PORT", help="The Ray cluster, or auto; else one of this machine alone."),
]
Data = Annotated[
    Path | None,
    Option("--data", help="A histories folder; the run's own training data by default."),
]
Run = Annotated[Path, Argument(metavar="RUN", help="A run's folder.", show_default=False)]
Histories = Annotated[
    Path, Argument(metavar="HISTORIES", help="A histories folder.", show_default=False)
]
Device = Annotated[str, Option(help="auto, cpu, cuda, cuda:1, …")]
History = Annotated[
    list[str] | None, Option(metavar="ITEM...", help="A history, oldest item first.")
]

Settings = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="KEY=VALUE...",
        help="Settings; see `longrec models NAME`.",
        autocompletion=complete_setting,
    ),
]
Config = Annotated[
    Path | None,
    Option(metavar="FILE", help="A TOML file with the keys of --set; the command line wins."),
]
Epochs = Annotated[
    int | None, Option(min=0, help="Most passes over the events; the setting max_epochs.")
]
Number = Annotated[
    int,
    Option(
        "--processes",
        min=1,
        max=1024,
        help="Processes that train together, each its part of a batch: of this machine, or of the "
        "cluster.",
    ),
]
Overwrite = Annotated[
    bool, Option("--overwrite", help="Replace what stands in --out, if it is of the same kind.")
]
AnotherCatalog = Annotated[
    bool,
    Option(
        "--another-catalog",
        help="Allow another catalog than that of the model that the store serves: the same ids are "
        "the same items.",
    ),
]
SeenItems = Annotated[
    Literal["auto", "yes", "no"],
    Option(
        "--exclude-seen",
        help="Leave out items that a user has seen; auto: as was decided when training ended.",
    ),
]
EXCLUDE_SEEN: Mapping[str, ExcludeSeen] = {"auto": "auto", "yes": True, "no": False}
"""What the words of `SeenItems` stand for."""


def _load(modules: list[str] | None) -> list[str] | None:
    """Import modules that register models, mixers and scores, before the command begins."""
    from longrec.core.registry import load_plugin

    for module in modules or ():
        load_plugin(module)
    return modules


Plugin = Annotated[
    list[str] | None,
    Option(
        "--plugin",
        metavar="MODULE...",
        callback=_load,
        help="Modules of yours that register models or mixers.",
    ),
]


def plugin_words(modules: Iterable[str] | None) -> list[str]:
    """The same plugins for another command line."""
    return [word for module in modules or () for word in ("--plugin", module)]


def print_result(
    json: bool, document: Mapping[str, Any], title: str, facts: Mapping[str, object]
) -> None:
    """A result as one JSON document, or its facts as a table."""
    if json:
        console.print_json(document)
    else:
        console.facts_table(title, facts)


def settings_of_call(assignments: list[str] | None, **options: Any) -> dict[str, Any]:
    """The settings that `--set` and options of their own give; None is an option left out.

    Raises
    ------
    UsageError
        For a setting that is given twice, or that is none but an option.
    """
    from longrec.models.common.settings import parse_assignments

    values: dict[str, Any] = dict(parse_assignments(assignments or []))
    for key, value in options.items():
        if value is None:
            continue
        if key in values:
            raise UsageError(f"{key} is given twice: by an option of its own and by --set")
        values[key] = value
    return values


@contextmanager
def resumable(how: str | Callable[[], str] = "the same command goes on") -> Iterator[None]:
    """Where Ctrl-C or a full disk ends the work, end with an error that says how it goes on.

    Parameters
    ----------
    how : str or callable
        That in words, or what gives them once it is known what was kept.
    """
    try:
        yield
    except KeyboardInterrupt:
        words = how if isinstance(how, str) else how()
        raise LongrecError(f"interrupted; {words}") from None
    except Exception as error:
        full = disk_full(error)
        if full is None:
            raise
        said = str(error).rstrip(".") if isinstance(error, LongrecError) else full
        words = how if isinstance(how, str) else how()
        raise LongrecError(f"{said}; free space, then {words}") from error


def go_on(out: Path, again: str) -> str:
    """How a training goes on whose call was `again`; what was not even begun needs it anew."""
    begun = (out / "training.json").is_file()
    return f"go on with: {again} --resume" if begun else "give the same command again"


def open_for_command(url: str, write: bool = False) -> closing[Store]:
    """A store for as long as a command takes; beside its writer unless it is written to."""
    from longrec.serving.stores.open import SHARED, open_store, scheme_of

    # Redis may be set up for less than "power"; what a file is to keep is not known from it.
    shared = scheme_of(url)[0] in SHARED
    return closing(open_store(url, "process" if shared else "power", readonly=not write))


@contextmanager
def cluster_of(
    engine: str | None, address: str | None, processors: int = 1
) -> Iterator[Cluster | None]:
    """The cluster that --engine and --address name; None where this machine's processes do it all.

    One of this machine alone has at least so many `processors`.
    """
    if engine is None:
        if address is not None:
            raise UsageError("--address is of a cluster: give --engine ray, too")
        yield None
        return
    from longrec.cluster.ray_cluster import ray_cluster

    # Ray says on standard output when a worker is lost, and results may be written there.
    with redirect_stdout(sys.stderr), ray_cluster(address, processors) as cluster:
        yield cluster
