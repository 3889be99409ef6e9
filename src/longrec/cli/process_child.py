"""The command line in one of several processes of a training: it ends with its parent.

Ctrl-C in a terminal is for the parent alone, which stops this process by SIGTERM.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from longrec.cli.main import main as command_line
from longrec.core.child import die_first_of_memory, end_with_parent


def main() -> None:
    """Run `longrec` with the arguments after the first, which is a file for its error's line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    end_with_parent()
    die_first_of_memory()
    path, sys.argv = Path(sys.argv[1]), ["longrec", *sys.argv[2:]]
    command_line(lambda line: path.write_text(line, encoding="utf-8"))
