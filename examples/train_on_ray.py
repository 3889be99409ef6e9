"""Train on the machines of a Ray cluster: Ray Train starts processes, and all make the same call.

    pip install 'ray[train]'                                    # on every machine, and longrec
    python examples/train_on_ray.py /shared/histories /shared/run --processes 8 --address HEAD:6379
    python examples/train_on_ray.py histories run --processes 2          # on this machine alone

Histories and run lie where all machines see them. What was cut off goes on with --resume.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer


def train(call: dict[str, Any]) -> None:
    """What each process does: longrec finds the others by torch.distributed, as Ray set it up."""
    import longrec

    longrec.train(**call)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("histories", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--address", help="of the cluster; without one it is this machine")
    parser.add_argument("--gpu", action="store_true", help="one GPU for each process")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--epochs", type=int, default=200)
    args = parser.parse_args()
    call = {"histories": str(args.histories.resolve()), "out": str(args.run.resolve())}
    more = {"max_epochs": args.epochs, "resume": args.resume}
    with ray.init(address=args.address, num_cpus=None if args.address else args.processes + 1):
        TorchTrainer(
            train,
            train_loop_config=call | more,
            # Small numbers are told as tensors on the CPU, by gloo, wherever the model is.
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if args.gpu else "gloo"),
            scaling_config=ScalingConfig(num_workers=args.processes, use_gpu=args.gpu),
            run_config=RunConfig(
                name=f"{args.run.name}.ray", storage_path=str(args.run.resolve().parent)
            ),
        ).fit()


if __name__ == "__main__":
    main()
