"""Whether system calls can be traced, to count syncs."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def need_strace() -> None:
    """Skip the test where strace is missing or may not trace; fail it where it is required."""
    if shutil.which("strace") is None or subprocess.run(["strace", "true"]).returncode:
        if os.environ.get("LONGREC_REQUIRE_STRACE"):
            pytest.fail("strace is missing or may not trace, and LONGREC_REQUIRE_STRACE is set")
        pytest.skip("strace is not installed or may not trace")
