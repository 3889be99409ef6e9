"""How many threads compute: what the process may use, what its control groups leave, what is asked
for; and that they sleep while they wait."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from longrec.core import control_groups, threads


@pytest.fixture(autouse=True)
def _machine_of_four_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(threads, "usable_cores", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(control_groups, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(control_groups, "_TOP", tmp_path)
    for name in (*threads._NUMBERS, *threads.ASLEEP):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def limit(folder: Path, version: int, given: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if version == 2:
        (folder / "cpu.max").write_text(f"{'max' if given is None else given} 100000\n")
    else:
        (folder / "cpu.cfs_quota_us").write_text(f"{-1 if given is None else given}\n")
        (folder / "cpu.cfs_period_us").write_text("100000\n")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("own", "above", "number"),
    [(None, None, 4), (250_000, None, 2), (None, 150_000, 1), (300_000, 200_000, 2),
     (20_000, None, 1), (900_000, None, 4)],
)  # fmt: skip
def test_the_narrowest_quota_of_the_groups_counts(version, own, above, number, tmp_path):
    top = tmp_path / "cpu" if version == 1 else tmp_path
    line = "3:cpu,cpuacct:/a/b" if version == 1 else "0::/a/b"
    (tmp_path / "cgroup").write_text(f"9:name=systemd:/\n5:cpuset:/\n{line}\n")
    limit(top / "a" / "b", version, own)
    limit(top / "a", version, above)
    found = threads.choose(None, small=False)
    assert found.number == number
    assert ("control group" in found.why) == (number < 4)


def test_in_a_container_the_top_counts_where_its_own_path_is_not_seen(tmp_path):
    (tmp_path / "cgroup").write_text("0::/docker/0123\n")
    limit(tmp_path, 2, 200_000)
    assert threads.quota() == 2.0
    assert str(threads.of_machine()) == "threads: 2 (its control group gets 2 of 4 cores)"


def test_what_is_asked_for_comes_first(monkeypatch):
    assert threads.choose(7, small=True) == (7, "--threads")
    assert threads.choose(None, small=True).number == 1
    assert str(threads.choose(None, small=False)) == "threads: 4 (it may use 4 cores)"
    monkeypatch.setenv(threads.NUMBER, "3")
    assert threads.choose(None, small=True) == (3, "OMP_NUM_THREADS")
    assert threads.choose(2, small=True).number == 2
    for none in ("", "many", "0"):
        monkeypatch.setenv(threads.NUMBER, none)
        assert threads.choose(None, small=False).number == 4
    before = torch.get_num_threads()
    threads.use(threads.Threads(2, "a test"))
    assert torch.get_num_threads() == 2
    assert os.environ["OPENBLAS_NUM_THREADS"] == "2"
    torch.set_num_threads(before)


def test_waiting_threads_sleep_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    threads.sleep_while_waiting()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == "4"
