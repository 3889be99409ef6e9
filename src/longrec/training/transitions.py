"""Transitions beside a model: what followed a user's last items, at the weight that serves best.

    score(user, i) = the model's + w log c(i)

A network that reads whole histories remembers few exact transitions; a count of them is made in
seconds (`longrec.models.transitions`). How many last items are read, how the further ones count and
the weight w are found on the validation targets once training has ended. Where no weight above 0
serves them better, nothing is added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from longrec.config.training import TrainConfig
from longrec.core.arrays import Floats, Ints, places
from longrec.data.histories import Histories
from longrec.data.splits import Split, Targets, training_events
from longrec.evaluation.metrics import ndcg
from longrec.evaluation.rank_targets import rank_targets
from longrec.evaluation.summary import as_served, compare_ranks
from longrec.inference.encode import encode_targets, last_items, requests_of
from longrec.models import CountingModel, Model, SequenceModel
from longrec.models.common.base import AddedRows
from longrec.models.common.scorer import Scorer
from longrec.models.transitions import TransitionsScore, TransitionsScoreConfig
from longrec.retrieval.around import Around
from longrec.training.validation import Validated, draw_targets, validated

READ = ((5, 0.6), (10, 0.8))
"""Last items that are read, and what each further one counts of the one before: what is tried."""
DECAYS = (0.5, 0.8)
"""Of a given number of last items."""
WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Tried first: how far a model's scores are apart is its own."""
AROUND = (0.6, 0.8, 1.25, 1.6)
"""Tried then, times the best of them."""
MOST_SCORES = 30_000_000
"""Scores of all items for all targets by which a weight is found: of more a sample is drawn."""
FEWEST = 2_000
"""Targets by which it is found however many items there are."""
PAIRS, FEWEST_OF_PAIRS = 3_000_000, 200
"""The same where a network scores each pair of a history and an item, at some hundred times the
cost."""
MOST_PAIRS = 1 << 27
"""Of an item and a follower that are kept, 1.5 GiB in memory and on disk: of larger catalogs
each item keeps fewer followers than is usual, from 450 thousand items on."""
CELLS = 1 << 20
"""Scores of targets that are compared at once."""

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class FoundTransitions:
    """What was found for a model.

    Attributes
    ----------
    score : to be added to the model's; None where none serves better.
    validated : the validation targets, served by the model with `score`.
    about : for the provenance: "last", "decay" and "weight" (0: nothing is added), "ndcg10_without"
        and "ndcg10_with" the best that was tried, "low" and "high" the 95% interval of the lift,
        "targets".
    """

    score: TransitionsScore | None
    validated: Validated
    about: dict[str, Any]


def find_transitions(
    model: Model,
    histories: Histories,
    split: Split,
    config: TrainConfig,
    progress: Tell | None = None,
) -> FoundTransitions | None:
    """Find what to add to a trained model's scores.

    Parameters
    ----------
    model : Model
        In eval mode.
    histories, split, config : Histories, Split, TrainConfig
        Those of its training: training events are counted, validation targets served.
    progress : callable or None
        Called with (parts done, parts in all).

    Returns
    -------
    FoundTransitions or None
        None where the setting `transitions` is 0, the model counts itself, or there is no
        validation target.
    """
    if isinstance(model, CountingModel) or not config.transitions or not len(split.validation):
        return None
    targets = draw_targets(split.validation, config.validation_users, config.seed)
    in_pairs = isinstance(model, SequenceModel) and model.target_aware
    scores, fewest = (PAIRS, FEWEST_OF_PAIRS) if in_pairs else (MOST_SCORES, FEWEST)
    few = draw_targets(targets, max(fewest, scores // (model.n_items + 1)), config.seed)
    known = Known.of(model, histories, few, config.context)
    read: Sequence[tuple[int, float]] = READ
    if config.transitions != "auto":
        read = tuple((config.transitions, decay) for decay in DECAYS)
    followers = min(TransitionsScoreConfig().followers, MOST_PAIRS // model.n_items)
    best, found = -1.0, None
    for number, (last, decay) in enumerate(read):
        if progress is not None:
            progress(number, len(read) + 1)
        counted = count_transitions(
            histories, split, last=last, decay=decay, followers=max(1, followers)
        )
        weight, quality = known.best_weight(counted, config.exclude_seen)
        if quality > best:
            best, found = quality, counted.weighted(weight)
    assert found is not None
    if progress is not None:
        progress(len(read), len(read) + 1)
    return _judged(model, found, histories, few if in_pairs else targets, config)


def count_transitions(histories: Histories, split: Split, **settings: Any) -> TransitionsScore:
    """Count the training events of a split; settings of `TransitionsScoreConfig`."""
    trains = training_events(histories.offsets, split.train_end)
    lengths = torch.from_numpy(split.train_end - histories.offsets[:-1])
    events = torch.from_numpy(histories.items[trains])
    return TransitionsScore.of(events, lengths, histories.n_items, **settings).eval()


def _judged(
    model: Model,
    score: TransitionsScore,
    histories: Histories,
    targets: Targets,
    config: TrainConfig,
) -> FoundTransitions:
    """Serve all validation targets with and without a score, and keep it if it serves better."""
    score = score.to(model.device)
    pair, served = [], []
    for scorer in (Scorer(model), Scorer(model, score)):
        ranks = rank_targets(scorer, histories, targets, config.context)
        pair.append(validated(ranks, config.exclude_seen))
        served.append(as_served(ranks, pair[-1].exclude_seen))
    without, with_it = pair
    lift = compare_ranks(served[1], served[0])
    helps = with_it.ndcg10 > without.ndcg10
    return FoundTransitions(
        score if helps else None,
        with_it if helps else without,
        {
            **{key: asdict(score.config)[key] for key in ("last", "decay")},
            "weight": score.config.weight if helps else 0.0,
            "ndcg10_without": without.ndcg10,
            "ndcg10_with": with_it.ndcg10,
            "low": lift.low,
            "high": lift.high,
            "targets": len(targets),
        },
    )


@dataclass(frozen=True, eq=False)
class Known:
    """Targets, and what the model and a count know before each."""

    model: Model
    histories: Histories
    targets: Targets
    h: Tensor  # (targets that are encoded, W), in the order of `numbers`
    numbers: Ints

    @classmethod
    def of(cls, model: Model, histories: Histories, targets: Targets, context: int | None) -> Known:
        found: list[tuple[Ints, Tensor]] = []
        encode_targets(
            model,
            histories,
            requests_of(histories, targets, model.reads(context), model.causal),
            lambda numbers, h: found.append((numbers, h)),
        )
        numbers = np.concatenate([np.zeros(0, np.int64), *(part for part, _ in found)])
        return cls(model, histories, targets, torch.cat([h for _, h in found]), numbers)

    def best_weight(
        self, counted: TransitionsScore, exclude_seen: bool | str
    ) -> tuple[float, float]:
        """The weight at which it serves best, and how well."""
        found = dict(zip(WEIGHTS, self.quality(counted, WEIGHTS, exclude_seen), strict=True))
        near = [float(f"{max(found, key=found.__getitem__) * part:.2g}") for part in AROUND]
        found |= dict(zip(near, self.quality(counted, near, exclude_seen), strict=True))
        best = max(found, key=found.__getitem__)
        return best, float(found[best])

    def recent(self, begin: Ints, end: Ints, reach: int) -> Tensor:
        """The items (n, reach) by which targets at `end` of histories from `begin` on are told."""
        return last_items(self.histories.items, begin, end, reach)

    @torch.inference_mode()
    def quality(
        self, counted: TransitionsScore, weights: Sequence[float], exclude_seen: bool | str
    ) -> Floats:
        """Sum of NDCG@10 as served at each weight, under the policy, or "auto" the better one."""
        sums = np.zeros((2, len(weights)))
        around = Around(Scorer(self.model))
        block = max(1, CELLS // around.holds)
        bias = counted.bias().float()
        for start in range(0, len(self.numbers), block):
            chosen = self.numbers[start : start + block]
            begin = self.histories.offsets[self.targets.users[chosen]]
            end = self.targets.positions[chosen]
            rows = counted.rows(self.recent(begin, end, counted.reach))
            owner = torch.from_numpy(np.repeat(np.arange(len(chosen)), end - begin))
            seen = torch.from_numpy(self.histories.items[places(begin, end - begin)]).long()
            wanted = torch.from_numpy(self.targets.items[chosen]).long()
            h = self.h[start : start + block]
            own, blocks = around.scores(h, wanted.to(h.device))
            served = _Served(own.float().cpu(), wanted, weights, bias, rows, owner, seen)
            for first, scores in blocks:
                served.look(first, scores.float().cpu())
            sums += served.gains()
        hiding, showing = sums
        if exclude_seen == "auto":
            return cast(Floats, np.maximum(hiding, showing))
        return hiding if exclude_seen else showing


class _Served:
    """Where targets stand in the lists that are served at each weight, block of items by block.

    Every score is the model's + weight * (bias + row's value), each operation by itself, so that
    items of equal parts tie.

    Parameters
    ----------
    own, wanted : (n,) the model's scores of the targets, and the targets.
    weights : of what is added.
    bias : (N,) added to all items.
    rows : what is added to some items of some rows.
    owner, seen : pairs of a row and an item that its user has seen.
    """

    def __init__(
        self,
        own: Tensor,
        wanted: Tensor,
        weights: Sequence[float],
        bias: Tensor,
        rows: AddedRows,
        owner: Tensor,
        seen: Tensor,
    ) -> None:
        self.wanted, self.weights, self.bias = wanted, weights, bias
        order = rows.item.argsort()
        self.row, self.item, value = rows.row[order], rows.item[order], rows.value[order].float()
        self.added = bias[self.item] + value
        of_target = bias[wanted]
        mine = self.item == wanted[self.row]
        of_target[self.row[mine]] = self.added[mine]
        self.targets = [own + of_target * weight for weight in weights]
        pairs = torch.unique(seen * len(own) + owner)
        self.seen = pairs.div(len(own), rounding_mode="floor")
        self.owner = pairs % len(own)
        self.lost = torch.zeros(len(own), dtype=torch.bool)
        self.lost[self.owner[self.seen == wanted[self.owner]]] = True
        self.above = torch.zeros(2, len(weights), len(own), dtype=torch.int64)  # all, and seen

    def look(self, first: int, scores: Tensor) -> None:
        """Count what stands above the targets among items `first`, …; scores (n, m)."""
        bounds = torch.tensor([first, first + scores.shape[1]])
        rows, seen = (
            slice(*torch.searchsorted(items, bounds).tolist()) for items in (self.item, self.seen)
        )
        place = self.row[rows], self.item[rows] - first
        looked = self.owner[seen], self.seen[seen] - first
        bias, of_rows = self.bias[first : first + scores.shape[1]], scores[place]
        together = torch.empty_like(scores)
        for number, weight in enumerate(self.weights):
            target = self.targets[number]
            torch.add(scores, bias * weight, out=together)
            together[place] = of_rows + self.added[rows] * weight
            above, too = self.above[:, number]
            above += (together > target[:, None]).sum(1, dtype=torch.int32)
            too.index_add_(0, looked[0], (together[looked] > target[looked[0]]).long())

    def gains(self) -> Floats:
        """Sums of NDCG@10 (2, weights), seen items hidden or shown, at each weight."""
        every, seen = self.above
        never = self.wanted == 0
        sums = np.zeros((2, len(self.weights)))
        for policy, (above, out) in enumerate(((every - seen, self.lost | never), (every, never))):
            for number, rank in enumerate(above + 1):
                sums[policy, number] = ndcg(rank.numpy(), 10)[~out.numpy()].sum()
        return sums
