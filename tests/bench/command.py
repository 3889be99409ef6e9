"""`longrec bench` called in this process."""

from __future__ import annotations

from click.testing import Result
from typer.testing import CliRunner

from longrec.cli.app import app


def longrec_bench(*argv: object) -> Result:
    """Run a command of it; an error is raised."""
    done = CliRunner().invoke(app, ["bench", *map(str, argv)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done
