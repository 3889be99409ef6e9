"""One trial: a real training on each log, which ends early where it is behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrec.config.training import ClockName
from longrec.core.errors import DataError, LongrecError
from longrec.core.files import disk_full
from longrec.data.histories import Histories
from longrec.recommender import Recommender, load
from longrec.runs.folder import has_ended, was_begun
from longrec.runs.train import train
from longrec.training.progress import CLOCKS, Progress
from longrec.tuning.study import Begun, End

LEAST = 1e-4
"""NDCG@10 below which a log's reference counts as this: a gain over nothing has no size."""
Look = Callable[[str, Progress], None]
"""Called after each epoch with the log, and how far its training is."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended, and what it reached by log."""

    end: End
    ndcg10: Mapping[str, float]
    error: str = ""


class _Behind(Exception):
    """Ends a training that is behind the others."""


class Trying:
    """What all trials of a search share.

    Parameters
    ----------
    logs : histories by their names in tables.
    folder : of all trials' runs.
    minutes : of a trial at full length, on all logs together.
    device : that of trainings.
    clock : what counts the minutes.
    look : see `Look`.
    """

    def __init__(
        self,
        logs: Mapping[str, Histories],
        folder: Path,
        minutes: float,
        device: str,
        clock: ClockName,
        look: Look,
    ) -> None:
        self.logs, self.folder, self.minutes = logs, folder, minutes
        self.device, self.clock, self.look = device, CLOCKS[clock], look

    def run_of(self, name: str, log: str) -> Path:
        """The folder of a trial's training on a log."""
        return self.folder / name / log if len(self.logs) > 1 else self.folder / name

    def run(self, begun: Begun, minutes: float, reference: Mapping[str, float] | None) -> Outcome:
        """Train a trial's model on each log, from where an earlier process left it.

        Parameters
        ----------
        begun : the trial.
        minutes : that it may take, an earlier process's among them.
        reference : NDCG@10 of the first settings by log; None for the trial that has them.
        """
        spent, began = begun.about.get("seconds", 0.0), self.clock()
        curves: dict[str, list[tuple[float, float]]] = {
            log: [tuple(point) for point in begun.about.get("curves", {}).get(log, [])]
            for log in self.logs
        }
        reached: dict[str, float] = {}

        def seconds() -> float:
            return float(spent + self.clock() - began)

        def told(log: str, progress: Progress) -> None:
            of_time = progress.seconds / (60 * self.minutes / len(self.logs))
            of_epochs = progress.epoch / max(dict(progress.settings)["max_epochs"], 1)
            done = min(1.0, max(of_time, of_epochs))
            if progress.ndcg10 is not None:
                curves[log].append((done, progress.ndcg10))
                reached[log] = progress.best_ndcg10 or 0.0
            begun.keep(seconds=seconds(), curves=curves, ndcg10=reached)
            self.look(log, progress)
            if reference is None or progress.stop or log not in reached:
                return
            share = (list(self.logs).index(log) + done) / len(self.logs)
            if begun.is_behind(share, mean_gain(reached, reference)):
                raise _Behind

        settings = {**begun.settings, "max_minutes": minutes / len(self.logs)}
        try:
            for log, data in self.logs.items():
                recommender = self._trained(begun, log, data, settings, told)
                reached[log] = validated(recommender, data)
        except _Behind:
            return self._kept(begun, Outcome("pruned", reached), seconds())
        except (LongrecError, MemoryError, RuntimeError) as error:
            of_trial = isinstance(error, MemoryError) or "memory" in str(error)
            of_trial |= isinstance(error, LongrecError) and not isinstance(error, DataError)
            if reference is None or disk_full(error) is not None or not of_trial:
                raise
            text = str(error).strip().splitlines() or [type(error).__name__]
            return self._kept(begun, Outcome("failed", reached, text[0][:300]), seconds())
        if reference is None:
            self._report_late(begun, curves, reached)
        return self._kept(begun, Outcome("ended", reached), seconds())

    def _trained(
        self,
        begun: Begun,
        log: str,
        data: Histories,
        settings: Mapping[str, Any],
        told: Callable[[str, Progress], None],
    ) -> Recommender:
        """The run of a log, made, or gone on with, unless it has ended."""
        run = self.run_of(begun.run, log)
        if has_ended(run) and not was_begun(run):
            return load(run)
        resume = was_begun(run)
        if not resume:  # a process that was killed at its very beginning may have left something
            shutil.rmtree(run, ignore_errors=True)
        return train(
            *(data, begun.model, run),
            resume=resume,
            device=self.device,
            progress=False,
            on_epoch=lambda progress: told(log, progress),
            **settings,
        )

    def _report_late(
        self,
        begun: Begun,
        curves: Mapping[str, Sequence[tuple[float, float]]],
        reached: Mapping[str, float],
    ) -> None:
        """Tell the others how the reference went, which could not be said in shares of itself."""
        before: dict[str, float] = {}
        for number, (log, curve) in enumerate(curves.items()):
            best = 0.0
            for done, value in curve:
                best = max(best, value)
                share = (number + done) / len(self.logs)
                begun.is_behind(share, mean_gain(before | {log: best}, reached))
            before[log] = reached[log]

    @staticmethod
    def _kept(begun: Begun, outcome: Outcome, seconds: float) -> Outcome:
        begun.keep(seconds=seconds, ndcg10=dict(outcome.ndcg10))
        return outcome


def validated(recommender: Recommender, data: Histories) -> float:
    """NDCG@10 of the validation targets as `longrec train` reports it, transitions included."""
    found = recommender.provenance["training"]["validation"]
    if "served/ndcg@10" not in found:
        protocol = recommender.train_config.protocol
        raise DataError(
            f"{data.path}: the protocol {protocol!r} has no validation targets there, so that "
            "nothing tells which settings are better: cut the log otherwise (protocol, cut)"
        )
    return float(found["served/ndcg@10"])


def mean_gain(reached: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """The mean over the logs reached of NDCG@10 over the reference's, less 1."""
    gains = [value / max(reference[log], LEAST) - 1 for log, value in reached.items()]
    return sum(gains) / len(gains)
