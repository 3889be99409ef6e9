"""DFAR: heads by feedback, two interests, candidates against events, and what trains them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from models.small_models import make, near, small
from torch import Tensor
from torch.nn.functional import cosine_similarity, logsigmoid, softplus

import longrec
from longrec.checks.run import MODEL_CHECKS, TRAINED_CHECKS, run_all
from longrec.checks.small_model import TYPES
from longrec.checks.trained_model import TrainedModel
from longrec.core.errors import UsageError
from longrec.mixers import Context
from longrec.models.dfar import DFAR
from longrec.ops.factorization_heads import factorization_heads, naive_factorization_heads
from longrec.training.losses import Taught
from longrec.training.objective import Objective, minimised

NEGATIVE = "view, cart"


def mixed(**settings) -> DFAR:
    model = make("dfar", negative=NEGATIVE, max_length=8, **settings)
    assert isinstance(model, DFAR)
    return model


def histories(batch: int = 3, events: int = 8) -> tuple[Tensor, Context]:
    random = torch.Generator().manual_seed(2)
    items = torch.randint(1, 41, (batch, events), generator=random)
    types = torch.randint(-1, len(TYPES), (batch, events), generator=random)
    return items, Context(columns={"type": types})


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("by", ["feedback", "some events", "both"])
def test_every_pair_of_feedback_has_heads_of_its_own(heads, by):
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 13, heads, 3, generator=random, dtype=torch.float64)
    positive, read = torch.rand(2, 2, 13, generator=random) < 0.5
    positive, read = positive if by != "some events" else None, read if by != "feedback" else None
    y = factorization_heads(*(x.transpose(1, 2) for x in (q, k, v)), positive, read)
    for row in range(2):
        of_row = (None if x is None else x[row] for x in (positive, read))
        near(y[row], naive_factorization_heads(q[row], k[row], v[row], *of_row))
    if positive is not None:
        pieces = y.unflatten(-1, (heads, heads, 3)).abs().sum(-1)
        other = (torch.arange(heads) >= heads // 2) != positive[..., None]
        assert (pieces[other] == 0).all()  # of query heads of the other feedback


@pytest.mark.parametrize("kind", [0, 1])
def test_a_candidate_reads_the_events_through_a_network_over_each_pair(kind):
    model = mixed()
    items, ctx = histories()
    with torch.no_grad():
        read = model.read(model.encode(items, replace(ctx, lengths=torch.tensor([8, 1, 5])))[:, 4])
    real = torch.arange(8) < torch.tensor([[8], [1], [5]])  # events 0 to 4, where there are so many
    assert torch.equal(read.real[:, 3:], real[:, :5])
    assert not read.real[:, :3].any()
    attention, vectors = (
        model.attentions[kind],
        model.items[torch.tensor([[3, 9]])].expand(3, -1, -1),
    )
    _, attended = model.judge(read, vectors, kind)
    for user in range(3):
        events = read.events[user][read.real[user]]
        keys = events @ attention.keys.weight.t()
        for place, candidate in enumerate(vectors[user] + model.feedback[kind]):
            inner = (
                attention.of_event(keys)
                + attention.of_candidate(candidate)
                + (keys * candidate) @ attention.of_both.t()
            )
            share = attention.last(inner.relu())[:, 0].softmax(0)
            near(attended[user, place], share @ events)


def test_interests_are_means_over_their_own_feedback():
    model = mixed()
    items, ctx = histories()
    types = ctx.columns["type"]
    read = model.read(model.encode(items, ctx)[:, -1])
    # Types of no word, or of one that training did not know, count as positive.
    assert model.positive(types, items).tolist() == (~((types == 1) | (types == 2))).tolist()
    other = items.clone()
    other[0, 3] = items[0, 3] % 40 + 1
    for all_of in (0, 2):  # buy, view: the other interest is that of no events
        alone = Context(columns={"type": torch.full_like(types, all_of)})
        h = model.read(model.encode(items, alone)[:, -1])
        assert (h.interests[all_of == 0] == 0).all()
        assert not (h.interests[all_of != 0] == 0).any()
    assert all(torch.isfinite(x).all() for x in read.interests)


def test_scores_depend_on_the_feedback_of_events_and_on_no_later_one():
    model = mixed()
    items, ctx = histories()
    h = model.encode(items, ctx)
    for t in range(8):
        types = ctx.columns["type"].clone()
        types[:, t] = torch.where(types[:, t] > 0, 0, 1)
        found = model.encode(items, Context(columns={"type": types}))
        assert torch.equal(found[:, :t], h[:, :t])
        change = model.score(found[:, -1])[:, 1:] - model.score(h[:, -1])[:, 1:]
        assert (change.abs().amax(1) > 1e-9).all(), t


def test_what_training_minimises_is_the_definition():
    model = mixed(bpr=0.3, disentangling=0.7)
    items, ctx = histories()
    h = model.encode(items, ctx)[:, 5]
    targets, types = torch.tensor([4, 9, 30]), torch.tensor([0, 2, -1])
    read, vectors = model.read(h), model.items[targets][:, None]
    (yes, of_yes), (no, of_no) = (model.judge(read, vectors, kind) for kind in (0, 1))
    yes, no = yes[:, 0], no[:, 0]
    sign = torch.tensor([1.0, -1.0, 1.0])
    cosines = cosine_similarity(*read.interests) + cosine_similarity(of_yes, of_no, -1)[:, 0]
    wanted = softplus(yes[1]) / 3
    wanted = wanted + (0.7 * cosines - 0.3 * logsigmoid(sign * (yes - no))).mean()
    near(model.own_loss(h, targets, {"type": types}), wanted)

    def hits(model, h, targets, negatives, taught):
        assert taught is None or len(taught.users) == len(h)
        return softplus(-model.score(h, targets[:, None])).mean()

    objective = Objective(lambda: targets[:0], hits)
    whole = minimised(objective, model, h, targets, targets[:0], {"type": types})
    near(whole, wanted + softplus(-yes[[0, 2]]).sum() / 3)
    taught = Taught(torch.zeros(3, 2), torch.zeros(31, 2), None, 0.5)
    given = h, targets, targets[:0], {"type": types}, taught
    near(minimised(objective, model, *given), whole)
    none = minimised(objective, model, h, targets, targets[:0], {"type": torch.full((3,), 1)})
    assert torch.isfinite(none)


def test_negative_words_are_found_in_the_log_or_refused():
    model = mixed()
    assert model.negative_codes.tolist() == [2, 1]
    with pytest.raises(UsageError, match="no event of this log has the type 'cart': name types of"):
        model.learn_words({"type": ("buy", "view")})
    model.learn_words({"type": ("cart", "buy", "view")})
    assert model.negative_codes.tolist() == [2, 0]
    assert make("dfar").reads_columns == ()
    [(column, setting)] = DFAR.columns_by_setting.items()
    config = longrec.models.common.settings.parse_settings("dfar", dict([setting.split("=")]))[0]
    assert DFAR(config, 5).reads_columns == (column,)
    with pytest.raises(UsageError, match="heads is 3; it must be even"):
        longrec.models.common.settings.parse_settings("dfar", {"heads": 3, "dim": 12})
    with pytest.raises(UsageError, match="negative is ' ,'; it must name a word"):
        longrec.models.common.settings.parse_settings("dfar", {"negative": " ,"})


def test_with_negative_words_every_check_of_models_passes():
    of_mixed = small("dfar", negative="view")
    assert of_mixed.columns["type"].words == TYPES
    found = list(run_all("dfar", MODEL_CHECKS, of_mixed))
    assert [outcome for outcome in found if outcome.result == "failed"] == []


@pytest.mark.slow
def test_with_negative_words_every_check_of_trained_models_passes():
    with TrainedModel(small("dfar", negative="view", disentangling=0.0)) as trained:
        found = list(run_all("dfar", TRAINED_CHECKS, trained))
    assert [outcome for outcome in found if outcome.result == "failed"] == []


def test_it_learns_what_is_skipped_and_serves_it_after_loading(tmp_path):
    """Items 0 to 9 are always skipped, 10 to 19 always watched, whatever stood before."""
    random = np.random.default_rng(0)
    items = random.integers(0, 20, (40, 12))
    items[:, 9:] = random.integers(10, 20, (40, 3))  # so that validation asks for what is watched
    items = items.flatten()
    log = pl.DataFrame(
        {
            "user": np.repeat(np.arange(40), 12),
            "item": items,
            "time": np.arange(480),
            "type": np.where(items < 10, "skip", "watch"),
        }
    )
    data = longrec.prepare(log, tmp_path / "h", type="type")
    settings = {"loss": "bce", "negatives": 8, "dim": 8, "layers": 1, "learning_rate": 1e-2}
    settings |= {"max_epochs": 6, "average": 0.9, "warmup_steps": 5, "batch_tokens": 160}
    rec = longrec.train(*(data, "dfar", tmp_path / "run"), negative="skip", **settings)
    again = longrec.load(tmp_path / "run")
    assert again.model.negative_codes.tolist() == rec.model.negative_codes.tolist()
    found = again.recommend(users=[3, 4], data=data, k=10, exclude_seen=False)
    assert (found["item"] >= 10).mean() > 0.9
    with pytest.raises(UsageError, match="has the type 'hide': name types of"):
        longrec.train(data, "dfar", tmp_path / "other", negative="hide", **settings)
