"""The command line in the process of the tests, and a run that it has made."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
import typer.main

from longrec.cli import app as commands
from longrec.cli import main as cli

COMMAND = typer.main.get_command(commands.app)
"""What `commands.app()` makes of all commands, in 0.08 seconds for each call of it."""
TINY = [f"--set={s}" for s in ("dim=8", "layers=1", "heads=1", "experts=3", "ffn_dim=8")]


class Made(NamedTuple):
    """What a test of the command line asks for: a log, its histories, and a run."""

    log: Path
    histories: Path
    run: Path


def longrec(*argv: object) -> int:
    """Run `longrec ARGV` here -> exit status; what it prints is for capsys to read."""
    before, environment = (sys.argv, commands.app), dict(os.environ)
    sys.argv, commands.app = ["longrec", *map(str, argv)], COMMAND
    try:
        cli.main()
    except SystemExit as end:
        return 0 if end.code is None else int(end.code)
    finally:
        sys.argv, commands.app = before
        os.environ.clear()
        os.environ.update(environment)  # in which a command tells how many threads compute
        torch.set_num_threads(1)
    return 0


def write_shop_log(path: Path) -> None:
    """The log that the quick starts of pages begin with: user_id, item_id (sku-1, …), timestamp."""
    random = np.random.default_rng(0)
    pl.DataFrame(
        {
            "user_id": random.integers(30, 60, 300),
            "item_id": [f"sku-{n}" for n in random.integers(0, 40, 300)],
            "timestamp": 1_700_000_000 + np.arange(300),
        }
    ).write_parquet(path)


def make_run(folder: Path) -> Made:
    """Write a log to a folder, prepare it, and train a tiny model on it for an epoch."""
    random = np.random.default_rng(0)
    made = Made(folder / "log.csv", folder / "histories", folder / "run")
    pl.DataFrame(
        {
            "user_id": random.integers(100, 140, 600),
            "item_id": [f"i{n:02d}" for n in random.integers(0, 25, 600)],
            "timestamp": 1_700_000_000 + np.arange(600) * 60,
        }
    ).write_csv(made.log)
    assert longrec("prepare", made.log, "--out", made.histories) == 0
    argv = ["--out", made.run, "--model", "elastic", *TINY, "--set", "max_epochs=1"]
    assert longrec("train", made.histories, *argv) == 0
    return made
