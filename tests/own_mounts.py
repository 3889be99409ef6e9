"""A forked process with mounts of its own: what is mounted there is there for it alone."""

from __future__ import annotations

import subprocess

import pytest
from forking import run_code

PREPARED = """
import ctypes, os, subprocess, sys
from pathlib import Path
user, group = os.getuid(), os.getgid()
if ctypes.CDLL(None, use_errno=True).unshare(0x10020000):  # CLONE_NEWUSER and CLONE_NEWNS
    sys.exit("unshare: " + os.strerror(ctypes.get_errno()))
Path("/proc/self/setgroups").write_text("deny")
Path("/proc/self/uid_map").write_text(f"0 {user} 1")  # root, of this process's mounts
Path("/proc/self/gid_map").write_text(f"0 {group} 1")
def mount(*words):
    if subprocess.run(["mount", *words]).returncode:
        sys.exit("mount: it failed")
"""


def run_with_mounts(code: str, *arguments: object) -> str:
    """`python -c CODE ARGUMENTS` that may call mount(WORDS…) first; -> all that it prints.

    The test is skipped where nothing may be mounted.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    told, _ = run_code(PREPARED + code, *arguments, **pipes).communicate(100)
    if "unshare:" in told or "mount:" in told:
        pytest.skip(f"nothing may be mounted here: {told.strip()}")
    return told
