"""One of several processes that fit models together, of JOBS-AS-JSON; see `fit_all`.

What the process came to is written to OUT-RANK.json, and the weights to OUT-RANK-JOB.safetensors.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from models import skeletons
from safetensors.torch import save_file

from longrec.config.training import TrainConfig
from longrec.core.errors import LongrecError
from longrec.data.histories import open_histories
from longrec.data.splits import make_split
from longrec.models import MODELS, build_model
from longrec.training.fit import fit
from longrec.training.meeting import joined


class Stopped(BaseException):
    """Stands for a kill within the process."""


def fit_all(jobs: list[dict[str, Any]], out: Path, rank: int = 0) -> None:
    """Fit model after model, in float64, so that rounding is far below what is compared.

    A job has histories, run (its folder), name, model, training, and perhaps stop_at: the step
    after which it is cut off, and teachers: models, as they are drawn.
    """
    skeletons.register(pytest.MonkeyPatch())
    told = []
    for number, job in enumerate(jobs):
        histories, run = open_histories(job["histories"]), Path(job["run"])
        run.mkdir(exist_ok=True)
        torch.manual_seed(7)
        teachers = [
            build_model(taught_by, MODELS[taught_by].config_class(dim=6, layers=1), 25).double()
            for taught_by in job.get("teachers", ())
        ]
        torch.manual_seed(rank)  # as if generators differed: all begin with what rank 0 draws
        config_class = MODELS[job["name"]].config_class
        model = build_model(job["name"], config_class(**job["model"]), histories.n_items).double()
        config = TrainConfig(**job["training"])
        split = make_split(config.protocol, histories, config.cut)
        losses: list[float] = []
        held: list[int] = []

        def look(
            report: Any, job: Any = job, losses: Any = losses, held: Any = held, model: Any = model
        ) -> None:
            held.append(len(model.items))
            if report.validating is None and report.steps > 1:
                losses.append(report.loss)
                if report.status.total_steps == job.get("stop_at"):
                    raise Stopped

        asked = job.get("end_after")  # which rank 0 alone decides
        said = None if asked is None else (lambda p, asked=asked: p.epoch >= asked and rank == 0)
        result: dict[str, Any] = {}
        try:
            asked_for = run, True, look
            found = fit(
                *(model, histories, split, config, *asked_for), on_epoch=said, teachers=teachers
            )
            result = asdict(found)
        except LongrecError as error:
            result["error"] = str(error)
        except Stopped:
            result["stopped"] = True
        save_file(
            {name: x.contiguous() for name, x in model.state_dict().items()},
            out.with_name(f"{out.name}-{rank}-{number}.safetensors"),
        )
        told.append({"losses": losses, "held": max(held), "result": result})
    out.with_name(f"{out.name}-{rank}.json").write_text(json.dumps(told))


def main() -> None:
    torch.set_num_threads(1)
    with joined() as processes:
        fit_all(json.loads(sys.argv[1]), Path(sys.argv[2]), processes.rank)
