"""Train RecTools' SASRec on a log, measured and ranked as longrec does it.

    python benchmarks/peers/rectools/train.py ml1m.parquet --batch 32 --stop-at 0.124

It runs in RecTools' own environment (requirements.txt beside it) and needs no longrec.
Leave-one-out: each user's last event tests, the one before validates. After every epoch it prints
a line of JSON, in which seconds are those of training alone, ranking left out, and CPU seconds
those of all threads: where others use the cores too, they are the fairer measure. `--throughput
STEPS` times steps, and ranks nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from protocol import TEST, VALIDATION, Log, metrics, ranks, read_log
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.net_blocks import PointWiseFeedForward
from rectools.models.nn.transformers.sasrec import SASRecTransformerLayers
from torch import Tensor

WINDOW = 200
WARM = 5
"""Steps that are not timed."""


def training(log: Log) -> Dataset:
    """The events that train, as RecTools reads them; their place in the log stands for time."""
    places, owner = log.training()
    events = {
        Columns.User: owner,
        Columns.Item: log.items[places],
        Columns.Weight: 1.0,
        Columns.Datetime: pd.to_datetime(places, unit="s"),
    }
    return Dataset.construct(pd.DataFrame(events))


class WiderLayers(SASRecTransformerLayers):
    """RecTools' layers of SASRec, whose feed-forward networks have a width of their own."""

    def __init__(self, ffn_dim: int, **settings: Any) -> None:
        super().__init__(**settings)
        dim, dropout = settings["n_factors"], settings["dropout_rate"]
        for block in self.transformer_blocks:
            block.feed_forward = PointWiseFeedForward(dim, ffn_dim, dropout, torch.nn.ReLU())


@torch.inference_mode()
def rank_all(module: LightningModule, log: Log) -> dict[str, float]:
    """Metrics of validation and test in the whole catalog, seen items filtered."""
    model, known = module.torch_model, module.data_preparator.get_known_item_ids()
    inside = np.zeros(log.n_items + 1, np.int64)
    inside[known.astype(np.int64)] = np.arange(1, len(known) + 1)
    vectors = model.item_model.get_all_embeddings()

    def score(read: Tensor) -> Tensor:
        return model.encode_sessions({"x": read}, vectors)[:, -1] @ vectors.T

    model.eval()
    found = {}
    for name, place in (("validation", VALIDATION), ("test", TEST)):
        of_part = metrics(ranks(log, place, inside, WINDOW, score))
        found |= {f"{name}_{key}": value for key, value in of_part.items()}
    model.train()
    return found


def memory() -> dict[str, float]:
    """Resident memory of this process in MiB: now, and at most so far."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    found = {words[0]: int(words[1]) / 1024 for words in lines if words[0] in ("VmRSS:", "VmHWM:")}
    return {"now": found["VmRSS:"], "peak": found["VmHWM:"]}


class Watch(Callback):
    """Counts targets and seconds of training, prints them, and says when it is enough."""

    def __init__(self, histories: Log, given: argparse.Namespace) -> None:
        self.histories, self.given = histories, given  # Lightning gives callbacks a `log`
        self.began = self.since = time.perf_counter()
        self.seconds = self.cpu = 0.0  # of training, ranking left out
        self.since_cpu = time.process_time()
        self.steps = self.targets = self.counted = 0
        self.warm = (0.0, 0.0, 0)
        self.before = memory()

    def __deepcopy__(self, memo: dict[int, Any]) -> Watch:
        return self  # RecTools copies its trainer; what is counted stays in one place

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.began = self.since = time.perf_counter()
        self.since_cpu = time.process_time()
        self.before = memory()

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: dict[str, Any], number: int
    ) -> None:
        self.targets += int((batch["y"] > 0).sum())

    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        self.steps += 1
        trained = self.seconds + time.perf_counter() - self.since
        if self.steps == WARM:
            cpu = self.cpu + time.process_time() - self.since_cpu
            self.warm = (trained, cpu, self.targets)
        timed = self.given.throughput
        enough = timed is not None and self.steps >= WARM + timed
        minutes = self.given.minutes
        if enough or (minutes is not None and trained > 60 * minutes and self.steps > WARM):
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        now = time.perf_counter()
        spent = now - self.since
        self.seconds += spent
        self.cpu += time.process_time() - self.since_cpu
        told: dict[str, Any] = {"epoch": trainer.current_epoch + 1, "steps": self.steps}
        if self.given.throughput is None:
            told |= {
                "seconds": self.seconds,
                "cpu_seconds": self.cpu,
                "targets": self.targets,
                "targets_per_second": (self.targets - self.counted) / spent,
                "training_peak_mib": memory()["peak"],
            }
            told |= rank_all(module, self.histories)
            told |= {"wall_seconds": time.perf_counter() - self.began}
            self.counted = self.targets
            if told["test_ndcg@10"] >= self.given.stop_at:
                trainer.should_stop = True
        elif trainer.should_stop:
            trained = (self.seconds, self.cpu, self.targets)
            seconds, cpu, targets = (
                now - then for now, then in zip(trained, self.warm, strict=True)
            )
            told |= {"steps": self.steps - WARM, "seconds": seconds, "cpu_seconds": cpu}
            told |= {"targets": targets, "targets_per_second": targets / seconds}
        if self.given.throughput is None or trainer.should_stop:
            print(json.dumps(self.setting() | told | self.memory()), flush=True)
        self.since, self.since_cpu = time.perf_counter(), time.process_time()

    def setting(self) -> dict[str, Any]:
        """What every line is said of."""
        names = ("batch", "ffn", "threads", "seed")
        found = {"system": "rectools", "model": "sasrec", "version": version("rectools")}
        return found | {name: getattr(self.given, name) for name in names}

    def memory(self) -> dict[str, float]:
        """MiB before the first step (now and at most so far) and at most in all."""
        before = {"before_mib": self.before["now"], "before_peak_mib": self.before["peak"]}
        return before | {"peak_mib": memory()["peak"]}


def main() -> None:
    """Read, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, help="a Parquet file")
    parser.add_argument("--user", default="user_id", help="column of users")
    parser.add_argument("--item", default="item_id", help="column of items")
    parser.add_argument("--order", default="position", help="column that sorts a user's events")
    parser.add_argument("--batch", type=int, default=32, help="histories per batch")
    parser.add_argument("--ffn", type=int, default=256, help="RecTools' own is the width, 64")
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--minutes", type=float, help="of training, at most")
    parser.add_argument("--stop-at", type=float, default=1.0, help="NDCG@10 of the test")
    parser.add_argument("--throughput", type=int, metavar="STEPS", help="time steps only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    seed_everything(given.seed, verbose=False)
    log = read_log(given.log, given.user, given.item, given.order)
    watch = Watch(log, given)

    def trainer() -> Trainer:
        """As RecTools makes it by default, with the watch."""
        return Trainer(
            max_epochs=given.epochs,
            min_epochs=0,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=[watch],
        )

    SASRecModel(
        n_blocks=2,
        n_heads=2,
        n_factors=64,
        dropout_rate=0.2,
        session_max_len=WINDOW,
        loss="softmax",
        lr=1e-3,
        batch_size=given.batch,
        transformer_layers_type=WiderLayers,
        transformer_layers_kwargs={"ffn_dim": given.ffn},
        get_trainer_func=trainer,
    ).fit(training(log))


if __name__ == "__main__":
    main()
