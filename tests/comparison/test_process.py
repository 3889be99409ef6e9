"""A run's process: measured alone, and gone when its parent is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from forking import run_code, start_child

from longrec.comparison.process import run_process
from longrec.core.child import why_it_failed


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


@pytest.mark.slow
def test_memory_is_the_process_own_and_failures_are_told(tmp_path, monkeypatch):
    ballast = b"\1" * (900 << 20)
    out, measured = tmp_path / "logs" / "out.txt", tmp_path / "memory.json"
    assert run_process(["--version"], out, measured, lambda: None) is None
    del ballast
    found = json.loads(measured.read_text())
    assert 50 << 20 < found["imported_bytes"] <= found["peak_bytes"] < 800 << 20
    assert out.read_text().startswith("longrec")
    measured.write_text(json.dumps({"peak_bytes": 1 << 50}))
    monkeypatch.setattr("longrec.comparison.process.start_child", start_child)
    error = run_process(["evaluate", "/nowhere"], out, measured, lambda: None)
    assert error is not None
    assert error.startswith("exit status 1: /nowhere: no such folder; `longrec train` makes")
    assert out.read_text().startswith("longrec")  # what was said before is kept
    assert json.loads(measured.read_text())["peak_bytes"] == 1 << 50  # the larger of both


PARENT = """
import sys
from pathlib import Path
import forking
from longrec.comparison import process

def start(*arguments, **streams):
    child = forking.start_child(*arguments, **streams)
    print(child.pid, flush=True)
    return child

process.start_child = start
folder = Path(sys.argv[1])
files = folder / "out.txt", folder / "memory.json"
print(process.run_process(["demo", "--out", str(folder / "demo")], *files, lambda: None))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("killed", ["parent", "child"])
def test_a_kill_of_one_is_seen_by_the_other(tmp_path, killed):
    parent = run_code(PARENT, tmp_path, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    deadline = time.monotonic() + 30
    while not (tmp_path / "demo").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(parent.pid if killed == "parent" else child, signal.SIGKILL)
    printed = parent.communicate(timeout=30)[0]
    if killed == "child":
        assert printed == "killed by signal 9 (SIGKILL), perhaps because memory ran out\n"
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(child)


@pytest.mark.parametrize(
    ("status", "output", "message"),
    [
        (1, "a\nerror: it is full: mend it\n", "exit status 1: it is full: mend it"),
        (2, "error: one\nerror: two\nlines\n", "exit status 2: two\nlines"),
        (
            1,
            "error: x\nTraceback (most recent call last)\n  y\nKeyError: 3\n",
            "exit status 1: KeyError: 3",
        ),
        (1, "", "exit status 1: it said nothing"),
        (-11, "", "killed by signal 11 (SIGSEGV)"),
        (-63, "", "killed by signal 63 (unknown)"),
    ],
)
def test_why_a_process_failed(status, output, message):
    assert why_it_failed(status, output) == message
