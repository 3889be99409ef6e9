"""Losses: equal to torch's own in float64, without ever holding all logits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from longrec.training import losses
from longrec.training.losses import (
    binary_cross_entropy,
    full_cross_entropy,
    generalised_binary_cross_entropy,
    sampled_softmax,
)

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
    monkeypatch.setattr(losses, "FEWEST_ROWS", 1)
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


def log_sigma(x: Tensor) -> Tensor:
    return (1 / (1 + (-x).exp())).log()


def bce_of_a_row(hit: Tensor, others: Tensor, m: int, n_items: int) -> Tensor:
    return -log_sigma(hit) - sum(log_sigma(-s) for s in others) / len(others)


def gbce_of_a_row(hit: Tensor, others: Tensor, m: int, n_items: int, t: float) -> Tensor:
    """As arXiv 2308.07192 writes it, with sigma^beta as a power."""
    alpha = m / (n_items - 1)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    positive = (1 / (1 + (-hit).exp())) ** beta
    return -(positive.log() + sum(log_sigma(-s) for s in others)) / (m + 1)


Loss = Callable[..., Tensor]
PAIRWISE = {
    "bce": (binary_cross_entropy, bce_of_a_row),
    "gbce t=0": (partial(generalised_binary_cross_entropy, t=0.0), partial(gbce_of_a_row, t=0.0)),
    "gbce": (partial(generalised_binary_cross_entropy, t=0.75), partial(gbce_of_a_row, t=0.75)),
    "gbce t=1": (partial(generalised_binary_cross_entropy, t=1.0), partial(gbce_of_a_row, t=1.0)),
}


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize(
    ("n", "catalog", "width", "m"), [(1, 3, 1, 1), (17, 40, 3, 7), (30, 99, 8, 40)]
)
def test_pairwise_losses_are_their_papers(name, n, catalog, width, m):
    loss, of_a_row = PAIRWISE[name]
    h, items, targets = problem(n, catalog, width)
    negatives = torch.randint(1, catalog, (m,), generator=torch.Generator().manual_seed(3))
    if m == 1:
        negatives = 3 - targets  # of two items, the other one
    rows = []
    for row, target in enumerate(targets.tolist()):
        scores = items @ h[row]
        others = [scores[j] for j in negatives.tolist() if j != target]
        rows.append(of_a_row(scores[target], others, m, catalog - 1))
    wanted = torch.stack(rows).mean()
    got = loss(h, items, targets, negatives)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    grads = zip(
        ("h", "items"),
        torch.autograd.grad(got, (h, items)),
        torch.autograd.grad(wanted, (h, items)),
        strict=True,
    )
    for part, grad, other in grads:
        torch.testing.assert_close(
            grad, other, rtol=1e-10, atol=1e-13, msg=lambda m, part=part: f"{part}: {m}"
        )


@pytest.mark.parametrize("name", PAIRWISE)
def test_pairwise_losses_stay_finite(name):
    loss, _ = PAIRWISE[name]
    h, items, targets = problem(20, 30, 4, torch.float32)
    got = loss(h * 1e4, items * 1e4, targets, torch.arange(1, 30))
    got.backward()
    assert torch.isfinite(got)
    assert torch.isfinite(h.grad).all()
    assert torch.isfinite(items.grad).all()


@pytest.mark.parametrize("name", PAIRWISE)
def test_a_row_whose_negatives_are_its_target_learns_from_the_target_alone(name):
    loss, _ = PAIRWISE[name]
    h, items, _ = problem(1, 6, 3)
    got = loss(h, items, torch.tensor([2]), torch.tensor([2, 2]))
    (grad,) = torch.autograd.grad(got, items)
    assert torch.isfinite(grad).all()
    assert not grad[[0, 1, 3, 4, 5]].any()


def test_gbce_ends_at_bce_and_at_the_full_catalog():
    """t = 0 is BCE over all m negatives; with every item drawn, t changes nothing."""
    h, items, targets = problem(25, 12, 4)
    some, every = torch.tensor([3, 5, 5, 8]), torch.arange(1, 12).repeat(2)
    scores, hit = h @ items[some].t(), (h * items[targets]).sum(1)
    other = some != targets[:, None]
    plain = -(log_sigma(hit) + (log_sigma(-scores) * other).sum(1)).mean() / 5
    got = generalised_binary_cross_entropy(h, items, targets, some, 0.0)
    torch.testing.assert_close(got, plain)
    calibrated = generalised_binary_cross_entropy(h, items, targets, some, 1.0)
    assert calibrated < got
    torch.testing.assert_close(
        generalised_binary_cross_entropy(h, items, targets, every, 1.0),
        generalised_binary_cross_entropy(h, items, targets, every, 0.0),
    )
