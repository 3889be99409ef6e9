"""How well the mean of several networks serves: their log-probabilities averaged, with transitions.

    python benchmarks/mean.py HISTORIES RUN RUN [RUN ...] [--test]

The runs were trained on these histories. Prints NDCG@10 and HR@10, seen items left out, of the
validation targets by the weight of transitions; with --test those of the test targets at the best.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch

import longrec
from longrec.core.arrays import Floats, places
from longrec.data.histories import Histories
from longrec.data.splits import Targets, make_split
from longrec.evaluation.metrics import ndcg
from longrec.inference.encode import last_items
from longrec.models.transitions import TransitionsScore
from longrec.training.transitions import CELLS, READ, Known, count_transitions
from longrec.training.validation import draw_targets

WEIGHTS = (0.0, 0.15, 0.25, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 1.5)


def main(path: str, *given: str) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    histories = longrec.open_histories(path)
    runs = [longrec.load(run) for run in given if run != "--test"]
    split = make_split("leave-one-out", histories)
    validation = draw_targets(split.validation, 10_000, 0)
    best: tuple[float, TransitionsScore, float] | None = None
    for last, decay in READ:
        counted = count_transitions(histories, split, last=last, decay=decay)
        found = served(runs, histories, validation, counted, WEIGHTS)
        for weight, (gain, hit) in zip(WEIGHTS, found, strict=True):
            print(f"last {last:2d}, weight {weight:4.2f}: {gain:.4f} / {hit:.4f}", flush=True)
            if best is None or gain > best[0]:
                best = gain, counted, weight
    if "--test" in given and best is not None:
        _, counted, weight = best
        (gain, hit), (alone, hit_alone) = served(runs, histories, split.test, counted, (weight, 0))
        print(f"test: {alone:.4f} / {hit_alone:.4f} without, {gain:.4f} / {hit:.4f} with them")


@torch.inference_mode()
def served(
    runs: Sequence[longrec.Recommender],
    histories: Histories,
    targets: Targets,
    counted: TransitionsScore,
    weights: Sequence[float],
) -> Floats:
    """NDCG@10 and HR@10 (weights, 2)."""
    known = [Known.of(run.model, histories, targets, None) for run in runs]
    order = [np.argsort(one.numbers) for one in known]
    sums = np.zeros((len(weights), 2))
    block = max(1, CELLS // (histories.n_items + 1))
    for start in range(0, len(targets), block):
        chosen = np.arange(start, min(len(targets), start + block))
        begin, end = histories.offsets[targets.users[chosen]], targets.positions[chosen]
        scores = torch.zeros(len(chosen), histories.n_items + 1)
        for one, places_of in zip(known, order, strict=True):
            found = one.model.score(one.h[places_of[chosen]]).float()
            scores[:, 1:] += torch.log_softmax(found[:, 1:], 1) / len(known)
        added = counted.bias().float().repeat(len(chosen), 1)
        row, item, value = counted.rows(last_items(histories.items, begin, end, counted.reach))
        added[row, item] += value.float()
        owner = torch.from_numpy(np.repeat(np.arange(len(chosen)), end - begin))
        seen = torch.from_numpy(histories.items[places(begin, end - begin)]).long()
        wanted = torch.from_numpy(targets.items[chosen]).long()
        for number, weight in enumerate(weights):
            together = scores + weight * added
            target = together[torch.arange(len(chosen)), wanted].clone()
            together[owner, seen] = together[:, 0] = -torch.inf
            rank = (together > target[:, None]).sum(1)
            sums[number] += ndcg((rank + 1).numpy(), 10).sum(), (rank < 10).sum().item()
    return sums / len(targets)


if __name__ == "__main__":
    main(*sys.argv[1:])
