"""What imports what: the rooms that a bare GPU machine runs need torch and numpy alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
BARE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ImportError(name + " is not here")

sys.meta_path.insert(0, Absent())
import longrec.training.losses, longrec.mixers, longrec.models
import torch
model = longrec.models.build_model("elastic", longrec.models.MODELS["elastic"].config_class(), 9)
assert model.encode(torch.tensor([[1, 2, 3]])).shape == (1, 3, 64)
"""
ABSENT = {"polars", "pyarrow", "pandas", "pydantic", "typer", "rich", "safetensors", "matplotlib"}


def test_mixers_models_and_losses_need_torch_and_numpy_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE.format(absent=ABSENT)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(SOURCE), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
