"""The command line in one of several processes of a training."""

from __future__ import annotations

import sys
from pathlib import Path

from longrec.cli.main import main as command_line
from longrec.core.child import begin_as_child


def main() -> None:
    """Run `longrec` with the arguments after the first, which is a file for its error's line."""
    begin_as_child()
    path, sys.argv = Path(sys.argv[1]), ["longrec", *sys.argv[2:]]
    command_line(lambda line: path.write_text(line, encoding="utf-8"))
