"""torch's global generators: seeded where longrec draws, and left as the caller had them.

numpy's and Python's own global generators are never used; `longrec/__init__.py` keeps the latter
from what other packages draw as they are imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

CPU = torch.device("cpu")


@contextmanager
def generators_kept(device: torch.device = CPU) -> Iterator[None]:
    """What is drawn or seeded in the block does not change the caller's generators.

    Parameters
    ----------
    device : torch.device
        Its generator is kept, and that of the CPU.
    """
    devices = [_index(device)] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, device_type="cuda"):
        yield


def seed_generators(seed: int, device: torch.device = CPU) -> None:
    """Seed the generators of a device and of the CPU, and those of no other device.

    The numbers drawn then are those after torch.manual_seed(seed).
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[_index(device)].manual_seed(seed)
    elif device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def seed_by(place: Sequence[int], device: torch.device = CPU) -> None:
    """Seed the generators of a device and of the CPU by a place in some work."""
    seed = hashlib.blake2b(repr(tuple(place)).encode(), digest_size=8).digest()
    seed_generators(int.from_bytes(seed) >> 1, device)


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
