"""Added scores, and the one score that everybody asks for: against the plain definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from models import added_scores
from models.added_scores import FollowersScore, followed, model_score, skeleton
from models.skeletons import SYSTEMS
from models.small_models import make

from longrec.config.border import make_config
from longrec.core.errors import UsageError
from longrec.models.common.added_score import (
    AddedScore,
    PopularityConfig,
    PopularityScore,
    check_added_score,
    register_added_score,
)
from longrec.models.common.scorer import Scorer

N = 12
ROWS = [[1, 2, 3, 2, 3, 4], [2, 3, 9], [5, 3, 2]]
RECENT = torch.tensor([[2, 1], [3, 0], [0, 0], [12, 7], [3, 3]])


def followers(weight: float = 1.0) -> FollowersScore:
    return FollowersScore.of(ROWS, N, weight)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_score_is_the_models_and_what_is_added(name):
    model, added = skeleton(name, N), followers()
    scorer = Scorer(model, added)
    h = torch.randn(len(RECENT), model.width, dtype=torch.float64)
    with torch.no_grad():
        alone, both = Scorer(model).score(h), scorer.score(h, recent=RECENT)
        assert torch.equal(alone, model.score(h))
        assert (both[:, 0] == -math.inf).all()
        for row, recent in enumerate(RECENT.tolist()):
            for item in range(1, N + 1):
                wanted = model_score(model, h[row, None], item) + followed(ROWS, recent, item)
                assert float(both[row, item]) == pytest.approx(wanted, abs=1e-6)
        same, own = torch.tensor([3, 3, 1, 12]), torch.randint(1, N + 1, (len(h), 5))
        torch.testing.assert_close(scorer.score(h, same, RECENT), both[:, same])
        torch.testing.assert_close(scorer.score(h, own, RECENT), both.gather(1, own))


@pytest.mark.parametrize("name", SYSTEMS)
def test_vectors_give_the_score_without_rows(name):
    model = skeleton(name, N)
    h = torch.randn(3, model.width, dtype=torch.float64)
    for added in (None, PopularityScore.of(np.arange(N))):
        scorer = Scorer(model, added)
        assert scorer.has_vectors == (name != "target-aware")
        if scorer.has_vectors:
            with torch.no_grad():
                users, items = scorer.user_vectors(h), scorer.item_vectors()
                scores = (users @ items.t()).amax(1)[:, 1:]
                torch.testing.assert_close(scores, scorer.score(h)[:, 1:])


def test_without_a_bias_vectors_are_the_models_own_memory():
    model = make("elastic")
    scorer, h = Scorer(model), torch.zeros(2, model.width, dtype=torch.float64)
    assert scorer.item_vectors() is model.items
    assert scorer.user_vectors(h).data_ptr() == h.data_ptr()


@pytest.mark.parametrize("name", ["popularity", "last-item", "transitions"])
def test_models_that_count_are_a_bias_and_rows_and_take_an_added_score(name):
    model = make(name)
    added = PopularityScore.of(np.ones(model.n_items), weight=2.0)
    scorer, h = Scorer(model, added), model.encode(torch.tensor([[3, 4], [5, 3]]))[:, -1]
    scores = scorer.score(h)
    torch.testing.assert_close(scores, model.score(h) + added.bias().double())
    made = scorer.user_vectors(h)[:, 0] @ scorer.item_vectors().t()
    rows = scorer.rows(h, None)
    if rows is not None:
        made[rows.row, rows.item] += rows.value
    torch.testing.assert_close(made[:, 1:], scores[:, 1:])
    assert (scorer.rows(h, None) is None) == (name == "popularity")


def test_last_items_are_asked_for_by_name(monkeypatch):
    added_scores.register(monkeypatch)
    with pytest.raises(ValueError, match="'followers'"):
        Scorer(skeleton("gru4rec", N), followers()).score(torch.zeros(1, 8, dtype=torch.float64))


def test_popularity_is_the_smoothed_share_of_events():
    counts = [5, 0, 3]
    bias = PopularityScore.of(np.array(counts), weight=0.7, smoothing=2).bias()
    wanted = [0.7 * math.log((count + 2) / (8 + 3 * 2)) for count in counts]
    assert bias.tolist() == pytest.approx([0, *wanted])


def test_it_grows_with_the_catalog_and_is_restored_from_tensors():
    for added in (PopularityScore.of(np.arange(N)), followers()):
        grown = added.with_items(N + 3)
        assert grown.n_items == N + 3
        assert len(grown.bias()) == N + 4
        again = type(added)(added.config, N)
        again.load_state_dict(added.state_dict())
        assert torch.equal(again.bias(), added.bias())
        recent = torch.tensor([[2, 3]])
        for got, wanted in zip(again.rows(recent), added.rows(recent), strict=True):
            assert torch.equal(got, wanted)


def test_what_does_not_fit_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="not registered"):
        check_added_score(followers(), N)
    added_scores.register(monkeypatch)
    check_added_score(followers(), N)
    with pytest.raises(ValueError, match=r"12 items.* has 13"):
        check_added_score(followers(), N + 1)
    with pytest.raises(UsageError, match="'followers': weight is inf; it must be a finite number"):
        check_added_score(followers(math.inf), N)
    wrong = PopularityScore(PopularityConfig(math.nan, smoothing=0), N)
    with pytest.raises(UsageError) as told:
        check_added_score(wrong, N)
    assert str(told.value) == (
        "the added score 'popularity': weight is nan; it must be a finite number. "
        "smoothing is 0; it must be above 0"
    )
    endless = followers()
    monkeypatch.setattr(endless, "bias", lambda: torch.full((N + 1,), math.inf))
    with pytest.raises(ValueError, match=r"bias .* must be .* finite"):
        check_added_score(endless, N)
    with pytest.raises(UsageError, match="smoothing"):
        make_config(PopularityConfig, {"smoothing": 0})


def test_the_registry_refuses_what_says_too_little():
    with pytest.raises(ValueError, match="registered already"):
        register_added_score("popularity")(FollowersScore)

    class NoConfig(AddedScore):
        """Without a config."""

    class NoBias(AddedScore):
        """Without a bias."""

        config_class = PopularityConfig

    with pytest.raises(TypeError, match="frozen dataclass"):
        register_added_score("none")(NoConfig)
    with pytest.raises(TypeError, match="must define bias"):
        register_added_score("none")(NoBias)
