"""benchmarks/xlong.py at a thousandth of the size: its log, its cells, and its timed steps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import longrec

ROOT = Path(__file__).parents[2]


def run(*argv: object) -> str:
    command = [sys.executable, *map(str, argv)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_a_small_log_goes_through_the_first_steps_once(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    cells = folder / "cells.jsonl"
    command = ROOT / "benchmarks" / "xlong.py", folder, "log", "prepare", "--share", "0.001"
    run(*command)
    found = [json.loads(line) for line in cells.read_text().splitlines()]
    assert [cell["step"] for cell in found] == ["log", "prepare"]
    assert all(cell["memory"] > 0 and cell["disk"] > 0 for cell in found)
    assert str(tmp_path) not in cells.read_text()
    histories = longrec.open_histories(folder / "histories")
    assert (histories.n_users, histories.n_items) == (70, 2123)
    assert 0.7 < histories.n_events / 66_800 < 1.3
    assert run(*command).splitlines() == [
        "log is measured already",
        "prepare is measured already",
    ]
    assert "| prepare | 0.001 |" in run(ROOT / "benchmarks" / "xlong.py", folder, "--table")
    steps = ROOT / "benchmarks" / "xlong_steps.py"
    timed = json.loads(run(steps, folder / "histories", "elastic", "--steps", 1))
    assert timed["step_ms"] > timed["encode_ms"] > 0 < timed["refresh_ms"]
