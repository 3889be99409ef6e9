"""Losses: equal to torch's own in float64, without ever holding all logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from longrec import losses
from longrec.losses import full_cross_entropy, sampled_softmax

SIZES = [(1, 2, 1), (17, 5, 3), (33, 101, 8), (64, 64, 16), (129, 50, 7)]


def problem(n: int, catalog: int, width: int, kind=torch.float64, seed=0):
    random = torch.Generator().manual_seed(seed)
    h = torch.randn(n, width, generator=random, dtype=torch.float64)
    items = torch.randn(catalog, width, generator=random, dtype=torch.float64)
    targets = torch.randint(1, catalog, (n,), generator=random)
    return h.to(kind).requires_grad_(), items.to(kind).requires_grad_(), targets


def reference(h: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(h @ items[1:].t(), targets - 1)


@pytest.mark.parametrize(("n", "catalog", "width"), SIZES)
@pytest.mark.parametrize("at_once", [1, 1000, 3300, 1 << 19])
def test_full_cross_entropy_is_torchs(monkeypatch, n, catalog, width, at_once):
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", at_once)
    h, items, targets = problem(n, catalog, width)
    wanted = reference(h, items, targets)
    grads = torch.autograd.grad(3 * wanted, (h, items))
    got = full_cross_entropy(h, items, targets)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    for name, grad, other in zip(
        ("h", "items"), torch.autograd.grad(3 * got, (h, items)), grads, strict=True
    ):
        torch.testing.assert_close(
            grad, other, rtol=1e-10, atol=1e-13, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_gradcheck():
    h, items, targets = problem(5, 7, 3)
    assert torch.autograd.gradcheck(lambda a, b: full_cross_entropy(a, b, targets), (h, items))


def test_padding_takes_no_part():
    h, items, targets = problem(20, 30, 4)
    with torch.no_grad():
        items[0] = 100 * h[0]  # would be the best item of row 0 by far
    loss = full_cross_entropy(h, items, targets)
    torch.testing.assert_close(loss, reference(h, items, targets))
    loss.backward()
    assert torch.equal(items.grad[0], torch.zeros_like(items[0]))


def test_large_logits_stay_finite():
    h, items, targets = problem(20, 30, 4, torch.float32)
    loss = full_cross_entropy(h * 1e4, items * 1e4, targets)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(items.grad).all()


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, (tuple, list)) else [result]
        sizes = [part.numel() for part in made if isinstance(part, Tensor)]
        self.numel = max([self.numel, *sizes])
        return result


def test_logits_are_never_held_at_once(monkeypatch):
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 1 << 14)
    n, catalog, width = 1000, 700, 8
    h, items, targets = problem(n, catalog, width, torch.float32)
    with Largest() as ours:
        full_cross_entropy(h, items, targets).backward()
    assert ours.numel <= max(1 << 14, n * width)
    with Largest() as theirs:
        reference(h, items, targets).backward()
    assert theirs.numel >= n * (catalog - 1)  # so the count can see it


def test_bfloat16_inputs_are_summed_in_float32():
    h, items, targets = problem(400, 60, 8, torch.bfloat16)
    loss = full_cross_entropy(h, items, targets)
    loss.backward()
    assert loss.dtype == torch.float32
    h2, items2 = (x.detach().double().requires_grad_() for x in (h, items))
    wanted = reference(h2, items2, targets)
    wanted.backward()
    assert abs(loss.item() - wanted.item()) < 0.01 * wanted.item()
    for grad, other in ((h.grad, h2.grad), (items.grad, items2.grad)):
        assert grad.dtype == torch.bfloat16
        assert (grad.double() - other).norm() < 0.02 * other.norm()


def skewed(catalog: int) -> Tensor:
    chance = 1 / torch.arange(1, catalog + 1, dtype=torch.float64)
    chance[0] = 0
    return chance / chance.sum()


def test_correction_makes_sampled_softmax_approach_the_full_one():
    h, items, targets = problem(200, 50, 6)
    chance, m = skewed(50), 60_000
    negatives = torch.multinomial(chance, m, True, generator=torch.Generator().manual_seed(1))
    log_expected = (m * chance).log()
    full = reference(h, items, targets)
    ours = sampled_softmax(h, items, targets, negatives, log_expected)
    assert abs((ours - full).item()) < 0.03
    (grad,) = torch.autograd.grad(ours, items)
    (wanted,) = torch.autograd.grad(full, items)
    assert (grad - wanted).norm() < 0.1 * wanted.norm()
    # The same number taken off every logit: the popular items' share is then overstated.
    flat = torch.full_like(log_expected, float(torch.tensor(m / 49.0).log()))
    (biased,) = torch.autograd.grad(sampled_softmax(h, items, targets, negatives, flat), items)
    assert (biased - wanted).norm() > 0.3 * wanted.norm()


def test_a_negative_that_is_the_target_is_left_out_of_its_row():
    h, items, targets = problem(2, 6, 3)
    targets = torch.tensor([2, 4])
    zero = torch.zeros(6, dtype=torch.float64)
    got = sampled_softmax(h, items, targets, torch.tensor([2, 5, 5, 4]), zero)
    rows = []
    for row, kept in enumerate(([2, 5, 5, 4], [4, 2, 5, 5])):
        rows.append(-(h[row] @ items[kept].t()).log_softmax(0)[0])
    torch.testing.assert_close(got, torch.stack(rows).mean())
    only = sampled_softmax(h[:1], items, targets[:1], torch.tensor([2, 2]), zero)
    assert only.item() == 0.0
