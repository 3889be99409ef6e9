"""A training run as a process that can be killed, of HISTORIES RUN SETTINGS-AS-JSON.

Prints a line per step; ends by writing final.safetensors and final.json into RUN.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from longrec.config.training import TrainConfig
from longrec.data.histories import open_histories
from longrec.data.splits import make_split
from longrec.models import MODELS, build_model
from longrec.training.fit import fit


def train(histories: Path, run: Path, settings: dict[str, Any], tell: Any = None) -> None:
    """Train, going on from a checkpoint if there is one."""
    h = open_histories(histories)
    name, model_settings = settings["model"], settings.get("model_settings", {})
    torch.manual_seed(settings["training"].get("seed", 0))
    model = build_model(name, MODELS[name].config_class(**model_settings), h.n_items)
    config = TrainConfig(**settings["training"])
    split, first = make_split(config.protocol, h, config.cut), settings.get("validate_first", False)
    result = fit(model, h, split, config, run, True, tell, validate_first=first)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, run / "final.safetensors")
    (run / "final.json").write_text(json.dumps(asdict(result)))


def main() -> None:
    torch.set_num_threads(1)
    train(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        json.loads(sys.argv[3]),
        lambda report: print(report.status.total_steps, flush=True),
    )
