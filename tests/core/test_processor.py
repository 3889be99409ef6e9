"""What a processor says of itself decides, the same at any moment."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from longrec.core import processor
from longrec.core.processor import (
    abilities_of,
    multiplies_bfloat16,
    multiplies_int8,
    processor_abilities,
)

TWO_CORES = """processor : 0
model name : some
flags\t\t: fpu avx2 avx512_bf16 avx512_vnni
bugs : none

processor : 1
flags\t\t: fpu avx2 avx512_vnni
"""


def test_what_every_core_has_counts():
    assert abilities_of(TWO_CORES) == {"fpu", "avx2", "avx512_vnni"}
    assert abilities_of("Features : fp asimd bf16") == {"fp", "asimd", "bf16"}
    assert abilities_of("") == frozenset()


@pytest.mark.parametrize(
    ("abilities", "bfloat16", "int8"),
    [
        ("avx2 fma", False, False),
        ("avx2 avx_vnni", False, True),
        ("avx512f avx512_vnni avx512_bf16", True, True),
        ("avx512f amx_tile amx_bf16 amx_int8", True, True),
        ("fp asimd bf16 i8mm", False, False),  # ARM: not measured
    ],
)
def test_native_products(abilities, bfloat16, int8):
    assert torch.backends.mkldnn.is_available()
    assert multiplies_bfloat16(abilities.split()) is bfloat16
    assert multiplies_int8(abilities.split()) is int8


@pytest.mark.slow
def test_this_processor_answers_alike_in_every_process():
    code = (
        "from longrec.core.processor import *; "
        "print(multiplies_bfloat16(), multiplies_int8(), len(processor_abilities()))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    mine = (multiplies_bfloat16(), multiplies_int8(), len(processor_abilities()))
    assert told.stdout.split() == [str(part) for part in mine]


def test_another_system_asks_torch(monkeypatch):
    def none_such(*_: object, **__: object) -> object:
        raise FileNotFoundError

    monkeypatch.setattr(processor, "open", none_such, raising=False)
    found = processor_abilities.__wrapped__()
    if hasattr(torch.cpu, "get_capabilities"):
        assert ("avx2" in found) == torch.cpu.get_capabilities().get("avx2", False)
    else:
        assert found == frozenset()
