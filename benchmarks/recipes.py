"""Train models for some minutes and keep what each reaches on validation, for the recipe "auto".

    taskset -c 1 python benchmarks/recipes.py beauty=histories --minutes 4 auto elastic:dropout=0.5

A cell is a log, a model with its settings, and minutes of one core's time (clock=processor, which
others on the machine do not shorten). It becomes one line of benchmarks/recipes/cells.jsonl with
aggregates alone, and is not trained again. Test targets are never looked at.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import longrec
from longrec.comparison.plan import AUTO, parse_variant
from longrec.config.border import changed_settings
from longrec.runs.train import train

CELLS = Path(__file__).with_suffix("") / "cells.jsonl"


def main() -> None:
    """Train the cells that are not there yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("log", help="NAME=FOLDER of prepared histories")
    parser.add_argument("cells", nargs="+", help="a model, or NAME:KEY=VALUE:KEY=VALUE")
    parser.add_argument("--minutes", type=float, default=4.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    log, _, folder = given.log.partition("=")
    kept = [json.loads(line) for line in CELLS.read_text().splitlines()] if CELLS.exists() else []
    for text in given.cells:
        about = {"log": log, "cell": text, "minutes": given.minutes}
        if not any(about.items() <= cell.items() for cell in kept):
            cell = about | measured(folder, text, given.minutes)
            with CELLS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(cell) + "\n")


def measured(folder: str, text: str, minutes: float) -> dict[str, Any]:
    """What one cell reached on the validation targets, and by when."""
    name, settings = parse_variant(text)
    model, recipe = (None, "auto") if name == AUTO else (name, "own")
    run: dict[str, Any] = {"clock": "processor", "max_minutes": minutes, "progress": False}
    run["recipe"] = recipe
    found = train(longrec.open_histories(folder), model, None, **run, **settings)
    about, curve = found.provenance, found.curve
    ending, added = about["training"], about.get("transitions") or {}
    return {
        "trained": found.name,
        "settings": changed_settings(found.model_config, found.train_config),
        "epochs": ending["epochs"],
        "events": ending["events"],
        "seconds": round(ending["seconds"], 1),
        "stop": ending["stop"],
        "ndcg10": ending["validation"]["served/ndcg@10"],
        "without_transitions": added.get("ndcg10_without"),
        "weight": added.get("weight"),
        "seconds_of_validations": [round(x, 1) for x in curve["seconds"]],
        "ndcg10_of_validations": [round(x, 5) for x in curve["ndcg10"]],
        **{key: about[key] for key in ("commit", "machine", "versions")},
    }


if __name__ == "__main__":
    main()
