"""`longrec bench` called in this process."""

from __future__ import annotations

from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from longrec.cli.main import app

FIGURES = {"p50_ms", "p95_ms", "p99_ms", "pairs_per_second"}


def longrec_bench(*argv: object) -> Result:
    """Run a command of it; an error is raised."""
    done = CliRunner().invoke(app, ["bench", *map(str, argv)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def check_figures(cells: list[dict[str, Any]]) -> None:
    """Percentiles in order, and no more pairs than the clients could have asked for."""
    for cell in cells:
        assert 0 < cell["p50_ms"] <= cell["p95_ms"] <= cell["p99_ms"]
        # Half of the calls take the median or longer, so that no client can do more than this.
        most = 2e3 * cell["clients"] / cell["p50_ms"]
        assert 0 < cell["pairs_per_second"] <= most * 1.001
