"""A run that cannot be served leaves the old model at work; log, metrics and /v1/model say why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from models.small_models import make
from serving.http.served import LocalServer, server_of
from serving.http.test_app import check_answer, events_of
from serving.http.test_serve import wait_for
from serving.small_streams import FIRST, quick_engine, recommender, small_stream

from longrec.artifact.artifact import Artifact
from longrec.config.training import TrainConfig
from longrec.data.catalog import Catalog
from longrec.recommender import Recommender
from longrec.serving.http import service as service_module
from longrec.serving.stream import stream as stream_module

T0 = 1_763_700_000


def damaged(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender("hydrarec").save(run)
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def missing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pass


def a_file(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write_text("no run")


def vanishing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes while it is being loaded."""
    recommender("hydrarec").save(run)

    def load(folder: Path) -> Artifact:
        (folder / "catalog.parquet").unlink()
        return before(folder)

    before = Artifact.load
    monkeypatch.setattr(service_module.Artifact, "load", load)


def no_stream(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that sees later events."""
    model = make("elastic-paper")
    known = recommender("elastic").catalog
    Recommender("elastic-paper", model, model.config, TrainConfig(), known).save(run)


def another_catalog(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rec = recommender("hydrarec")
    ids = pl.Series("id", np.arange(FIRST - 2, FIRST - 2 + rec.catalog.n_items))
    replace(rec, catalog=Catalog(ids, rec.catalog.counts)).save(run)


def no_room(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender("hydrarec").save(run)
    monkeypatch.setattr("longrec.core.memory.available_memory", lambda: 1000)


def no_memory(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender("hydrarec").save(run)

    def load(folder: Path) -> Artifact:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …")

    monkeypatch.setattr(service_module.Artifact, "load", load)


BAD = {
    damaged: "model.safetensors",
    missing: "no such folder",
    a_file: "run",
    vanishing: "catalog.parquet",
    no_stream: "elastic-paper",
    another_catalog: "--another-catalog",
    no_room: "not enough memory for",
    no_memory: "not enough memory",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = tmp_path_factory.mktemp("failed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream_module, "Engine", quick_engine)
        settings = {"durability": "process"}
        stream = small_stream("elastic", path / "users")
        with server_of(stream, path, settings=settings) as server:
            server.post("/v1/events", events_of("ann", [FIRST, FIRST + 4], T0)).raise_for_status()
            yield server, path / "run"


@pytest.mark.parametrize("make_bad", BAD, ids=[make_bad.__name__ for make_bad in BAD])
def test_a_run_that_cannot_be_served_changes_nothing(
    server: tuple[LocalServer, Path], make_bad: Callable, monkeypatch, caplog
) -> None:
    here, run = server
    if run.exists():
        shutil.rmtree(run) if run.is_dir() else run.unlink()
    monkeypatch.setattr("longrec.serving.http.access_log.log.propagate", True)
    make_bad(run, monkeypatch)

    def failed() -> float:
        [line] = [
            line
            for line in here.client.get("/metrics").text.splitlines()
            if line.startswith('longrec_swaps_total{outcome="failed"}')
        ] or ["x 0"]
        return float(line.split()[1])

    before = failed()
    here.loop.call_soon_threadsafe(here.server.reloader.begin)
    wait_for(lambda: failed() == before + 1)
    wait_for(lambda: here.server.reloader._task.done())
    model = here.client.get("/v1/model").json()
    assert (model["name"], model["swap"]["state"]) == ("elastic", "failed")
    assert BAD[make_bad] in model["swap"]["error"]
    assert "\n" not in model["swap"]["error"]
    [line] = [one for one in caplog.records if one.levelname == "ERROR"]
    assert line.getMessage() == "swap: failed, the old model stays"
    assert line.fields == {"why": model["swap"]["error"]}
    answer = here.post("/v1/recommendations", {"user": "ann"}).json()
    check_answer("elastic", answer, [(FIRST, T0), (FIRST + 4, T0 + 60)], 10)
