"""A training in processes of a Ray cluster: Ray Train starts them, and all make the same call.

They find each other by torch.distributed, which Ray Train sets up, and train as those of torchrun
do. Where a process is lost, all are started again and go on from the last checkpoint.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from longrec.artifact.training_log import read_log
from longrec.cluster.ray_cluster import NO_LONGREC, RETRIES, Cluster, explained, lacks_longrec
from longrec.core import console
from longrec.core.errors import LongrecError, UsageError, first_line
from longrec.core.registry import load_plugin
from longrec.data.object_store import address_of
from longrec.recommender import Recommender, load
from longrec.runs.folder import MEASURED, was_begun
from longrec.training.processes import PATIENCE, ProcessLost

TICK = 1.0
"""Seconds between two looks at the run's log."""
STARTS = 10
"""Minutes in which processors have to become free: Ray Train tries for one, and again."""


def train_on(
    cluster: Cluster,
    number: int,
    train: Callable[..., Recommender],
    call: Mapping[str, Any],
    show: Callable[[Mapping[str, Any]], None],
    plugins: Sequence[str] = (),
) -> Recommender:
    """What so many processes save that make a call of `longrec.train` or `longrec.refit` together.

    Parameters
    ----------
    cluster : Cluster
    number : of processes; each gets a processor, and a GPU where the device is "cuda", or "auto"
        and the cluster has as many.
    train : the function.
    call : its arguments but for `progress`, with `out`, `resume`, `overwrite` and `device`; paths
        are of what all machines see.
    show : is called with each new row of the run's log.
    plugins : modules that the model comes from.

    Raises
    ------
    UsageError
        When Ray Train is not installed, or the cluster has not as many processors or GPUs.
    LongrecError
        What a process raised, or that some were lost again and again.
    """
    try:
        import ray.train
    except ImportError as error:
        raise UsageError(
            f"Ray Train cannot be used ({first_line(error)}): pip install 'longrec[ray]', on every "
            "machine of the cluster"
        ) from error
    gpu = _takes_gpus(cluster, number, str(call["device"]))
    call = {
        # An address stays as it is; a path may be told from another folder.
        name: str(value.resolve()) if isinstance(value, Path) and not address_of(value) else value
        for name, value in call.items()
    }
    out = Path(call["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    # Of a run that is trained for service the measured one has a log of its own.
    logs = [_Log(folder) for folder in (out / MEASURED, out)]

    def look() -> None:
        for log in logs:
            for row in log.new():
                show(row)

    for left in reversed(range(RETRIES + 1)):
        made = partial(_make, train, call, tuple(plugins), gpu)
        try:
            _fit(made, number, gpu, out.parent, look)
            break
        except ray.train.TrainingFailedError as error:
            cause = _cause(error, number)
            if not isinstance(cause, ProcessLost) or not left:
                raise cause from None
        call["resume"] = call["resume"] or was_begun(out)
        call["overwrite"] = call["overwrite"] and not call["resume"]
    return load(out)


class _Log:
    """A run's log that grows, or is begun anew."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.known = folder, list[str]()
        self.new()

    def new(self) -> list[dict[str, Any]]:
        """The rows that were not there before."""
        rows = read_log(self.folder).to_dicts()
        texts = [str(row) for row in rows]
        pairs = zip(texts, self.known, strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self.known = texts
        return rows[same:]


def _takes_gpus(cluster: Cluster, number: int, device: str) -> bool:
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device is {device!r}, but Ray gives GPUs out: give auto, cpu or cuda")
    for kind, there, wanted in (
        ("processors", cluster.slots, True),
        ("GPUs", cluster.gpus, device == "cuda"),
    ):
        if wanted and there < number:
            raise UsageError(
                f"the Ray cluster has {there} {kind}, fewer than {number} processes: add machines "
                f"to it, or start fewer (--processes)"
            )
    return device == "cuda" or (device == "auto" and cluster.gpus >= number)


def _make(
    train: Callable[..., Recommender],
    call: Mapping[str, Any],
    plugins: Sequence[str],
    gpu: bool,
) -> None:
    """What each process does."""
    import ray.train.torch

    console.be_silent()
    device = str(ray.train.torch.get_device()) if gpu else "cpu"
    # Who shows progress ranks baselines, too.
    own = {"device": device, "progress": True}
    for module in plugins:
        load_plugin(module)
    explained(partial(train, **(dict(call) | own)))


def _fit(
    made: Callable[[], None],
    number: int,
    gpu: bool,
    place: Path,
    look: Callable[[], object],
) -> None:
    """Let Ray Train start the processes, and look at what they do until all have ended."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    failed: list[BaseException] = []

    def fit(trainer: TorchTrainer) -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failed.append(error)

    # Ray Train wants a folder that all machines see, and writes nothing there that is needed.
    with tempfile.TemporaryDirectory(prefix=".longrec-", dir=place) as folder:
        limits: Any = {"controller_failure_limit": STARTS - 1, "max_preemption_failures": 0}
        trainer = TorchTrainer(
            made,
            # What processes tell each other are tensors on the CPU, wherever the model is.
            torch_config=TorchConfig(
                "cpu:gloo,cuda:nccl" if gpu else "gloo", timeout_s=int(PATIENCE.total_seconds())
            ),
            scaling_config=ScalingConfig(num_workers=number, use_gpu=gpu),
            run_config=RunConfig(
                name="ray", storage_path=folder, failure_config=FailureConfig(**limits)
            ),
        )
        # In a thread of its own it leaves Ctrl-C to this one.
        thread = threading.Thread(target=fit, args=(trainer,), daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(TICK)
            look()
    if failed:
        raise failed[0]


def _cause(error: Exception, number: int) -> Exception:
    """Why a training failed, in one line: ProcessLost where it may go on."""
    failures = getattr(error, "worker_failures", {})
    said = [failure for _, failure in sorted(failures.items())]
    for failure in said:
        if isinstance(failure, LongrecError) and not isinstance(failure, ProcessLost):
            return failure
    for failure in said:
        if not (isinstance(failure, ProcessLost) or type(failure).__module__.startswith("ray.")):
            return LongrecError(NO_LONGREC) if lacks_longrec(failure) else failure
    controller = getattr(error, "controller_failure", None)
    if type(controller).__name__ == "WorkerGroupStartupTimeoutError":
        return LongrecError(
            f"the Ray cluster had not {number} processors or GPUs free within {STARTS} minutes "
            "(ray status tells who has them): wait for the others, or start fewer processes "
            "(--processes)"
        )
    why = said[0] if said else controller or error
    return ProcessLost(
        f"processes of this training were lost {RETRIES + 1} times ({first_line(why)[:120]}): see "
        "whether the machines have memory left (ray status), and give the same command again with "
        "--resume"
    )
