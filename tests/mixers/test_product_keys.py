"""The memory bank: exact retrieval, gradients, balance, usage, and cost that does not see M."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixers.definitions import define_memory
from torch import nn

from longrec.checks.cost import Counter
from longrec.mixers.product_keys import (
    BALANCE_REACH,
    SPARSE_ROWS,
    InterestMemory,
    Usage,
    check_memory,
    watch_usage,
)


def bank(slots: int = 64, topk: int = 4, dim: int = 8, **settings) -> InterestMemory:
    torch.manual_seed(0)
    memory = InterestMemory(dim, slots, topk, **settings).double()
    with torch.no_grad():
        memory.bias.normal_()
    return memory


@given(side=st.integers(1, 12), share=st.floats(0.01, 1), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_the_best_slots_are_found_exactly(side, share, seed):
    memory = bank(side * side, max(1, int(share * side * side)))
    u = torch.randn(5, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    got, wanted = memory(u), define_memory(memory, u)
    assert torch.equal(got.indices.sort(1).values, wanted.indices.sort(1).values)
    order, other = got.indices.argsort(1), wanted.indices.argsort(1)
    torch.testing.assert_close(got.weights.gather(1, order), wanted.weights.gather(1, other))


def test_weights_sum_to_the_number_of_slots_and_leave_the_bias_out():
    memory = bank().eval()
    u = torch.randn(7, 8, dtype=torch.float64)
    before = memory(u)
    torch.testing.assert_close(before.weights.sum(1), torch.full((7,), 4.0).double())
    with torch.no_grad():
        memory.bias += 3  # the same for all: nothing else is chosen, nothing weighs more
    after = memory(u)
    assert torch.equal(after.indices, before.indices)
    torch.testing.assert_close(after.weights, before.weights)


def test_gradients_reach_keys_query_net_and_slots_as_the_definition_has_them():
    u = torch.randn(6, 8, dtype=torch.float64)
    weigh = torch.randn(6, 4, 8, dtype=torch.float64)
    grads = []
    for read in (InterestMemory.forward, define_memory):
        memory = bank()
        (memory.vectors(read(memory, u)) * weigh).sum().backward()
        grads.append({name: p.grad for name, p in memory.named_parameters()})
        assert all(grad.abs().sum() > 0 for grad in grads[-1].values())
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], msg=lambda m, name=name: f"{name}: {m}")


def test_sparse_gradients_are_the_dense_ones():
    grads = []
    for sparse in (False, True):
        memory = bank()
        memory.sparse = sparse
        u = torch.randn(6, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        memory.vectors(memory(u)).square().sum().backward()
        grads.append(memory.slots.grad)
    assert not grads[0].is_sparse
    assert grads[1].is_sparse
    torch.testing.assert_close(grads[1].to_dense(), grads[0])


def test_balancing_lowers_the_bias_of_what_is_read_too_often():
    memory = bank(64, 4)
    u = torch.randn(50, 8, dtype=torch.float64)
    read = memory(u)
    read.weights.sum().backward()
    use = torch.stack(
        [
            torch.bincount(half.flatten(), minlength=8)
            for half in (read.indices // 8, read.indices % 8)
        ]
    )
    often = use > 50 * 4 / 8
    assert (memory.bias.grad[often] > 0).all()
    assert (memory.bias.grad[use == 0] < 0).all()
    for quiet in (bank(64, 4, balance=False), bank(64, 4).eval()):
        quiet(u).weights.sum().backward()
        assert quiet.bias.grad is None


def test_the_centre_moves_towards_the_mean_question():
    memory, u = bank(balance=True), torch.randn(50, 8, dtype=torch.float64) + 2
    mean = nn.functional.layer_norm(memory.query(u), (8,)).mean(0)
    optimizer = torch.optim.AdamW(memory.parameters(), 1e-2)
    before = (mean - BALANCE_REACH * memory.centre).norm()
    for _ in range(30):
        memory.zero_grad()
        memory(u).weights.sum().backward()  # their sum is fixed: no other gradient
        optimizer.step()
    mean = nn.functional.layer_norm(memory.query(u), (8,)).mean(0)
    assert (mean - BALANCE_REACH * memory.centre).norm() < before / 3


def test_without_balancing_a_question_is_the_papers():
    memory, u = bank(balance=False), torch.randn(5, 8, dtype=torch.float64)
    plain = nn.functional.layer_norm(memory.query(u), (8,), eps=1e-12)
    torch.testing.assert_close(memory._questions(u), plain, rtol=1e-3, atol=1e-3)


def collapse(balance: bool) -> dict[str, float]:
    """Train questions that look alike to be told apart; what of the bank is used at the end."""
    torch.manual_seed(0)
    memory, tell = InterestMemory(8, 1024, 4, balance), nn.Linear(8, 3)
    common, random = torch.randn(8) * 3, torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW([*memory.parameters(), *tell.parameters()], 3e-3)
    for _ in range(200):
        u = common + torch.randn(32, 8, generator=random) * 0.3
        loss = nn.functional.cross_entropy(
            tell(memory.vectors(memory(u)).sum(1)), (u - common)[:, :3].argmax(1)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    memory.eval()
    with watch_usage(memory) as usage, torch.no_grad():
        memory(common + torch.randn(500, 8, generator=random) * 0.3)
    return usage.statistics()


def test_balancing_keeps_a_bank_from_collapsing():
    without, balanced = collapse(False), collapse(True)
    assert without["memory_share"] < 0.2
    assert balanced["memory_share"] > 3 * without["memory_share"]
    assert balanced["memory_entropy"] > without["memory_entropy"] + 0.2
    assert balanced["memory_kl"] < 0.7 * without["memory_kl"]


def test_usage_statistics():
    usage = Usage(4)
    assert usage.statistics() == {}
    usage.add(torch.tensor([[0, 1], [1, 1]]))
    found = usage.statistics()
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert found["memory_share"] == 0.5
    assert found["memory_entropy"] == pytest.approx(entropy / math.log(4))
    assert found["memory_kl"] == pytest.approx(math.log(4) - entropy)
    usage.counts[:] = 3
    assert usage.statistics() == pytest.approx(
        {"memory_share": 1.0, "memory_entropy": 1.0, "memory_kl": 0.0}
    )


def test_usage_is_watched_for_every_bank_and_only_in_its_context():
    model = nn.ModuleList([bank(16, 2), nn.Linear(2, 2), bank(64, 4)])
    u = torch.randn(5, 8, dtype=torch.float64)
    with watch_usage(model) as usage:
        first, last = model[0](u), model[2](u)
    model[0](u)
    assert len(usage.counts) == 80
    assert usage.counts.sum() == 5 * 2 + 5 * 4
    assert usage.counts[:16].sum() == 10
    assert usage.counts[first.indices].all()
    assert usage.counts[16 + last.indices].all()
    with watch_usage(nn.Linear(2, 2)) as usage:
        pass
    assert usage.statistics() == {}


def test_reading_and_its_gradient_cost_no_pass_over_the_slots():
    slots = SPARSE_ROWS * 4
    memory = InterestMemory(8, slots, 4)
    u = torch.randn(10, 8)
    with Counter() as counter:
        memory.vectors(memory(u)).sum().backward()
    assert counter.cost.largest < slots / 4
    assert counter.cost.written < slots


@pytest.mark.parametrize(
    ("slots", "topk", "dim", "message"),
    [
        (
            1000,
            8,
            64,
            "memory_slots is 1000; product keys need a square number, such as 961 or 1024",
        ),
        (-4, 8, 64, "memory_slots is -4"),
        (16, 17, 64, "memory_topk is 17; it must lie in 1..memory_slots, 16"),
        (16, 0, 64, "memory_topk is 0"),
        (16, 4, 63, "dim is 63"),
    ],
)
def test_a_bank_that_cannot_be_is_refused(slots, topk, dim, message):
    with pytest.raises(ValueError, match=message):
        check_memory(slots, topk, dim)


def test_no_bank_asks_nothing_of_the_other_settings():
    check_memory(0, 0, 63)
