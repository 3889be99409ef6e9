"""Facts of the machine and of versions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from longrec.core.machine import (
    file_system,
    load_average,
    machine,
    machine_text,
    versions,
    versions_text,
)
from longrec.core.memory import available_memory


def test_in_words():
    found = {"processor": "P", "cores": 2, "gpu": None}
    assert machine_text(found) == "P, 2 cores"
    assert machine_text(found | {"gpu": "G"}) == "P, 2 cores, G"
    assert machine_text(machine()).startswith(machine()["processor"])
    assert versions("no such package")["torch"] == torch.__version__
    assert versions_text(versions("no such package")).endswith("no such package not installed")


def test_figures():
    assert 0 < available_memory() < 1 << 50
    assert load_average() is None or load_average() >= 0


@pytest.mark.skipif(not Path("/proc/self/mounts").exists(), reason="this system does not tell")
def test_file_systems():
    assert file_system(Path("/proc/self")) == "proc"
    with open("/proc/self/mounts") as mounts:
        kinds = {line.split()[1]: line.split()[2] for line in mounts}
    assert file_system(Path("/")) == kinds["/"]
