"""Where the processes of a training meet: those that torchrun or we have started, or who calls us.

They are started by torchrun, `longrec train --processes N` or Ray Train, or by whoever has called
`init_process_group`.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous

from longrec.core.errors import UsageError, first_line
from longrec.core.format import duration, listed
from longrec.core.started import rank_and_number
from longrec.training.processes import ALONE, PATIENCE, Processes

MEETING = timedelta(minutes=10)
"""Longest wait until all have come: before that nobody notices one that has ended."""


def started_with() -> Processes:
    """This process and those that torchrun or we have started with it, met or not."""
    return Processes(*rank_and_number())


def meeting_place(number: int) -> tuple[object, dict[str, str]]:
    """Where so many processes of this machine, and none of another, meet.

    Returns
    -------
    store, variables
        What serves them as long as it is kept, and what `joined` reads of each one's environment,
        besides its RANK and LOCAL_RANK.
    """
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    host, port = listening.getsockname()
    store = dist.TCPStore(  # type: ignore[attr-defined]
        *(host, port, None, True, timedelta(seconds=30), False),
        master_listen_fd=listening.detach(),
    )
    variables = {
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        "TORCHELASTIC_RUN_ID": "longrec",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    if sys.platform == "linux":  # gloo asks the network for this machine's own name otherwise
        variables["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    return store, variables


@contextmanager
def joined() -> Iterator[Processes]:
    """Meet the other processes that torchrun or we have started with this one, if there are any.

    Who has set up torch.distributed already keeps it as it is.
    """
    if dist.is_available() and dist.is_initialized():
        _check_cpu()
        yield Processes.here()
        return
    if started_with() == ALONE:
        yield ALONE
        return
    # Tensors on the CPU are told by gloo wherever the model is.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    own, missing = started_with(), ""
    try:
        store, _, _ = next(rendezvous("env://", timeout=MEETING))
        for step in ("here", "connected"):
            keys = [f"longrec/{step}/{rank}" for rank in range(own.number)]
            if step == "connected":
                dist.init_process_group(
                    backend, store=store, rank=own.rank, world_size=own.number, timeout=PATIENCE
                )
            # Nobody goes on while another one connects, who would take its end for the network's.
            store.set(keys[own.rank], step)
            try:
                store.wait(keys, MEETING)
            except RuntimeError:
                absent = [str(rank) for rank, key in enumerate(keys) if not store.check([key])]
                missing = f"; not {'there' if step == 'here' else step}: {listed(absent)}"
                raise
    except (RuntimeError, ValueError) as error:
        at = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UsageError(
            f"the processes 0 to {own.number - 1} of this training did not meet at {at} within "
            f"{duration(MEETING.total_seconds())}{missing} ({first_line(error)[:200]}): see what "
            "those say, that every machine reaches that address, and start all of them with the "
            "same torchrun call"
        ) from error
    try:
        yield Processes.here()
    finally:
        dist.destroy_process_group()


def _check_cpu() -> None:
    """Raise UsageError where torch.distributed was set up for tensors on GPUs alone."""
    try:
        dist.all_reduce(torch.zeros(1))
    except RuntimeError as error:
        raise UsageError(
            f"torch.distributed is set up without tensors on the CPU ({first_line(error)[:200]}): "
            "set it up by init_process_group('cpu:gloo,cuda:nccl')"
        ) from error


def device_here(device: torch.device) -> torch.device:
    """Of a device without a number, this process's own one of its machine."""
    if str(device) != "cuda" or started_with() == ALONE:
        return device
    own, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if own >= there:
        raise UsageError(
            f"process {own} of this machine has no GPU of its own, of {there}: start as many "
            "processes as there are, or train on the CPU (--device cpu)"
        )
    torch.cuda.set_device(own)
    return torch.device("cuda", own)
