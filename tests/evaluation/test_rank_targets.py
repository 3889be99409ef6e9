"""Ranks against a loop that is as simple as the definition."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
import torch
from models.added_scores import FollowersScore, followed, model_score, skeleton
from models.skeletons import SYSTEMS
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from longrec.data.splits import Targets, leave_one_out, prequential
from longrec.evaluation import rank_targets as ranking
from longrec.evaluation.metrics import MISS
from longrec.evaluation.rank_targets import rank_targets
from longrec.inference import encode
from longrec.mixers import Context
from longrec.models import MODELS, build_model
from longrec.models.common.base import Model
from longrec.models.common.scorer import Scorer
from longrec.retrieval import around
from longrec.retrieval.exact import ExactIndex

SMALL = {"dim": 8, "layers": 2, "ffn_dim": 16}


def model_of(name: str, n_items: int, **settings) -> Model:
    torch.manual_seed(0)
    model = build_model(name, MODELS[name].config_class(**settings), n_items).eval()
    with torch.no_grad():  # far from symmetric, so that ranks differ
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


class Fixed(Model):
    """The same scores for everybody."""

    causal = True
    streaming = "windowed"
    max_length = 3

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.n_items = len(scores)
        self.register_buffer("scores", torch.tensor([0.0, *scores]))

    def encode(self, items: Tensor, ctx: Context = Context()) -> Tensor:  # noqa: B008
        assert items.shape[1] <= self.max_length
        return items[..., None].float()

    def score(self, h: Tensor, items: Tensor | None = None) -> Tensor:
        scores = self.scores.repeat(len(h), 1)
        scores[:, 0] = -torch.inf
        return scores


def fixed(scores: list[float]) -> Scorer:
    return Scorer(Fixed(scores))


def by_model(model: Model, h: Tensor, history: list[int]) -> list[float]:
    return model.score(h)[0].tolist()


def by_hand(
    model: Model, histories, targets: Targets, limit: int | None = None, scores_of=by_model
) -> pl.DataFrame:
    """One target at a time, one item at a time."""
    rows = []
    for user, position, known in zip(targets.users, targets.positions, targets.known, strict=True):
        start = int(histories.offsets[user])
        history = histories.items[start:position].tolist()
        read = history if limit is None else history[-limit:]
        times = None
        if histories.times is not None:
            times = torch.from_numpy(histories.times[position - len(read) : position].copy())[None]
        with torch.no_grad():
            h = model.encode(torch.tensor([read]), Context(times=times))[:, -1]
            scores = scores_of(model, h, history)
        wanted = int(histories.items[position])
        ranks = []
        for filtered in (True, False):
            rank = 1
            for item in range(1, model.n_items + 1):
                if item == wanted or (filtered and item in history):
                    continue
                if not scores[item] < scores[wanted]:
                    rank += 1
            ranks.append(rank)
        best_first = sorted(range(1, model.n_items + 1), key=lambda item: (-scores[item], item))
        unseen = [item for item in best_first if item not in history]
        places = [{item: place for place, item in enumerate(x, 1)} for x in (unseen, best_first)]
        ranks += [place.get(wanted, MISS) for place in places]
        rows.append((user, position, len(history), *ranks, bool(known), wanted in history))
    names = ["user", "position", "length", *ranking.RANKS, "known", "repeat"]
    return pl.DataFrame(rows, schema=names, orient="row")


def timed(rows: list[list[int]]) -> list[list[int]]:
    return [[100 * n + 7 * user for n in range(len(row))] for user, row in enumerate(rows)]


@pytest.fixture
def histories(make_histories, ring):
    rows = ring(25, 30, 1, 60, seed=3)
    return make_histories(rows, timed(rows), n_items=30)


def cuts(monkeypatch) -> Iterator[None]:
    """All users and items at once; one user at a time; items in blocks of seven."""
    for scores_at_once, narrowest in ((1 << 22, 1024), (1, 1024), (1 << 22, 7)):
        monkeypatch.setattr(ranking, "SCORES_AT_ONCE", scores_at_once)
        monkeypatch.setattr(around, "NARROWEST", narrowest)
        monkeypatch.setattr(around, "BLOCK", 1)
        yield


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("elastic", {**SMALL, "experts": 3}),
        ("elastic", {**SMALL, "experts": 3, "forgetting": "time"}),
        ("hydrarec", SMALL),
        ("sasrec", {**SMALL, "max_length": 10}),
        ("sasrec-rotary", {**SMALL, "band": 6}),
    ],
)
@pytest.mark.parametrize("context", [None, 7])
def test_equals_the_loop(monkeypatch, histories, name, settings, context):
    model = model_of(name, 30, **settings)
    targets = leave_one_out(histories).test
    wanted = by_hand(model, histories, targets, model.reads(context))
    for _ in cuts(monkeypatch):
        assert rank_targets(Scorer(model), histories, targets, context).equals(wanted)
    assert wanted["rank"].n_unique() > 5


@pytest.mark.parametrize("name", ["elastic", "hydrarec", "sasrec-rotary", "sasrec"])
@pytest.mark.parametrize("context", [None, 9])
def test_prequential_targets_equal_one_by_one(monkeypatch, make_histories, ring, name, context):
    rows = ring(8, 30, 10, 60, seed=3)
    histories = make_histories(rows, timed(rows), n_items=30)
    monkeypatch.setattr("longrec.data.splits.LONG", 20)
    split = prequential(histories)
    assert len(split.test) > 2 * len(np.unique(split.test.users))
    settings = {"max_length": 12} if name == "sasrec" else {}
    model = model_of(name, 30, **SMALL, **settings)
    wanted = by_hand(model, histories, split.test, model.reads(context))
    assert rank_targets(Scorer(model), histories, split.test, context).equals(wanted)
    # Long histories in windows of 8 events, with the state carried on.
    monkeypatch.setattr(encode, "WINDOW", 8)
    assert rank_targets(Scorer(model), histories, split.test, context).equals(wanted)


@pytest.mark.parametrize("window", [1, 8, 13])
def test_histories_longer_than_the_window_equal_whole_ones(
    monkeypatch, make_histories, ring, window
):
    rows = ring(8, 30, 3, 20, seed=3)
    histories = make_histories(rows, timed(rows), n_items=30)
    model = model_of("elastic", 30, **SMALL, experts=3, forgetting="time")
    targets = leave_one_out(histories).test
    requests = encode.requests_of(histories, targets, None, True)

    def encoded() -> Tensor:
        found = torch.full((len(targets), 8), torch.nan)
        times_seen = torch.zeros(len(targets))

        def use(numbers, h):
            found[numbers] = h
            times_seen[numbers] += 1

        encode.encode_targets(model, histories, requests, use, batch_tokens=64)
        assert (times_seen == 1).all()
        return found

    whole = encoded()
    monkeypatch.setattr(encode, "WINDOW", window)
    torch.testing.assert_close(encoded(), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("context", [None, 7])
def test_every_kind_of_score_ranks_by_its_definition(
    monkeypatch, make_histories, ring, name, context
):
    rows = ring(15, 20, 2, 30, seed=3)
    histories = make_histories(rows, timed(rows), n_items=20)
    model, targets = skeleton(name, 20), leave_one_out(histories).test
    counted = [row[::-1] for row in rows]  # or every target would be first

    def definition(model: Model, h: Tensor, history: list[int]) -> list[float]:
        recent = [*history[:-3:-1], 0, 0][:2]
        added = [0.0, *(0.2 * followed(counted, recent, item) for item in range(1, 21))]
        return [model_score(model, h, item) + added[item] for item in range(21)]

    scorer = Scorer(model, FollowersScore.of(counted, 20, weight=0.2))
    wanted = by_hand(model, histories, targets, model.reads(context), definition)
    for _ in cuts(monkeypatch):
        assert rank_targets(scorer, histories, targets, context).equals(wanted)
    assert wanted["rank"].n_unique() > 5


class Elements(TorchDispatchMode):
    """The most elements of a tensor that was made."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and not func.is_view:
                self.most = max(self.most, tensor.numel())
        return out


def test_ranking_makes_nothing_of_a_large_catalogs_size(monkeypatch):
    monkeypatch.setattr(around, "BLOCK", 1 << 14)
    monkeypatch.setattr(around, "NARROWEST", 16)
    n_items, users = 30_000, 50
    rows = [[user + 1, user + 2, user + 3] for user in range(users)]
    scorer = Scorer(model_of("elastic", n_items, **SMALL), FollowersScore.of(rows, n_items))
    last, elements, above = torch.tensor([row[:0:-1] for row in rows]), Elements(), 0
    ranker = around.Around(scorer)
    with elements:
        own, blocks = ranker.scores(torch.randn(users, 8), last[:, 0], last)
        for block in blocks:
            above += int((block.scores > own[:, None]).sum())
    assert 0 < above < users * n_items
    assert elements.most <= 1 << 14  # neither scores of all items, nor a copy of their vectors


def test_ties_count_against_the_model(make_histories):
    h = make_histories([[1, 2, 3, 4], [5, 5, 5, 1]], n_items=6)
    ranks = rank_targets(fixed([1, 1, 1, 1, 1, 1]), h, leave_one_out(h).test)
    assert ranks["rank_unfiltered"].to_list() == [6, 6]
    assert ranks["rank"].to_list() == [3, 5]  # 5 and 6 remain, then all but 5


def test_of_equal_scores_the_smaller_item_is_served_first(make_histories):
    h = make_histories([[1, 2, 3, 4], [5, 5, 5, 1]], n_items=6)
    ranks = rank_targets(fixed([1, 1, 1, 1, 1, 1]), h, leave_one_out(h).test)
    assert ranks["rank_showing"].to_list() == [4, 1]
    assert ranks["rank_hiding"].to_list() == [1, 1]  # 4, 5, 6 remain, and 1, 2, 3, 4, 6


@pytest.mark.parametrize("name", [*(n for n in SYSTEMS if n != "target-aware"), "elastic"])
def test_items_of_one_vector_tie_wherever_they_stand(make_histories, ring, name):
    # Products of matrices may round the last columns otherwise than the first ones.
    n_items = 203
    model = skeleton(name, n_items) if name in SYSTEMS else model_of(name, n_items, **SMALL)
    with torch.no_grad():
        for table in model.item_tables():
            model.state_dict()[table][1:] = torch.randn(1, model.state_dict()[table].shape[1])
    histories = make_histories(ring(15, n_items, 3, 30, seed=1), None, n_items=n_items)
    targets = leave_one_out(histories).test
    ranks = rank_targets(Scorer(model), histories, targets)
    assert ranks["rank_unfiltered"].to_list() == [n_items] * len(targets)
    assert ranks["rank_showing"].to_list() == targets.items.tolist()
    found = ExactIndex(Scorer(model)).search(torch.randn(7, model.width).to(model.items), n_items)
    assert found.items.tolist() == [list(range(1, n_items + 1))] * 7


def test_what_cannot_be_recommended_is_in_no_list(make_histories):
    h = make_histories([[3, 1, 3, 2, 3], [1, 1, 2, 4]], n_items=5)
    ranks = rank_targets(fixed([9, 8, 1, torch.nan, 6]), h, leave_one_out(h).test)
    assert ranks["rank_hiding"].to_list() == [MISS, MISS]  # seen, and not a number
    assert ranks["rank_showing"].to_list() == [4, MISS]


def test_users_without_known_events_are_served_popular_items(make_histories):
    h = make_histories([[1, 2, 3, 4]], n_items=6)
    nothing = np.zeros(3, np.int64)
    targets = Targets(nothing, nothing, np.array([5, 6, 0]), nothing > 0)
    assert rank_targets(fixed([1.0] * 6), h, targets)["rank_showing"].to_list() == [MISS] * 3
    popular = np.array([6, 1, 2, 3, 4, 5])
    ranks = rank_targets(fixed([1.0] * 6), h, targets, popular=popular)
    assert ranks.select("rank_hiding", "rank_showing").rows() == [(6, 6), (1, 1), (MISS, MISS)]
    assert not ranks["known"].any()


def test_a_score_that_is_not_a_number_stands_before_the_target(make_histories):
    h = make_histories([[1, 2, 3, 4], [4, 6, 5, 2]], n_items=6)
    ranks = rank_targets(fixed([0, torch.nan, 0, 5, 0, torch.nan]), h, leave_one_out(h).test)
    # Row 0: item 4 against NaN at 2 (seen) and 6. Row 1: the target itself is not a number and
    # last of all, filtered or not.
    assert ranks["rank_unfiltered"].to_list() == [3, 6]
    assert ranks["rank"].to_list() == [2, 6]


def test_a_target_that_was_seen_is_not_removed_and_repeats_are_told(make_histories):
    h = make_histories([[3, 1, 3, 2, 3], [1, 1, 2, 4]], n_items=5)
    ranks = rank_targets(fixed([9, 8, 1, 7, 6]), h, leave_one_out(h).test)
    assert ranks["repeat"].to_list() == [True, False]
    assert ranks["rank"].to_list() == [3, 1]  # below 4 and 5; 1 and 2 are filtered
    assert ranks["rank_unfiltered"].to_list() == [5, 3]


def test_a_target_at_minus_infinity_is_last(make_histories):
    h = make_histories([[1, 2, 3, 4]], n_items=6)
    ranks = rank_targets(fixed([1, 1, 1, -torch.inf, 1, 1]), h, leave_one_out(h).test)
    assert ranks.select("rank", "rank_unfiltered").row(0) == (6, 6)


def test_targets_and_batches_in_any_number(monkeypatch, histories):
    model = model_of("elastic", 30, **SMALL)
    targets = leave_one_out(histories).test
    whole = rank_targets(Scorer(model), histories, targets)
    chosen = np.arange(0, len(targets), 3)
    assert rank_targets(Scorer(model), histories, targets.where(chosen)).equals(whole[::3])
    assert len(rank_targets(Scorer(model), histories, targets.where(chosen[:0]))) == 0


def test_progress_reaches_the_end(monkeypatch, histories):
    monkeypatch.setattr(encode, "WINDOW", 16)
    told = []
    model = model_of("hydrarec", 30, **SMALL)
    targets = leave_one_out(histories).test
    rank_targets(Scorer(model), histories, targets, progress=lambda a, b: told.append((a, b)))
    assert told[-1][0] == told[-1][1] == int(targets.lengths(histories.offsets).sum())
    assert told == sorted(told)
