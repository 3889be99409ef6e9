"""The type of products is asked of the device, so that no load changes a run's numbers."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from training.small_runs import model_of, run_of

from longrec.core import processor
from longrec.training.precision import choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("abilities", "chosen"), [({"avx2"}, "float32"), ({"avx512_bf16"}, "bfloat16")]
)
def test_auto_is_what_the_processor_says(monkeypatch, abilities, chosen):
    monkeypatch.setattr(processor, "processor_abilities", lambda: frozenset(abilities))
    assert choose_precision("auto", CPU) == chosen
    assert choose_precision("float32", CPU) == "float32"
    assert choose_precision("bfloat16", CPU) == "bfloat16"


def test_nothing_is_timed(monkeypatch):
    def forbidden() -> float:
        raise AssertionError("a choice by a stopwatch changes with the load")

    for clock in ("perf_counter", "monotonic", "thread_time", "process_time", "time"):
        monkeypatch.setattr(time, clock, forbidden)
    choose_precision("auto", CPU)


def test_a_busy_machine_gives_the_same_numbers(tmp_path, make_histories, ring):
    histories, found, quiet = make_histories(ring(20, 25, 3, 30), n_items=25), [], threading.Event()

    def work() -> None:
        while not quiet.is_set():
            torch.ones(200, 200) @ torch.ones(200, 200)

    for busy in (0, 3):
        threads = [threading.Thread(target=work) for _ in range(busy)]
        for thread in threads:
            thread.start()
        try:
            result = run_of(model_of("elastic", 25), histories, tmp_path / str(busy))
        finally:
            quiet.set()
            for thread in threads:
                thread.join()
        quiet.clear()
        found.append((result.precision, [(row.loss, row.ndcg10) for row in result.rows]))
    assert found[0] == found[1]
