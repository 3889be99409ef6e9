"""Checks of a package of one's own: every mixer and model that it registers."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Annotated, get_args

from typer import Argument, Exit

from longrec.cli.common import Json
from longrec.core import console


def check_model(
    module: Annotated[
        str,
        Argument(
            metavar="MODULE",
            help="Importable module, also from the current folder.",
            show_default=False,
        ),
    ],
    json: Json = False,
) -> None:
    """Check every mixer and model that a module registers: causal, streaming, trained, saved, …

    Exit status 1 where a check failed.

    Example: [bold]longrec check-model my_package[/bold]
    """
    from longrec.checks.run import Result, check_module

    outcomes = []
    for outcome in check_module(module):
        outcomes.append(outcome)
        console.say(f"{outcome.subject}: {outcome.check}: {outcome.result}")
    counts = Counter(outcome.result for outcome in outcomes)
    failed = counts["failed"]
    if json:
        numbers = {name.replace(" ", "_"): counts[name] for name in get_args(Result)}
        checks = [asdict(outcome) for outcome in outcomes]
        console.print_json({"module": module} | numbers | {"checks": checks})
    else:
        console.table(
            f"checks of {module}",
            ["subject", "check", "result", "reason"],
            [list(asdict(outcome).values()) for outcome in outcomes],
        )
        told = ", ".join(f"{count} {result}" for result, count in sorted(counts.items()))
        console.print_text(f"{'FAILED' if failed else 'passed'}: {told}")
    if failed:
        raise Exit(1)
