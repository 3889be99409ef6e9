"""Every pair of models compared on the same targets, with p-values that stand together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import combinations

from longrec.evaluation.intervals import DRAWS, holm
from longrec.evaluation.report.contents import Pair
from longrec.evaluation.summary import Ranks, compare_ranks

_DRAWS_PER_PAIR = 100  # a p-value has a floor of 2 / draws, and Holm multiplies it by the pairs


def compare_pairs(ranks: Mapping[str, Ranks], metric: str, ranking: Collection[str]) -> list[Pair]:
    """Compare every pair of rows by a paired bootstrap over users.

    Parameters
    ----------
    ranks
        Ranks of each row over the same targets; in a pair the earlier name is ``a``.
    metric
        The metric whose difference is tested.
    ranking
        Names of the rows that rank: p-values are given between these alone, and are corrected
        (Holm) for the number of their pairs.
    """
    rank = len([name for name in ranks if name in ranking])
    draws = max(DRAWS, _DRAWS_PER_PAIR * rank * (rank - 1) // 2)
    found = [
        (a, b, compare_ranks(ranks[a], ranks[b], metric, draws=draws))
        for a, b in combinations(ranks, 2)
    ]
    both = [(a, b) for a, b, _ in found if a in ranking and b in ranking]
    corrected = holm([found_.p_value for a, b, found_ in found if (a, b) in both]).tolist()
    p_values = dict(zip(both, corrected, strict=True))
    return [Pair(a, b, difference, p_values.get((a, b))) for a, b, difference in found]
