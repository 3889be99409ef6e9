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
    Taught,
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


def reference(h: Tensor, items: Tensor, targets: Tensor, bias: Tensor | None = None) -> Tensor:
    """h is (n, D), or (n, R, D) of which an item's best counts."""
    logits = h @ items.t()
    if h.ndim == 3:
        logits = logits.amax(1)
    if bias is not None:
        logits = logits + bias
    return torch.nn.functional.cross_entropy(logits[:, 1:], targets - 1)


def scores_of(h: Tensor, items: Tensor, targets: Tensor, negatives: Tensor):
    """What the sampled losses get of a model that scores by inner products."""
    hit, scores = (h * items[targets]).sum(1), h @ items[negatives].t()
    return hit, scores, negatives != targets[:, None]


def same_gradients(got: Tensor, wanted: Tensor, leaves: dict[str, Tensor]) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    for name, grad, other in zip(
        leaves,
        torch.autograd.grad(3 * got, list(leaves.values())),
        torch.autograd.grad(3 * wanted, list(leaves.values())),
        strict=True,
    ):
        torch.testing.assert_close(
            grad, other, rtol=1e-10, atol=1e-13, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize(("n", "catalog", "width"), SIZES)
@pytest.mark.parametrize("at_once", [1, 1000, 3300, 1 << 19])
def test_full_cross_entropy_is_torchs(monkeypatch, n, catalog, width, at_once):
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", at_once)
    h, items, targets = problem(n, catalog, width)
    got = full_cross_entropy(h[:, None], items, targets)
    same_gradients(got, reference(h, items, targets), {"h": h, "items": items})


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("interests", [1, 2, 5])
@pytest.mark.parametrize("at_once", [1, 3300, 1 << 19])
def test_the_best_of_several_vectors_and_a_bias_count(monkeypatch, interests, biased, at_once):
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", at_once)
    _, items, targets = problem(70, 41, 6)
    users, bias = torch.randn(70, interests, 6).double(), torch.randn(41).double()
    leaves = {"users": users.requires_grad_(), "items": items}
    if biased:
        leaves["bias"] = bias.requires_grad_()
    got = full_cross_entropy(users, items, targets, leaves.get("bias"))
    same_gradients(got, reference(users, items, targets, leaves.get("bias")), leaves)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("interests", [1, 3])
@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("at_once", [1, 3300, 1 << 19])
def test_what_teachers_say_has_its_share(monkeypatch, at_once, share, interests, biased):
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", at_once)
    _, items, targets = problem(70, 41, 6)
    users = torch.randn(70, interests, 6).double().requires_grad_()
    theirs, table = torch.randn(70, 9).double(), torch.randn(41, 9).double()
    leaves, bias = {"users": users, "items": items}, None
    if biased:
        bias = leaves["bias"] = torch.randn(41).double().requires_grad_()
    said = theirs @ table.t() if bias is None else theirs @ table.t() + bias.detach()
    logits = (users @ items.t()).amax(1)
    logits = logits if bias is None else logits + bias
    chances, found = said[:, 1:].softmax(1), logits[:, 1:].log_softmax(1)
    wanted = -(chances * found).sum(1).mean() * share
    wanted = wanted + (1 - share) * reference(users, items, targets, bias)
    taught = Taught(theirs, table, None if bias is None else bias.detach(), share)
    got = full_cross_entropy(users, items, targets, bias, taught=taught)
    same_gradients(got, wanted, leaves)


def test_a_vector_that_is_never_best_gets_no_gradient():
    _, items, targets = problem(5, 9, 3)
    strong = torch.randn(5, 1, 3).double()
    users = torch.cat([strong, strong], 1).requires_grad_()  # equals: the first one counts
    full_cross_entropy(users, items, targets).backward()
    assert users.grad[:, 0].abs().min() > 0
    assert not users.grad[:, 1].any()


def test_chances_too_small_for_digits_are_found_from_all_vectors_and_the_bias():
    _, items, targets = problem(6, 30, 4)
    users, bias = 300 * torch.randn(6, 3, 4), 100 * torch.randn(30)
    got = full_cross_entropy(users, items.float(), targets, bias)
    wanted = reference(users.double(), items, targets, bias.double())
    assert wanted > 100
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=0)


def test_gradcheck():
    h, items, targets = problem(5, 7, 3)
    users = torch.stack([h, h.roll(1, 0)], 1).detach().requires_grad_()
    bias = torch.randn(7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a, b, c: full_cross_entropy(a, b, targets, c), (users, items, bias)
    )


def test_padding_takes_no_part():
    h, items, targets = problem(20, 30, 4)
    with torch.no_grad():
        items[0] = 100 * h[0]  # would be the best item of row 0 by far
    loss = full_cross_entropy(h[:, None], items, targets)
    torch.testing.assert_close(loss, reference(h, items, targets))
    loss.backward()
    assert torch.equal(items.grad[0], torch.zeros_like(items[0]))


def test_large_logits_stay_finite():
    h, items, targets = problem(20, 30, 4, torch.float32)
    loss = full_cross_entropy(h[:, None] * 1e4, items * 1e4, targets)
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


@pytest.mark.parametrize("interests", [1, 4])
def test_logits_are_never_held_at_once(monkeypatch, interests):
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 1 << 14)
    monkeypatch.setattr(losses, "FEWEST_ROWS", 1)
    n, catalog, width = 1000, 700, 8
    h, items, targets = problem(n, catalog, width, torch.float32)
    users, bias = torch.randn(n, interests, width).requires_grad_(), torch.zeros(catalog)
    with Largest() as ours:
        full_cross_entropy(users, items, targets, bias).backward()
    assert ours.numel <= max(1 << 14, n * interests * width)
    with Largest() as theirs:
        reference(h, items, targets).backward()
    assert theirs.numel >= n * (catalog - 1)  # so the count can see it


def test_bfloat16_inputs_are_summed_in_float32():
    h, items, targets = problem(400, 60, 8, torch.bfloat16)
    loss = full_cross_entropy(h[:, None], items, targets)
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
    ours = sampled_softmax(*scores_of(h, items, targets, negatives), log_expected[negatives])
    assert abs((ours - full).item()) < 0.03
    (grad,) = torch.autograd.grad(ours, items)
    (wanted,) = torch.autograd.grad(full, items)
    assert (grad - wanted).norm() < 0.1 * wanted.norm()
    # The same number taken off every logit: the popular items' share is then overstated.
    flat = torch.full_like(log_expected, float(torch.tensor(m / 49.0).log()))
    biased = sampled_softmax(*scores_of(h, items, targets, negatives), flat[negatives])
    (biased,) = torch.autograd.grad(biased, items)
    assert (biased - wanted).norm() > 0.3 * wanted.norm()


def test_a_negative_that_is_the_target_is_left_out_of_its_row():
    h, items, targets = problem(2, 6, 3)
    targets = torch.tensor([2, 4])
    negatives, zero = torch.tensor([2, 5, 5, 4]), torch.zeros(4, dtype=torch.float64)
    got = sampled_softmax(*scores_of(h, items, targets, negatives), zero)
    rows = []
    for row, kept in enumerate(([2, 5, 5, 4], [4, 2, 5, 5])):
        rows.append(-(h[row] @ items[kept].t()).log_softmax(0)[0])
    torch.testing.assert_close(got, torch.stack(rows).mean())
    only = scores_of(h[:1], items, targets[:1], torch.tensor([2, 2]))
    only = sampled_softmax(*only, zero[:2])
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


def gbce(t: float) -> Callable[..., Tensor]:
    """The loss as a function of (hit, scores, other, n_items)."""
    return partial(generalised_binary_cross_entropy, t=t)


def bce(hit: Tensor, scores: Tensor, other: Tensor, n_items: int) -> Tensor:
    return binary_cross_entropy(hit, scores, other)


PAIRWISE = {
    "bce": (bce, bce_of_a_row),
    "gbce t=0": (gbce(0.0), partial(gbce_of_a_row, t=0.0)),
    "gbce": (gbce(0.75), partial(gbce_of_a_row, t=0.75)),
    "gbce t=1": (gbce(1.0), partial(gbce_of_a_row, t=1.0)),
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
    got = loss(*scores_of(h, items, targets, negatives), catalog - 1)
    same_gradients(got, wanted, {"h": h, "items": items})


@pytest.mark.parametrize("name", PAIRWISE)
def test_pairwise_losses_stay_finite(name):
    loss, _ = PAIRWISE[name]
    h, items, targets = problem(20, 30, 4, torch.float32)
    got = loss(*scores_of(h * 1e4, items * 1e4, targets, torch.arange(1, 30)), 29)
    got.backward()
    assert torch.isfinite(got)
    assert torch.isfinite(h.grad).all()
    assert torch.isfinite(items.grad).all()


@pytest.mark.parametrize("name", PAIRWISE)
def test_a_row_whose_negatives_are_its_target_learns_from_the_target_alone(name):
    loss, _ = PAIRWISE[name]
    h, items, _ = problem(1, 6, 3)
    got = loss(*scores_of(h, items, torch.tensor([2]), torch.tensor([2, 2])), 5)
    (grad,) = torch.autograd.grad(got, items)
    assert torch.isfinite(grad).all()
    assert not grad[[0, 1, 3, 4, 5]].any()


def test_gbce_ends_at_bce_and_at_the_full_catalog():
    """t = 0 is BCE over all m negatives; with every item drawn, t changes nothing."""
    h, items, targets = problem(25, 12, 4)
    some, every = torch.tensor([3, 5, 5, 8]), torch.arange(1, 12).repeat(2)
    hit, scores, other = few = scores_of(h, items, targets, some)
    plain = -(log_sigma(hit) + (log_sigma(-scores) * other).sum(1)).mean() / 5
    got = generalised_binary_cross_entropy(*few, 11, 0.0)
    torch.testing.assert_close(got, plain)
    assert generalised_binary_cross_entropy(*few, 11, 1.0) < got
    many = scores_of(h, items, targets, every)
    torch.testing.assert_close(
        generalised_binary_cross_entropy(*many, 11, 1.0),
        generalised_binary_cross_entropy(*many, 11, 0.0),
    )


def test_in_bfloat16_a_loss_is_off_by_what_eight_bits_hold_of_its_scores():
    """As docs/losses.md says: (1 + |s|) / 256 nats of one target, and little of many."""
    h, items, _ = problem(48, 400, 32, torch.float32)
    h, items = (h.detach() / 32**0.5 * 2.5)[:, None], items.detach()
    logits = (h[:, 0] @ items[1:].t()).double()
    random = torch.Generator().manual_seed(1)
    targets = torch.multinomial(logits.softmax(1), 1, generator=random)[:, 0] + 1
    wanted = torch.nn.functional.cross_entropy(logits, targets - 1, reduction="none")
    got = torch.stack(
        [
            full_cross_entropy(*(h[i : i + 1], items, targets[i : i + 1]), products=torch.bfloat16)
            for i in range(len(h))
        ]
    )
    errors = got.double() - wanted
    assert (errors.abs() <= (1 + logits.abs().amax(1)) / 256).all()
    assert errors.abs().max() > 0.01  # more than the .004 of scores near 0
    assert errors.mean().abs() < 0.004
