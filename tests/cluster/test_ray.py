"""What several processes prepare and recommend is what one does; and what becomes of faults."""

from __future__ import annotations

import os
import resource
import signal
import socket
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import longrec
from longrec.cli import main as cli
from longrec.cli.common import cluster_of
from longrec.cluster import log_tasks
from longrec.cluster.prepare import LogWorkers, _bounds, _shard_of
from longrec.cluster.ray_cluster import Cluster, _check_answers, ray_cluster
from longrec.cluster.scoring import score_block
from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.data.engine import Engine
from longrec.data.histories import Histories

KEEP = ["weight", "word"]


def write_log(folder: Path, events: int = 3000) -> Path:
    """Files of text: one user with a third of all events, ties over files, things that are missing.

    The first file is by far the largest, so that those behind it are read before it is.
    """
    draw = np.random.default_rng(0)
    users = np.where(draw.random(events) < 0.33, 7, draw.integers(0, 90, events))
    frame = pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in users],
            "item_id": draw.integers(0, 60, events),
            "timestamp": draw.integers(1_600_000_000, 1_600_000_050, events),
            "weight": [f"{one:.3f}" if one > 0.1 else "" for one in draw.random(events)],
            "word": draw.choice(["zig", "", "zag", "a,b"], events),
        }
    )
    folder.mkdir()
    bounds = [0, events * 8 // 10, events * 9 // 10, events]
    for number, (low, high) in enumerate(pairwise(bounds)):
        part = frame[low:high]
        if number == 2:  # columns in another order, one word in no row, and one event without user
            part = part.select(reversed(part.columns)).with_columns(word=pl.lit(""))
            part[5, "user_id"] = ""
        part.write_csv(folder / f"day-{number}.csv")
    text = (folder / "day-1.csv").read_text().splitlines()
    again = "\n".join([*text[:40], text[0], *text[40:]])  # the header again, in the middle
    (folder / "day-1.csv").write_text(again + "\n")
    return folder


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("logs") / "log")


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first file is cut, and there are more shards than processes."""
    monkeypatch.setattr("longrec.cluster.portions.MOST", 20_000)
    monkeypatch.setattr("longrec.cluster.prepare.SHARD", 500)


def both(cluster: Cluster, log: Any, place: Path, **options: Any) -> tuple[Histories, Histories]:
    """The log prepared here, and by the cluster."""
    options = {"columns": KEEP, "skip_bad_rows": True} | options
    one = longrec.prepare(log, place / "one", overwrite=True, **options)
    workers = LogWorkers(cluster)
    many = longrec.prepare(log, place / "many", overwrite=True, workers=workers, **options)
    return one, many


def replace_tasks(monkeypatch: pytest.MonkeyPatch, tasks: type) -> None:
    """Let the command hand in other calls than those of `log_tasks`."""
    for room in ("prepare", "reading"):
        monkeypatch.setattr(f"longrec.cluster.{room}.log_tasks", tasks)


def is_same(one: Histories, many: Histories) -> bool:
    """Whether users, items, order, times, columns and counts are the same."""
    many.verify()
    assert many.fingerprint == one.fingerprint
    assert np.array_equal(many.catalog.counts, one.catalog.counts)
    assert many.meta.dropped == one.meta.dropped
    assert many.meta.labels == one.meta.labels
    assert many.meta.options == one.meta.options
    own = ("n_users", "n_items", "n_events", "time_unit", "first_time", "last_time", "source")
    assert [getattr(many.meta, name) for name in own] == [getattr(one.meta, name) for name in own]
    return len(many.meta.shards) > 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k_core": 12, "min_length": 25, "dedup": "same-time"},
    ],
    ids=["whole", "filters"],
)
def test_the_result_is_that_of_one_machine(
    cluster: Cluster, log: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    one, many = both(cluster, log, tmp_path, **options)
    assert is_same(one, many)
    bad = [(h.path / "bad_rows.csv").read_text().splitlines() for h in (one, many)]
    assert sorted(bad[0]) == sorted(bad[1])
    assert len(bad[0]) == 3
    assert sorted(os.listdir(tmp_path)) == ["many", "one"]  # no stage is left


@pytest.mark.slow
def test_a_row_that_cannot_be_used_is_named_as_on_one_machine(
    cluster: Cluster, log: Path, tmp_path: Path
) -> None:
    told = []
    for workers in (None, LogWorkers(cluster)):
        with pytest.raises(DataError) as error:
            longrec.prepare(log / "day-2.csv", tmp_path / "out", workers=workers)
        told.append(str(error.value))
    assert told[0] == told[1]
    assert "row 6" in told[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(
    cluster: Cluster, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "killed"

    def load(*arguments: Any) -> Any:
        found = log_tasks.load(*arguments)
        if arguments[1] == 1 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)  # when its file is there, and nobody was told
        return found

    def write(*arguments: Any) -> Any:
        found = log_tasks.write(*arguments)
        if arguments[1] == 2 and not (again := killed.with_name("again")).exists():
            again.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    class Replaced:
        divide, sift = log_tasks.divide, log_tasks.sift

    Replaced.load, Replaced.write = staticmethod(load), staticmethod(write)
    replace_tasks(monkeypatch, Replaced)
    one, many = both(cluster, log, tmp_path)
    assert is_same(one, many)
    assert killed.exists()
    assert killed.with_name("again").exists()


@pytest.mark.slow
def test_a_worker_that_is_killed_again_and_again_is_told(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(number: int) -> Any:
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    monkeypatch.setattr("longrec.cluster.ray_cluster.RETRIES", 1)
    with pytest.raises(LongrecError, match=r"was lost 2 times .* run the command again") as error:
        list(cluster.run(call, [(0,), (1,), (2,)]))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_full_disk_under_the_workers_is_told(
    cluster: Cluster, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def divide(*arguments: Any) -> Any:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        try:
            return log_tasks.divide(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    class Replaced:
        load, sift, write = log_tasks.load, log_tasks.sift, log_tasks.write

    Replaced.divide = staticmethod(divide)
    replace_tasks(monkeypatch, Replaced)
    with pytest.raises(LongrecError, match=r"disk .*full .*free space on it") as error:
        longrec.prepare(log, tmp_path / "out", skip_bad_rows=True, workers=LogWorkers(cluster))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_line_prepares_with_ray(
    cluster: Cluster, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(name: str, out: str, *more: str) -> Histories:
        words = ["longrec", "prepare", str(log / name), "--out", str(tmp_path / out)]
        monkeypatch.setattr("sys.argv", [*words, "--skip-bad-rows", *more])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        return longrec.open_histories(tmp_path / out)

    first = prepare("day-2.csv", "out", "--engine", "ray")
    assert first.n_events == 299
    extend = "--extend", str(first.path)
    both = prepare("day-1.csv", "both", *extend, "--engine", "ray")
    assert both.fingerprint == prepare("day-1.csv", "here", *extend).fingerprint
    assert both.n_events > first.n_events


@pytest.mark.slow
def test_the_command_line_recommends_with_ray(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(2)
    users, items = draw.integers(0, 70, 900), [f"i{one}" for one in draw.integers(0, 40, 900)]
    frame = pl.DataFrame({"user": users, "item": items, "time": np.arange(900)})
    data = longrec.prepare(frame, tmp_path / "histories", time_unit="s")
    settings = {"dim": 8, "layers": 1, "heads": 1, "experts": 2, "ffn_dim": 8, "transitions": 0}
    longrec.train(data, model="elastic", out=tmp_path / "run", max_epochs=1, **settings)
    monkeypatch.setattr("longrec.retrieval.users_lists.EVENTS", 200)

    def lists(name: str, *more: str) -> pl.DataFrame:
        words = ["longrec", "recommend", str(tmp_path / "run"), "--all", "-k", "4", *more]
        monkeypatch.setattr("sys.argv", [*words, "--out", str(tmp_path / name)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        return pl.read_parquet(tmp_path / name)

    assert lists("many.parquet", "--engine", "ray").equals(lists("one.parquet"))
    among = ["--exclude", "i3", "i7", "--exclude-seen", "no"]
    many, one = lists("many.parquet", "--engine", "ray", *among), lists("one.parquet", *among)
    assert many.equals(one)
    assert many["user"].unique(maintain_order=True).to_list() == data.users.to_list()
    assert not many["item"].is_in(["i3", "i7"]).any()
    (tmp_path / "run" / "model.safetensors").write_bytes(b"another")
    with pytest.raises(DataError, match=r"model\.safetensors is not what was saved"):
        list(
            cluster.run(
                score_block,
                [((str(tmp_path / "run"), "1", "no", "f", ()), np.arange(3), 4, True, None)],
            )
        )


@pytest.mark.slow
def test_a_cluster_that_is_there_answers(cluster: Cluster) -> None:
    def without(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    with pytest.raises(LongrecError, match="install this one on all of them"):
        list(cluster.run(without, [("longrec.data",)]))
    with pytest.raises(ModuleNotFoundError, match="plugin"):
        list(cluster.run(without, [("plugin",)]))
    import ray

    _check_answers(ray.get_runtime_context().gcs_address)
    assert cluster.slots == cluster.beside == 2


def test_an_address_where_nobody_answers_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("longrec.cluster.ray_cluster.WAIT", 0.2)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        closed = "127.0.0.1:1"
        other.listen()
        silent = f"127.0.0.1:{other.getsockname()[1]}"
        for address in (closed, silent):
            with pytest.raises(LongrecError, match=f"no Ray cluster answers at {address} .*ray st"):
                ray_cluster(address).__enter__()
    for address in ("ray://head:10001", "head", ":1", "head:port"):
        with pytest.raises(UsageError, match="give HOST:PORT"):
            ray_cluster(address).__enter__()


def test_a_cluster_of_this_machine_that_is_gone_is_told_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1\n")
    with pytest.raises(LongrecError, match=r"no Ray cluster answers at 127\.0\.0\.1:1 "):
        ray_cluster("auto").__enter__()


def test_what_ray_says_is_no_part_of_results(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longrec.cluster.ray_cluster.ray_cluster", lambda *_: nullcontext())
    with cluster_of("ray", None):
        print("(raylet) A worker died")
    print("[]")
    assert capsys.readouterr() == ("[]\n", "(raylet) A worker died\n")
    with pytest.raises(UsageError, match="--engine ray, too"), cluster_of(None, "head:6379"):
        pass


def test_every_user_is_in_one_shard() -> None:
    engine = Engine()
    engine.run(
        "CREATE TABLE events AS SELECT chr((65 + (random() * 20)::INT)) AS user, range AS row "
        "FROM range(2000)"
    )
    events = type("Events", (), {"n_events": 2000})
    bounds = _bounds(engine, events, 7)
    shard = _shard_of("user", bounds, "VARCHAR")
    found = engine.frame(f"SELECT user, {shard} AS shard FROM events GROUP BY ALL ORDER BY 1")
    engine.close()
    assert found["user"].is_unique().all()
    assert found["shard"].is_sorted()
    assert found["shard"].n_unique() == len(bounds) + 1 == 7
    assert _shard_of("user", [], "VARCHAR") == "0"
