"""Whether system calls can be traced, to count syncs."""

from __future__ import annotations

import shutil
import subprocess

from needs import missing


def need_strace() -> None:
    """Skip the test where strace is missing or may not trace; fail it where it is required."""
    if shutil.which("strace") is None or subprocess.run(["strace", "true"]).returncode:
        missing("strace is not installed or may not trace", "LONGREC_REQUIRE_STRACE")
