"""Histories extended by several processes are those that one process makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from of_one_process import Here

import longrec
from longrec.cluster.log_tasks import Old
from longrec.cluster.prepare import LogWorkers
from longrec.core.errors import DataError
from longrec.data.histories import Histories

KEEP = ["word", "weight"]


def day(number: int, users: int, items: int) -> pl.DataFrame:
    draw = np.random.default_rng(number)
    return pl.DataFrame(
        {
            "user": [f"u{one}" for one in draw.integers(0, users, 90)],
            "item": draw.integers(0, items, 90),
            "time": draw.integers(0, 60, 90) + 1_600_000_000 + 30 * number,
            "word": draw.choice([*("ab", "", "c"), f"of day {number}"], 90),
            "weight": draw.random(90),
        }
    )


def told(histories: Histories, lines: list[str]) -> tuple[object, ...]:
    histories.verify()
    meta = histories.meta
    counts = histories.catalog.counts.tolist()
    spans = meta.n_users, meta.n_items, meta.first_time, meta.last_time
    return histories.fingerprint, counts, spans, meta.labels, meta.dropped, meta.source, lines


@pytest.mark.slow
def test_several_processes_extend_as_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longrec.cluster.portions.LEAST", 1500)
    monkeypatch.setattr("longrec.cluster.prepare.SHARD", 50)
    first, second, third = day(0, 20, 30), day(1, 26, 34), day(2, 30, 60)
    first.write_csv(tmp_path / "0.csv")
    pl.concat([second, first.head(25)]).write_csv(tmp_path / "1.csv")  # some are held already
    third.write_parquet(tmp_path / "2.parquet", row_group_size=20)
    monkeypatch.chdir(tmp_path)
    place, results = Path("histories"), []
    for workers in (None, LogWorkers(Here())):
        done, lines = (
            longrec.prepare("0.csv", place, columns=KEEP, overwrite=True),
            [],
        )
        for log in ("1.csv", "2.parquet"):  # behind one folder, and behind shards
            done = longrec.prepare(
                log, place, extend=done, workers=workers, overwrite=True, report=lines.append
            )
        results.append(told(done, lines))
        assert len(done.meta.shards) > 3 or workers is None
        again = longrec.prepare("1.csv", "again", extend=done, overwrite=True)  # by one process
        results[-1] += (again.fingerprint,)
    assert results[0] == results[1]
    assert "older than their user's last event" in "\n".join(results[0][6])


def test_histories_that_are_replaced_while_they_are_extended_are_told(tmp_path: Path) -> None:
    old = longrec.prepare(day(0, 5, 5), tmp_path / "old")
    part = Old(old.path, old.fingerprint, [0, 2, old.n_users])
    assert [part.of_shard(n).user_ids.to_list() for n in (0, 1, 2)] == [
        *(["u0", "u1"], ["u2", "u3", "u4"], [])
    ]
    longrec.prepare(day(1, 5, 5), old.path, overwrite=True)
    with pytest.raises(DataError, match="old was replaced while it was in use: run the command"):
        Old(old.path, "of before", [0, 5]).of_shard(0)
