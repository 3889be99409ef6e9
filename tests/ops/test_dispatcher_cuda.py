"""The dispatcher through gated slot attention: the arithmetic around the kernel, and the kernel.

Shape letters: B rows, T events, H heads, d width of a head, R experts.
"""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from longrec.ops import dispatcher_cuda
from longrec.ops.dispatcher import naive_experts, naive_read
from longrec.ops.dispatcher_cuda import dispatcher_by_kernel, scan

HERE = Path(__file__).parent
H, D, R = 2, 4, 3
NAMES = ("q", "key", "value", "scores", "forget", "mean", "log_weight")


def gated_slots(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor,
    g: Tensor,
    initial_state: tuple[Tensor, Tensor],
    checkpoint_level: int,
) -> tuple[Tensor, None]:
    """chunk_gsa as documented: inputs (B, T, H, n), states (B, H, d, R) and (B, H, R, d).

    It checks what it is given: nothing may grow, and nothing may be NaN.
    """
    assert bool((g <= 1e-6).all())  # above 0 by rounding alone
    assert bool(((s >= 0) & (s <= 1 + 1e-6)).all())
    key, value = initial_state
    rows = []
    for t in range(q.shape[1]):
        gate = g[:, t].exp()
        key = key * gate[:, :, None] + k[:, t, :, :, None] * s[:, t, :, None]
        value = value * gate[..., None] + s[:, t, ..., None] * v[:, t, :, None]
        share = (torch.einsum("bhd,bhdr->bhr", q[:, t], key) * q.shape[-1] ** -0.5).softmax(-1)
        rows.append(torch.einsum("bhr,bhrd->bhd", share, value))
    return torch.stack(rows, dim=1), None


def defined(
    q: Tensor,
    key: Tensor,
    value: Tensor,
    scores: Tensor,
    forget: Tensor,
    mean: Tensor,
    log_weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The definition: y, P and log z after the last event."""
    pairs = torch.cat([key, value], dim=-1)
    experts, log_weight = naive_experts(pairs, scores, forget, mean, log_weight)
    return naive_read(q, experts), experts[:, :, -1], log_weight


def brought(
    lengths: list[int], past: bool = False, seed: int = 0, width: int = D, experts: int = R
) -> list[Tensor]:
    """What rows of these lengths bring, in float64: scores over all of -12..12, padding at the end.

    With `past`, after events of their own; else P = 0 and log z = -inf.
    """
    random = torch.Generator().manual_seed(seed)
    batch, events = len(lengths), max(1, *lengths)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    real = torch.arange(events)[None, None, :, None] < torch.tensor(lengths)[:, None, None, None]
    scores = (24 * torch.rand(batch, H, events, experts, generator=random).double() - 12).clone()
    forget = torch.rand(batch, H, events, experts, generator=random).double() ** 4
    return [
        *(draw(batch, H, events, width) for _ in range(3)),
        scores.masked_fill(~real, -math.inf),
        forget * real,
        draw(batch, H, experts, 2 * width) * past,
        draw(batch, H, experts) if past else torch.full((batch, H, experts), -math.inf).double(),
    ]


def near(name: str, got: Tensor, wanted: Tensor, tolerance: float = 1e-10) -> None:
    got, wanted = got.detach().double().cpu(), wanted.detach().double().cpu()
    assert got.shape == wanted.shape, f"{name}: {tuple(got.shape)}, not {tuple(wanted.shape)}"
    still = wanted.isfinite()
    assert torch.equal(got[~still], wanted[~still]), f"{name}: infinities or NaN differ"
    error = (got - wanted)[still].norm() / wanted[still].norm().clamp_min(1e-2)
    assert error <= tolerance, f"{name}: relative error {float(error):.1e} > {tolerance:.0e}"


def gradients(outputs: tuple[Tensor, ...], inputs: list[Tensor], real: Tensor) -> list[Tensor]:
    """Of a weighted sum of all finite outputs at real events."""
    random = torch.Generator().manual_seed(5)
    total = torch.zeros((), dtype=torch.float64)
    for output, part in zip(outputs, (real, None, None), strict=True):
        output = output.double().cpu()
        weigh = torch.randn(output.shape, generator=random, dtype=torch.float64)
        if part is not None:
            weigh = weigh * part
        total = total + (weigh * output.masked_fill(output.isinf(), 0.0)).sum()
    return list(torch.autograd.grad(total, inputs, allow_unused=True))


def compare(inputs: list[Tensor], kind: torch.dtype, tolerance: float, device: str = "cpu") -> None:
    """The form by kernel in `kind` against the definition in float64, gradients included."""
    real = inputs[3].isfinite().any(-1, keepdim=True)
    learnt = [n for n, part in enumerate(inputs) if bool(part.isfinite().any())]
    slow = [part.clone().requires_grad_(n in learnt) for n, part in enumerate(inputs)]
    whole = torch.float64 if kind == torch.float64 else torch.float32
    fast = [part.detach().to(device, whole).requires_grad_(part.requires_grad) for part in slow]
    wanted, got = defined(*slow), dispatcher_by_kernel(*fast, kind)
    assert got[0].dtype == kind
    for name, mine, theirs in zip(("y", "P", "log z"), got, wanted, strict=True):
        at = real.expand_as(theirs) if name == "y" else slice(None)
        near(name, mine.cpu()[at], theirs[at], tolerance)
    mine, theirs = (
        gradients(out, [part for part in leaves if part.requires_grad], real)
        for out, leaves in ((got, fast), (wanted, slow))
    )
    for n, one, other in zip(learnt, mine, theirs, strict=True):
        near(f"gradient of {NAMES[n]}", one, other, tolerance)


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference in the kernel's place, and cuts so short that few events have many."""
    monkeypatch.setattr(dispatcher_cuda, "load_kernel", lambda: gated_slots)
    monkeypatch.setattr(dispatcher_cuda, "SEGMENT", 7)
    monkeypatch.setattr(dispatcher_cuda, "BLOCK", 3)


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("lengths", [[1], [2, 1], [7, 3], [33, 8, 1], [50]])
def test_outputs_states_and_gradients_are_those_of_the_definition(
    lengths: list[int], past: bool
) -> None:
    compare(brought(lengths, past, seed=len(lengths)), torch.float64, 1e-10)


@pytest.mark.usefixtures("reference")
def test_a_row_without_events_keeps_its_state_and_sends_no_nan() -> None:
    for past in (False, True):
        inputs = [part.requires_grad_() for part in brought([9, 0], past)]
        y, mean, log_weight = dispatcher_by_kernel(*inputs, torch.float64)
        near("P", mean[1], inputs[5][1])
        near("log z", log_weight[1], inputs[6][1])
        found = torch.autograd.grad(y.sum() + mean.sum() + log_weight[0].sum(), inputs)
        for name, gradient in zip(NAMES, found, strict=True):
            assert bool(gradient.isfinite().all()), name


@pytest.mark.usefixtures("reference")
@settings(max_examples=15)
@given(events=st.integers(2, 40), cut=st.integers(1, 39))
def test_a_history_goes_on_where_it_was_cut(events: int, cut: int) -> None:
    cut = min(cut, events - 1)
    inputs = brought([events])
    wanted = dispatcher_by_kernel(*inputs, torch.float64)
    first = dispatcher_by_kernel(*(x[:, :, :cut] for x in inputs[:5]), *inputs[5:], torch.float64)
    second = dispatcher_by_kernel(*(x[:, :, cut:] for x in inputs[:5]), *first[1:], torch.float64)
    near("y", torch.cat([first[0], second[0]], dim=2), wanted[0])
    near("P", second[1], wanted[1])
    near("log z", second[2], wanted[2])


@pytest.mark.usefixtures("reference")
@settings(max_examples=15)
@given(events=st.integers(1, 40), seed=st.integers(0, 99))
def test_a_scan_is_its_recurrence(events: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    keep = torch.rand(2, events, 3, 1, generator=random, dtype=torch.float64)
    keep = (keep * (keep > 0.2)).requires_grad_()
    added = torch.randn(2, events, 3, 2, generator=random, dtype=torch.float64, requires_grad=True)
    x, rows = torch.zeros_like(added[:, 0]), []
    for t in range(events):
        x = keep[:, t] * x + added[:, t]
        rows.append(x)
    wanted, got = torch.stack(rows, dim=1), scan(keep, added)
    near("x", got, wanted)
    weigh = torch.randn(wanted.shape, generator=random, dtype=torch.float64)
    found = torch.autograd.grad((got * weigh).sum(), (keep, added))
    for name, mine, other in zip(
        ("keep", "added"),
        found,
        torch.autograd.grad((wanted * weigh).sum(), (keep, added)),
        strict=True,
    ):
        near(f"gradient of {name}", mine, other)


@pytest.mark.usefixtures("reference")
def test_float32_is_exact_to_its_rounding_over_many_events() -> None:
    inputs = brought([3000], past=True)
    inputs[4] = inputs[4] * 1e-3  # experts that hardly forget
    y, mean, log_weight = dispatcher_by_kernel(*(part.float() for part in inputs), torch.float32)
    for name, mine, theirs in zip(
        ("y", "P", "log z"), (y, mean, log_weight), defined(*inputs), strict=True
    ):
        near(name, mine, theirs, 1e-5)


def test_nothing_but_half_precision_on_cuda_is_for_the_kernel() -> None:
    x = torch.randn(1, 2, 4)
    assert dispatcher_cuda.kernel_dtype(x) is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert dispatcher_cuda.kernel_dtype(x.bfloat16()) is None


def interpreted() -> None:
    """Compare the kernel itself, run on a CPU by Triton's interpreter, with the definition."""
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.interpreter import _implicit_cvt

    def numbers(*bounds: Any) -> list[Any]:
        return [_implicit_cvt(n) for n in range(*map(int, bounds))]

    # There is nothing to tune, and the interpreter takes Python's range for Triton's.
    Autotuner.do_bench = lambda self, call, quantiles: [0.0] * 3
    importlib.import_module("fla.ops.common.chunk_h").range = numbers
    dispatcher_cuda.SEGMENT = 66  # two segments of more than a chunk of the kernel
    compare(brought([131], past=True, width=16, experts=5), torch.float32, 1e-4)
    compare(brought([140], past=True, width=16, experts=16), torch.float16, 1e-2)


@pytest.mark.slow
@pytest.mark.skipif(
    torch.cuda.is_available() or find_spec("triton") is None or find_spec("fla") is None,
    reason="needs longrec[cuda], and no GPU, on which the kernel itself is tested",
)
def test_the_kernel_computes_the_definition_under_the_interpreter() -> None:
    paths = [str(HERE), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", "import test_dispatcher_cuda as t; t.interpreted()"],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not dispatcher_cuda.available(), reason="needs CUDA and longrec[cuda]")
@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("lengths", [[1], [65, 3], [2500, 700]])
def test_on_cuda_the_kernel_computes_the_definition(lengths: list[int], past: bool) -> None:
    inputs = brought(lengths, past, width=64, experts=16)
    compare(inputs, torch.bfloat16, 4e-2, device="cuda")
