"""Models that are counted and not trained: one pass over the training events, and a validation."""

from __future__ import annotations

import torch

from longrec.config.training import TrainConfig
from longrec.data.histories import Histories
from longrec.data.splits import ALL, Split, training_events
from longrec.evaluation.rank_targets import rank_targets
from longrec.models import CountingModel
from longrec.models.common.scorer import Scorer
from longrec.training.progress import CLOCKS, FitResult, OnEpoch, Progress, settings_of
from longrec.training.validation import draw_targets, named, policy_of, validated


def count(
    model: CountingModel,
    histories: Histories,
    split: Split,
    config: TrainConfig,
    on_epoch: OnEpoch | None,
) -> FitResult:
    """Count the training events, and rank the validation targets; see `fit`."""
    clock, device = CLOCKS[config.clock], model.device
    start = clock()
    trains = training_events(histories.offsets, split.train_end)
    lengths = torch.from_numpy(split.train_end - histories.offsets[:-1])
    times = None if histories.times is None else torch.from_numpy(histories.times[trains])
    model.count(torch.from_numpy(histories.items[trains]), lengths, times)
    model.to(device).eval()
    targets = draw_targets(split.validation, config.validation_users, config.seed)
    found = None
    if len(targets):
        found = validated(rank_targets(Scorer(model), histories, targets), config.exclude_seen)
    result = FitResult(
        stop="counted",
        converged=True,
        epochs=1,
        seconds=clock() - start,
        events=int(trains.sum()),
        rows=[],
        best_epoch=1,
        validation={} if found is None else named(found),
        policy=policy_of(found, config),
        dropped=0,
    )
    if on_epoch is not None:
        ndcg10 = None if found is None else found.ndcg10
        reached = Progress(
            model=model.name,
            settings=settings_of(model, config),
            final=split.protocol == ALL,
            epoch=1,
            step=0,
            seconds=result.seconds,
            events=result.events,
            loss=None,
            ndcg10=ndcg10,
            hr10=None if found is None else found.hr10,
            best_ndcg10=ndcg10,
            best_epoch=1,
            stop=result.stop,
        )
        on_epoch(reached)
    return result
