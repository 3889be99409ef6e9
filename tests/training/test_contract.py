"""Whatever a model's scores are made of, its losses train by those scores and by all parts of them.

Systems that are not longrec's own (models.skeletons), each loss held to plain autograd in float64.
"""

from __future__ import annotations

import pytest
import torch
from models.skeletons import SYSTEMS, WITHOUT_TIMES, register
from torch import Tensor
from training.small_runs import model_of, run_of

from longrec.config.training import TrainConfig
from longrec.core.errors import UsageError
from longrec.data.splits import leave_one_out
from longrec.models import SequenceModel
from longrec.training import fit as fitting
from longrec.training import objective
from longrec.training.objective import make_objective

ITEMS = 30
SAMPLED = ["sampled", "gbce", "bce"]
CASES = [
    (name, loss)
    for name in SYSTEMS
    for loss in ["full", *SAMPLED]
    if (name, loss) != ("target-aware", "full")
]


@pytest.fixture(autouse=True)
def skeletons(monkeypatch):
    register(monkeypatch)


@pytest.fixture
def histories(make_histories, ring):
    return make_histories(ring(40, ITEMS, 3, 30), n_items=ITEMS)


def small(name: str, n_items: int = ITEMS) -> SequenceModel:
    more = WITHOUT_TIMES.get(name, {})
    if name not in ("gru4rec", "hstu"):
        more = {"ffn_dim": 16}
    return model_of(name, n_items, dim=16, layers=1, dropout=0.0, **more)


def by_definition(
    model: SequenceModel, h: Tensor, targets: Tensor, negatives: Tensor, loss: str, chances: Tensor
) -> Tensor:
    """Row by row, item by item, from what `model.score` says of all items."""
    scores, m, rows = model.score(h), len(negatives), []
    for row, target in zip(scores, targets.tolist(), strict=True):
        others = [j for j in negatives.tolist() if j != target]
        if loss == "full":
            rows.append(row[1:].logsumexp(0) - row[target])
        elif loss == "sampled":
            terms = [row[target], *(row[j] - (m * chances[j]).log().float() for j in others)]
            rows.append(torch.stack(terms).logsumexp(0) - row[target])
        else:
            wrong = [-(1 - row[j].sigmoid()).log() for j in others]
            alpha = min(m / (model.n_items - 1), 1.0)
            beta = alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha)
            hit = -row[target].sigmoid().log()
            mean = hit + sum(wrong) / len(others)
            rows.append((beta * hit + sum(wrong)) / (m + 1) if loss == "gbce" else mean)
    return torch.stack(rows).mean()


@pytest.mark.parametrize(("name", "loss"), CASES)
def test_a_loss_is_the_definition_by_the_models_own_scores(
    monkeypatch, histories, tmp_path, name, loss
):
    monkeypatch.setattr(objective, "PAIRS_AT_ONCE", 40)  # a target-aware model's pairs in parts
    model = small(name).double()
    if model.output_bias is not None:
        torch.nn.init.normal_(model.output_bias)
    config = TrainConfig(loss=loss, **({} if loss == "full" else {"negatives": 7}))
    data = fitting.training_data(model, histories, leave_one_out(histories), config)
    chosen = make_objective(config, data, model.device, torch.float32)
    items, targets = torch.randint(1, ITEMS, (5, 6)), torch.randint(1, ITEMS, (30,))
    negatives = chosen.draw()
    split = leave_one_out(histories).train_end
    trained = torch.cat(
        [
            torch.from_numpy(histories.items[a:b].astype(int))
            for a, b in zip(histories.offsets[:-1], split, strict=True)
        ]
    )
    counts = torch.bincount(trained, minlength=ITEMS + 1).double() + 1
    counts[0] = 0
    found = []
    for form in (
        lambda h: chosen.loss(model, h, targets, negatives, None),
        lambda h: by_definition(model, h, targets, negatives, loss, counts / counts.sum()),
    ):
        value = form(model.hidden(items).flatten(0, 1))
        parameters = dict(model.named_parameters())
        grads = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        found.append((value, dict(zip(parameters, grads, strict=True))))
    (value, grads), (wanted, wanted_grads) = found
    torch.testing.assert_close(value, wanted, rtol=1e-10, atol=0)
    for key, grad in wanted_grads.items():
        assert (grad is None) == (grads[key] is None), key
        if grad is not None:
            torch.testing.assert_close(grads[key], grad, rtol=1e-8, atol=1e-12, msg=key)
    parts = {"two-interests": "interests", "target-aware": "pair", "untied": "output_items"}
    if name in parts:
        assert any(grads[key].any() for key in grads if key.startswith(parts[name]))


@pytest.mark.parametrize("loss", ["full", "sampled"])
def test_both_interests_and_the_bias_are_trained(tmp_path, histories, loss):
    """As in the case that was found: a second vector that the loss never saw."""
    model = small("two-interests")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    settings = {} if loss == "full" else {"negatives": 15}
    run_of(model, histories, tmp_path, loss=loss, weight_decay=0.0, **settings)
    moved = model.interests.weight - before["interests.weight"]
    assert all(half.abs().max() > 1e-3 for half in moved.chunk(2))
    assert (model.output_bias[1:] - before["output_bias"][1:]).abs().min() > 0
    assert not model.output_bias[0].any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "loss"),
    [("gru4rec", "full"), ("hstu", "sampled"), ("two-interests", "full"), ("target-aware", "bce")],
)
def test_skeletons_learn(tmp_path, histories, name, loss):
    counted = run_of(model_of("popularity", ITEMS), histories, tmp_path)
    settings = {} if loss == "full" else {"negatives": 15}
    result = run_of(small(name), histories, tmp_path, max_epochs=15, loss=loss, **settings)
    assert result.rows[-1].loss < 0.85 * result.rows[0].loss
    assert result.validation["served/ndcg@10"] > counted.validation["served/ndcg@10"] + 0.1


def test_the_full_loss_of_a_target_aware_model_is_refused(tmp_path, histories):
    with pytest.raises(UsageError, match=r"'full', but target-aware scores .*loss=sampled"):
        run_of(small("target-aware"), histories, tmp_path)


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("gru4rec", ["items", "output_bias"]),
        ("target-aware", ["items"]),
        ("two-interests", ["items", "output_bias"]),
        ("untied", ["items", "output_items", "output_bias"]),
        ("hstu", []),  # it makes its item vectors: whether of few rows training cannot know
    ],
)
def test_which_tables_are_updated_by_rows(
    tmp_path, make_histories, ring, monkeypatch, name, tables
):
    monkeypatch.setattr(fitting, "reads_few_items", lambda config, n_items: True)
    histories = make_histories(ring(10, 20, 3, 12), n_items=60)
    model = small(name, 60)
    before = {table: getattr(model, table).detach().clone() for table in tables}
    run_of(model, histories, tmp_path, loss="sampled", negatives=5)
    assert model.sparse_tables() == tables
    for table, old in before.items():
        assert (getattr(model, table) != old).any(), table
