"""What this processor multiplies natively, by what it says of itself and never by a stopwatch.

A choice that is timed may fall otherwise in a busy moment, and then a run's numbers change with
the load. The processor's own list of abilities is the same at any moment.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

import torch

BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})
"""Abilities (as Linux and torch name them) of which each has products of bfloat16."""
INT8 = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Abilities of which each has products of 8-bit integers that are summed in 32 bits."""


def multiplies_bfloat16(abilities: Collection[str] | None = None) -> bool:
    """Whether products in bfloat16 are native here, and so faster than those in float32.

    Only what was measured counts: of ARM processors, some of which have such products, and where
    torch is built without oneDNN, which makes them, the answer is no.

    Parameters
    ----------
    abilities : collection of str or None
        Of a processor; None: of this one.
    """
    found = processor_abilities() if abilities is None else abilities
    return bool(BFLOAT16.intersection(found)) and torch.backends.mkldnn.is_available()


def multiplies_int8(abilities: Collection[str] | None = None) -> bool:
    """The same for products of 8-bit integers."""
    found = processor_abilities() if abilities is None else abilities
    return bool(INT8.intersection(found)) and torch.backends.mkldnn.is_available()


@cache
def processor_abilities() -> frozenset[str]:
    """What the processor says it has, "avx2", "avx512_bf16", …; empty where nobody tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return abilities_of(file.read())
    except OSError:  # not Linux
        tell = getattr(torch.cpu, "get_capabilities", dict)  # newer than the oldest torch we take
        return frozenset(name for name, has in tell().items() if has is True)


def abilities_of(cpuinfo: str) -> frozenset[str]:
    """The abilities that all processors of Linux' /proc/cpuinfo have; its text -> their names."""
    lists = [
        frozenset(line.partition(":")[2].split())
        for line in cpuinfo.splitlines()
        if line.partition(":")[0].strip() in ("flags", "Features")
    ]
    return frozenset.intersection(*lists) if lists else frozenset()
