"""The line of a training in narrow terminals, and where there is none."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace

import pytest
from rich.console import Console

from longrec.artifact.training_log import ValidationRow
from longrec.core import console
from longrec.runs.progress_display import TrainingProgress, fitting
from longrec.training.progress import FitStatus, Report

PARTS = ["elastic  epoch 3/200", "best NDCG@10 0.1234", "loss 5.123", "12 min left at most"]


@pytest.mark.parametrize(
    ("room", "kept"), [(10, 1), (40, 1), (41, 2), (52, 2), (53, 3), (73, 3), (74, 4), (200, 4)]
)
def test_what_matters_most_stands_as_long_as_there_is_room(room, kept):
    assert fitting(PARTS, room) == "  ".join(PARTS[:kept])


@pytest.mark.parametrize("width", [80, 60])
def test_the_epoch_and_the_figure_stand_in_a_narrow_terminal(width, monkeypatch):
    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(console, "err", terminal)
    status = FitStatus(epoch=11, step=40, total_steps=900, events=90_000, seconds=700, best=0.1234)
    with TrainingProgress("hydrarec-bidirectional", 200, 90.0) as display:
        display(Report(status, 80, 5.1234, 1234.5))
        display._bar.refresh()
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue()))
    assert max(map(len, lines)) <= width
    told = [line for line in lines if "epoch" in line]
    assert any("epoch 12/200  best NDCG@10 0.1234" in line for line in told), lines
    assert not any("…" in line for line in told)


def test_without_a_terminal_each_validation_leaves_a_line_and_nothing_else(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=shown, width=160))
    with TrainingProgress("elastic", 200, None) as display:
        display(Report(FitStatus(epoch=1, step=1, total_steps=5, seconds=3), 80, 5.1, 100.0))
    assert shown.getvalue() == ""


def test_a_final_run_tells_of_how_many_epochs_and_a_part_of_one_is_none(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=shown, width=160))
    nan = math.nan
    one = ValidationRow(7, 70, 5.0, 900, 2.0, nan, nan, False, nan, nan, nan, 0)
    with TrainingProgress("elastic", 9, None) as display:
        for rows in ([], [one], [one, replace(one, seconds=6.0)]):
            status = FitStatus(epoch=7, step=1, total_steps=5, seconds=6, rows=rows)
            display(Report(status, 80, 5.1, 100.0))
    assert shown.getvalue().splitlines() == [
        "elastic  epoch 7 of 9  loss 2.0000  5.0 s",
        "elastic  epoch 7 of 9 and a part  loss 2.0000  6.0 s",
    ]
