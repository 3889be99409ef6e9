"""How samples of tasks alternate and what is skipped, and what rows made by hand mean."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrec_bench.analysis import crossovers, exponents, limits, ratios
from longrec_bench.cost import sweep
from longrec_bench.cost.plots import figures
from longrec_bench.cost.sweep import Sweep
from longrec_bench.cost.systems import FUSED, NAIVE, mixer_names, model_names
from longrec_bench.goals import cost_goals
from longrec_bench.plan import PASSES, CostPlan
from longrec_bench.tables import by_system

BOTH = "forward+backward"


class Answers:
    """Stands for processes: each task costs what a function says; notes the order."""

    def __init__(self, seconds: Any, peak: Any = lambda task: 1000) -> None:
        self.seconds, self.peak, self.asked = seconds, peak, []

    def measure(self, task: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((task["name"], task["length"], task["pass"]))
        seconds = self.seconds(task)
        if seconds is None:
            return {"failed": "killed"}
        found = {"seconds": [seconds, 2 * seconds, 3 * seconds], "processor": 6 * seconds}
        return found | {"peak_bytes": self.peak(task), "setup": 0.0, "operations": 7}


def measured(answers: Answers, **plan: Any) -> Sweep:
    usual = {"batch": 1, "mixers": (FUSED, "hydra"), "models": (), "slots": (), "catalogs": ()}
    whole = Sweep(CostPlan(**usual | plan), answers.measure, lambda *_: None)
    whole.run()
    return whole


# ---- samples


def test_samples_alternate_and_are_summed_up():
    answers = Answers(lambda task: 0.1)
    cells = measured(answers, lengths=(10, 20), rounds=4).cells
    assert len(cells) == 10  # hydra has steps too
    first = answers.asked[:8]  # four rounds of the two tasks of one length and pass
    assert {(length, which) for _, length, which in first} == {(10, "forward")}
    assert all({a[0], b[0]} == {FUSED, "hydra"} for a, b in zip(first[::2], first[1::2]))  # noqa: B905
    assert cells[0]["repeats"] == 12
    assert (cells[0]["seconds_min"], cells[0]["seconds_max"]) == pytest.approx((0.1, 0.3))
    assert cells[0]["seconds_median"] == pytest.approx(0.2)
    assert cells[0]["events_per_second"] == pytest.approx(50)
    assert cells[0]["processor_share"] == pytest.approx(1)


def test_long_tasks_have_two_samples_at_least():
    answers = Answers(lambda task: 5.0)
    measured(answers, mixers=(FUSED,), lengths=(10,), rounds=5, cap=10.0)
    assert answers.asked.count((FUSED, 10, "forward")) == 2


def test_what_would_take_too_long_is_skipped():
    seconds = lambda task: 1e-4 * task["length"] ** (2 if task["name"] == FUSED else 1)  # noqa: E731
    found = measured(Answers(seconds), lengths=(10, 40, 160, 640), cap=6.0)
    fused = [cell["length"] for cell in found.cells if cell["mixer"] == FUSED]
    assert fused == [10, 10, 40, 40, 160, 160]
    assert [(row["mixer"], row["length"]) for row in found.skipped] == [(FUSED, 640)] * 2
    assert all("above the cap of 6 s" in row["why"] for row in found.skipped)


def test_what_would_take_too_much_memory_is_skipped(monkeypatch):
    monkeypatch.setattr(sweep, "available_memory", lambda: 10_000)
    peak = lambda task: 10 * task["length"]  # noqa: E731
    found = measured(Answers(lambda task: 1e-6, peak), mixers=(NAIVE, FUSED), lengths=(10, 100))
    assert [(row["mixer"], row["length"]) for row in found.skipped] == [(NAIVE, 100)] * 2
    assert all("GiB predicted" in row["why"] for row in found.skipped)


def test_what_fails_is_reported_and_not_tried_longer():
    def seconds(task):
        fails = task["name"] == "hydra" and task["length"] == 20 and task["pass"] == "forward"
        return None if fails else 0.01

    answers = Answers(seconds)
    found = measured(answers, mixers=("hydra",), lengths=(10, 20, 40), rounds=3)
    assert answers.asked.count(("hydra", 20, "forward")) == 1
    assert [(row["length"], row["pass"], row["why"]) for row in found.skipped] == [
        (20, "forward", "failed: killed"),
        (40, "forward", "failed at 20"),
        (40, "step", "its state needs a forward pass, which was not measured"),
    ]


def test_losses_take_fewer_targets_where_the_cap_demands_it():
    answers = Answers(lambda task: 1e-6 * task["batch"] * task["catalog"])
    sizes = (1000, 10_000, 100_000)
    cells = measured(answers, mixers=(), catalogs=sizes, cap=10.0).cells
    batches = [(cell["catalog"], cell["batch"]) for cell in cells if cell["loss"] == "full"]
    assert batches == [(1000, 1000), (10_000, 250), (100_000, 25)]


def test_short_histories_are_read_many_at_once_and_reported_each():
    answers = Answers(lambda task: 0.2)
    cells = measured(answers, batch=None, mixers=("hydra",), lengths=(1000, 10_000)).cells
    found = {
        (cell["length"], cell["pass"]): (cell["batch"], cell["seconds_median"]) for cell in cells
    }
    assert found[1000, "forward"] == (4, pytest.approx(0.1))
    assert found[1000, "step"] == found[10_000, "forward"] == (1, pytest.approx(0.4))
    rates = [cell["events_per_second"] for cell in cells if cell["pass"] == "forward"]
    assert rates == pytest.approx([4 * 1000 / 0.4, 10_000 / 0.4])


# ---- what rows mean


def cell(name: str, length: int, seconds: float, which: str = BOTH, **more: Any) -> dict[str, Any]:
    kind = "mixer" if name in mixer_names() else "model"
    figures = {"seconds_median": seconds, "seconds_min": seconds, "seconds_max": seconds}
    more = {"peak_bytes": 1000, "operations": 10, "batch": 1} | more
    return {kind: name, "length": length, "pass": which, **figures, **more}


@settings(max_examples=25)
@given(st.floats(0.5, 2.5), st.floats(1e-7, 1e-3), st.permutations([128, 1024, 4096, 16_384]))
def test_growth_is_fitted_to_long_histories(power, scale, lengths):
    cells = [cell("hydra", n, 1.0 if n < 1024 else scale * n**power) for n in lengths]
    (row,) = exponents(cells)
    assert row["seconds"] == pytest.approx(power)
    assert row["bytes"] == pytest.approx(0, abs=1e-9)
    assert (row["from"], row["to"]) == (1024, 16_384)


@settings(max_examples=25)
@given(st.floats(150, 60_000))
def test_crossover_is_where_the_ratio_is_one(length):
    """Of a linear cost and a quadratic one, between lengths that were measured."""
    lengths = (128, 512, 4096, 65_536)
    cells = [cell("softmax", n, 1e-6 * n * n) for n in lengths]
    cells += [cell("hydra", n, 1e-6 * n * length) for n in lengths]
    (row,) = crossovers(cells)
    assert row["length"] == pytest.approx(length)
    assert not row["everywhere"]


def test_crossover_at_an_end():
    cells = [cell("softmax", n, 1.0) for n in (8, 16)]
    always, never = ([cell("hydra", n, s) for n in (8, 16)] for s in (0.5, 2.0))
    assert crossovers(cells + always)[0]["length"] == 8
    assert crossovers(cells + never)[0]["length"] is None


def test_ratios_stand_beside_their_ceiling():
    cells = [cell("sasrec", 64, 6.0), cell("elastic", 64, 3.0, peak_bytes=500)]
    (row,) = ratios(cells)
    assert (row["ratio"], row["memory"], row["ceiling"]) == (2.0, 0.5, None)
    assert ratios([*cells, cell("free", 64, 2.0)])[0]["ceiling"] == 3.0
    assert ratios([cell("elastic", 64, 3.0)]) == []


def test_limits_are_operations_over_the_best_rate():
    rates = {"gigaflops float32 a": 2.0, "gigaflops float32 b": 4.0, "gigabytes copied": 1.0}
    (row,) = limits([cell("hydra", 2048, 2.0, operations=2 * 10**9)], rates)
    assert row["operations_seconds"] == pytest.approx(0.5)
    assert row["share"] == pytest.approx(0.25)
    assert row["bytes_seconds"] == pytest.approx(4 * 4 * 64 * 2048 / 1e9)


def test_a_system_has_a_line_with_its_step_and_its_state():
    cells = [cell("sasrec", n, 6e-3, state_bytes=None) for n in (64, 128)]
    for which in PASSES:
        cells += [cell("elastic", n, 3e-3, which, state_bytes=18_464) for n in (64, 128)]
    table = by_system(cells, "model", (64, 128, 256))
    assert table.columns == [
        *("model", "forward+backward, ms at 64", "forward+backward, ms at 128"),
        *("times as fast as sasrec at 128", "forward, ms at 128", "forward+backward, MiB at 128"),
        *("a step, ms", "state"),
    ]
    assert [line[0] for line in table.lines] == ["sasrec", "elastic"]
    assert table.lines[0][-2:] == ["", ""]
    assert table.lines[1][1:5] == ["3.00", "3.00", "2.00", "3.00"]
    assert table.lines[1][-2:] == ["3.00", "18.0 KiB"]
    assert len(by_system(cells, "model").columns) == 7  # the longest alone
    assert by_system(cells, "mixer").lines == []


def test_more_systems_than_colours_have_lines_of_their_own():
    names = model_names()
    cells = [{**cell("sasrec", n, 1e-3 * n), "model": name} for name in names for n in (64, 128)]
    (time,) = [forms for name, forms in figures(cells) if name == "model-time"]
    text = time["svg"].decode()
    assert all(f">{name}<" in text for name in names)


def goal_cells(fast: float) -> list[dict[str, Any]]:
    """Rows of a machine where what is linear is so many times as fast as need be."""
    found = []
    for n in (200, 512, 1024, 4096, 16_384, 65_536, 1_048_576):
        for which in ("forward", BOTH):
            found += [
                cell(name, n, 1e-6 * n * n, which, peak_bytes=peak)
                for name, peak in (("softmax", 100), ("sasrec", 100), (NAIVE, 10_000))
            ]
            found += [
                cell(name, n, 1e-6 * n * 150 / fast, which, peak_bytes=120 / fast)
                | {"events_per_second": 1.0}
                for name in ("dispatcher", "elastic", "hydrarec")
            ]
        found.append(cell("sasrec-naive", n, 1.0, peak_bytes=10_000))
    for name in ("training", "stream"):
        for slots, seconds in ((1 << 10, 1.0), (1 << 20, 1.1 / fast)):
            found.append({"bank": name, "slots": slots, "length": 1, "seconds_median": seconds})
    return found


def test_goals_are_met_or_not():
    met, missed = cost_goals(goal_cells(1.0)), cost_goals(goal_cells(0.001))
    assert len(met) == len(missed) == 14 + 4 + 1 + 1 + 2
    assert [row["goal"] for row in met if not row["met"]] == []
    # Growth and boundedness do not depend on speed.
    still = [row["goal"] for row in missed if row["met"]]
    assert len(still) == 5
    assert all("grows" in words or "encodes" in words for words in still)
    assert cost_goals([]) == []
