"""The update: torch's own numbers for what is dense, rows for what is sparse."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from torch.nn.functional import embedding
from training.small_runs import SMALL, model_of

from longrec.config.training import TrainConfig
from longrec.core.errors import LongrecError
from longrec.mixers import product_keys
from longrec.models import MODELS, ParameterGroup, SequenceModel
from longrec.models.common.registry import config_keys
from longrec.training.optimiser import Optimiser, shares_of

CONFIG = TrainConfig(
    learning_rate=0.05, warmup_steps=4, clip=0.5, average=0.9, weight_decay=0.1, beta2=0.95
)


class Toy(nn.Module):
    """A table beside two dense layers, read with a sparse gradient or a dense one."""

    def __init__(self, sparse: bool, rows: int = 30) -> None:
        super().__init__()
        self.sparse, self.groups = sparse, None
        self.scale = nn.Parameter(torch.randn(6))
        self.bank = nn.Module()
        self.bank.slots = nn.Parameter(torch.randn(rows, 6))
        self.layer = nn.Linear(6, 6)
        self.unused = nn.Parameter(torch.randn(3))

    def parameter_groups(self):
        return self.groups or [ParameterGroup([name for name, _ in self.named_parameters()])]

    def sparse_tables(self):
        return ["bank.slots"] if self.sparse else []

    def item_tables(self):
        return []

    def forward(self, read):
        found = embedding(read, self.bank.slots, sparse=self.sparse)
        return self.layer(found * self.scale).square().sum()


def make(sparse: bool, kind=torch.float64, config: TrainConfig = CONFIG, groups=None):
    torch.manual_seed(0)
    model = Toy(sparse).to(kind)
    model.groups = groups
    average = copy.deepcopy(model).requires_grad_(False)
    return model, average, Optimiser(model, average, config)


def update(model, optimiser, number, read):
    optimiser.zero_grad()
    model(read).backward()
    optimiser.step(number)


def reads(steps: int, rows: int = 30):
    """Rows read per step, some of them twice."""
    torch.manual_seed(1)
    return [torch.randint(rows, (8,)) for _ in range(steps)]


def equal(model: nn.Module, other: nn.Module) -> None:
    for (name, tensor), wanted in zip(
        model.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, wanted), name


def test_dense_numbers_are_torchs():
    model, average, optimiser = make(False, torch.float32)
    wanted, wanted_average = copy.deepcopy(model), copy.deepcopy(average)
    adam = torch.optim.AdamW(
        wanted.parameters(), lr=0.05, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    for number, read in enumerate(reads(20)):
        update(model, optimiser, number, read)
        adam.param_groups[0]["lr"] = 0.05 * min(1.0, (number + 1) / 4)
        adam.zero_grad()
        wanted(read).backward()
        nn.utils.clip_grad_norm_(wanted.parameters(), 0.5)
        adam.step()
        decay = min(0.9, (1 + number) / (10 + number))
        for mean, parameter in zip(wanted_average.parameters(), wanted.parameters(), strict=True):
            mean.lerp_(parameter.detach(), 1 - decay)
    equal(model, wanted)
    equal(average, wanted_average)


@pytest.mark.parametrize("clip", [0.5, 1e9])
def test_reading_every_row_gives_the_dense_numbers(clip):
    """Clipping included: rows read twice count with the sum of their gradients."""
    config = TrainConfig(learning_rate=0.05, warmup_steps=4, clip=clip, weight_decay=0.1)
    models = []
    for sparse in (True, False):
        model, average, optimiser = make(sparse, config=config)
        for number in range(25):
            torch.manual_seed(number)
            read = torch.cat([torch.randperm(30), torch.randint(30, (10,))])
            update(model, optimiser, number, read)
        optimiser.settle()
        models.append((model, average))
    for lazy, dense in zip(*models, strict=True):
        for name, tensor in lazy.state_dict().items():
            torch.testing.assert_close(tensor, dense.state_dict()[name], rtol=1e-10, atol=1e-12)


def test_the_norm_counts_touched_rows(monkeypatch):
    seen = []
    real = nn.utils.get_total_norm
    monkeypatch.setattr(nn.utils, "get_total_norm", lambda g: seen.append(real(g)) or seen[-1])
    for sparse in (True, False):
        model, _, optimiser = make(sparse)
        update(model, optimiser, 0, torch.tensor([3, 3, 7, 3, 29]))
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-12, atol=0)


def test_rows_are_up_to_date_once_settled():
    model, average, optimiser = make(True)
    before = model.bank.slots.detach().clone()
    plan = [torch.tensor([1, 2]), torch.tensor([2, 3]), torch.tensor([2])]
    share, decays = 1.0, []
    for number, read in enumerate(plan):
        update(model, optimiser, number, read)
        share *= 1 - 0.1 * 0.05 * (number + 1) / 4
        decays.append((share, min(0.9, (1 + number) / (10 + number))))
    assert torch.equal(model.bank.slots[9], before[9])
    optimiser.settle()
    torch.testing.assert_close(model.bank.slots[9], before[9] * share)
    mean = before[9].clone()
    for share, decay in decays:
        mean = decay * mean + (1 - decay) * share * before[9]
    torch.testing.assert_close(average.bank.slots[9], mean)
    assert not torch.allclose(model.bank.slots[3], before[3] * share)


@pytest.mark.parametrize("refreshed", [True, False])
def test_rows_that_are_refreshed_are_read_as_if_settled(refreshed):
    """A loss that feels the size of what it reads gives the numbers of no row ever waiting."""
    lazy, lazy_average, waiting = make(True)
    plain, plain_average, prompt = make(True)
    losses = []
    for number, read in enumerate(reads(25)):
        if refreshed:
            waiting.rows["bank.slots"].refresh(read)
        prompt.settle()
        losses.append((lazy(read).item(), plain(read).item()))
        update(lazy, waiting, number, read)
        update(plain, prompt, number, read)
    apart = max(abs(mine / wanted - 1) for mine, wanted in losses)
    assert apart < 1e-10 if refreshed else apart > 1e-4
    waiting.settle()
    prompt.settle()
    for model, wanted in ((lazy, plain), (lazy_average, plain_average)):
        close = [
            torch.allclose(a, b, rtol=1e-9, atol=1e-11)
            for a, b in zip(model.parameters(), wanted.parameters(), strict=True)
        ]
        assert all(close) == refreshed


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_of_items_are_brought_up_to_date_where_they_wait(monkeypatch, sparse):
    monkeypatch.setattr(Toy, "item_tables", lambda self: ["bank.slots"])
    model, _, optimiser = make(sparse)
    update(model, optimiser, 0, torch.tensor([4]))
    before = copy.deepcopy(model)
    optimiser.read(torch.tensor([3, 4]), torch.tensor([[4]]))
    changed = (model.bank.slots != before.bank.slots).any(1)
    assert changed.nonzero().flatten().tolist() == ([3] if sparse else [])


def test_a_step_that_reads_no_row_still_counts():
    model, _, optimiser = make(True)
    update(model, optimiser, 0, torch.tensor([4]))
    optimiser.zero_grad()
    model.layer.weight.square().sum().backward()
    before = model.bank.slots.detach().clone()
    optimiser.step(1)
    optimiser.settle()
    lr = (0.05 / 4, 0.05 / 2)
    torch.testing.assert_close(model.bank.slots[4], before[4] * (1 - 0.1 * lr[1]))
    torch.testing.assert_close(
        model.bank.slots[5], before[5] * (1 - 0.1 * lr[0]) * (1 - 0.1 * lr[1])
    )


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("at", [0, 9])
def test_a_loaded_optimiser_goes_on_bit_for_bit(sparse, at):
    model, average, optimiser = make(sparse, torch.float32)
    plan = reads(20)
    for number, read in enumerate(plan[:at]):
        update(model, optimiser, number, read)
        if number == 5:
            optimiser.settle()
    saved = load(save({k: v.contiguous() for k, v in optimiser.tensors().items()}))
    again, again_average, resumed = make(sparse, torch.float32)
    again.load_state_dict(model.state_dict())
    again_average.load_state_dict(average.state_dict())
    resumed.load(saved)
    for number, read in enumerate(plan[at:], at):
        update(model, optimiser, number, read)
        update(again, resumed, number, read)
    optimiser.settle()
    resumed.settle()
    equal(model, again)
    equal(average, again_average)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("scale.exp_avg"), r"parameter scale: the state has exp_avg_sq, st"),
        (lambda t: t.update({"scale.exp_avg": torch.zeros(2)}), r"scale: exp_avg is .*\(2,\)"),
        (lambda t: t.update({"9.step": torch.zeros(())}), "has 9.step"),  # as it was numbered once
        (lambda t: t.update({"rows.other.marks": torch.zeros(3)}), "has rows.other.marks"),
        (lambda t: t.pop("rows.bank.slots.marks"), "rows of bank.slots: the state has"),
        (lambda t: t.update({"rows.bank.slots.first": torch.zeros(4, 6)}), r"bank.slots: first is"),
    ],
)
def test_tensors_of_another_model_are_refused(change, message):
    model, _, optimiser = make(True)
    update(model, optimiser, 0, torch.tensor([4]))
    tensors = optimiser.tensors()
    change(tensors)
    with pytest.raises(ValueError, match=message):
        make(True)[2].load(tensors)


def test_a_dense_gradient_of_a_sparse_table_is_refused():
    model, _, optimiser = make(True)
    model.sparse = False
    with pytest.raises(ValueError, match=r"bank.slots .* gradient is dense"):
        update(model, optimiser, 0, torch.tensor([4]))


def test_an_unknown_sparse_table_is_refused(monkeypatch):
    monkeypatch.setattr(Toy, "sparse_tables", lambda self: ["slots"])
    with pytest.raises(ValueError, match=r"\['slots'\]"):
        make(True)


GROUPS = [
    ParameterGroup(["scale", "layer.bias"], decay=0.0),
    ParameterGroup(["bank.slots"], decay=2.0, rate=0.5),
    ParameterGroup(["layer.weight", "unused"], rate=3.0),
]


def test_each_group_has_its_own_decay_and_rate():
    """By torch's own groups, in another order of parameters than the model's."""
    model, average, optimiser = make(False, torch.float32, groups=GROUPS)
    wanted, wanted_average = copy.deepcopy(model), copy.deepcopy(average)
    named, each = dict(wanted.named_parameters()), list(wanted.parameters())
    adam = torch.optim.AdamW(
        [
            {"params": [named[n] for n in g.names], "weight_decay": 0.1 * g.decay, "rate": g.rate}
            for g in GROUPS
        ],
        betas=(0.9, 0.95),
        fused=True,
    )
    for number, read in enumerate(reads(20)):
        update(model, optimiser, number, read)
        for group in adam.param_groups:
            group["lr"] = 0.05 * min(1.0, (number + 1) / 4) * group["rate"]
        adam.zero_grad()
        wanted(read).backward()
        nn.utils.clip_grad_norm_(each, 0.5)
        adam.step()
        decay = min(0.9, (1 + number) / (10 + number))
        for mean, parameter in zip(wanted_average.parameters(), each, strict=True):
            mean.lerp_(parameter.detach(), 1 - decay)
    equal(model, wanted)
    equal(average, wanted_average)


def test_a_table_updated_by_rows_has_its_groups_decay_and_rate():
    found = []
    for sparse in (True, False):
        model, average, optimiser = make(sparse, groups=GROUPS)
        for number in range(25):
            torch.manual_seed(number)
            read = torch.cat([torch.randperm(30), torch.randint(30, (10,))])
            update(model, optimiser, number, read)
        optimiser.settle()
        found.append((model, average))
    for lazy, dense in zip(*found, strict=True):
        for name, tensor in lazy.state_dict().items():
            torch.testing.assert_close(tensor, dense.state_dict()[name], rtol=1e-10, atol=1e-12)


def test_a_state_is_known_by_names_whatever_the_groups_order():
    model, average, optimiser = make(True, torch.float32, groups=GROUPS)
    for number, read in enumerate(reads(9)):
        update(model, optimiser, number, read)
    again, again_average, resumed = make(True, torch.float32, groups=GROUPS[::-1])
    again.load_state_dict(model.state_dict())
    again_average.load_state_dict(average.state_dict())
    resumed.load({name: tensor.clone() for name, tensor in optimiser.tensors().items()})
    for number, read in enumerate(reads(9), 9):
        update(model, optimiser, number, read)
        update(again, resumed, number, read)
    equal(model, again)
    equal(average, again_average)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (GROUPS[:2], r"Toy.parameter_groups\(\) leaves out 'unused'"),
        ([*GROUPS, ParameterGroup(["scale"])], r"has 'scale' in two groups"),
        ([*GROUPS, ParameterGroup(["slots"])], r"has 'slots', which is no parameter"),
    ],
)
def test_a_parameter_stands_in_one_group(groups, message):
    with pytest.raises(LongrecError, match=message):
        make(False, groups=groups)


def test_a_parameter_that_two_modules_share_is_one_parameter():
    model = Toy(False)
    model.again = nn.Linear(6, 6)
    model.again.weight = model.layer.weight
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    model.groups = [ParameterGroup(names)]
    assert shares_of(model)["again.weight"] == shares_of(model)["layer.weight"] == (1, 1)


@pytest.mark.parametrize("name", [n for n, m in MODELS.items() if issubclass(m, SequenceModel)])
def test_only_what_multiplies_is_decayed(monkeypatch, name):
    """No norm, bias, temperature, rate or gate moves in a step without gradients, by a bit."""
    monkeypatch.setattr(product_keys, "SPARSE_ROWS", 64)
    config = MODELS[name].config_class
    banks = {"memory_slots": 64} if "memory_slots" in config_keys(config) else {}
    known = {key: value for key, value in SMALL.items() if key in config_keys(config)}
    model = model_of(name, 20, **known, **banks)
    average = copy.deepcopy(model).requires_grad_(False)
    optimiser = Optimiser(model, average, TrainConfig(weight_decay=0.5, warmup_steps=0))
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    optimiser.zero_grad()
    for key, p in model.named_parameters():
        if key not in model.sparse_tables():
            p.grad = torch.zeros_like(p)
    for number in range(3):
        optimiser.step(number)
    optimiser.settle()
    words = re.compile(
        r"norm|bias|temperature|rate|gate|decay|scale|eps|mask|_log|gain|offset|table"
    )
    for key, p in model.named_parameters():
        place, _, own = key.rpartition(".")
        named = bool(words.search(own)) and not isinstance(model.get_submodule(place), nn.Linear)
        still = p.ndim < 2 or named
        if still:
            assert torch.equal(p, before[key]), key
        else:
            torch.testing.assert_close(p, before[key] * (1 - 0.5e-3) ** 3, msg=key)


def test_half_lives_stay_where_they_start_under_weight_decay_alone():
    """In 25,000 steps weight decay alone once took a half-life of 3,000 events to 471."""
    model = model_of("elastic", 20)
    mixer = model.blocks[0].mixer
    average = copy.deepcopy(model).requires_grad_(False)
    optimiser = Optimiser(model, average, TrainConfig(weight_decay=0.5))
    before = math.log(2) / mixer.log_rate.detach().exp()
    for number in range(300):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimiser.step(number)
    assert before.max() > 2900
    assert torch.equal(math.log(2) / mixer.log_rate.detach().exp(), before)
