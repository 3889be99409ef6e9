"""Systems compared two by two, target by target, with p-values that stand together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from longrec.evaluation.intervals import DRAWS, Difference, holm
from longrec.evaluation.summary import Ranks, compare_ranks

SIGNIFICANT = 0.05
"""A pair with a corrected p-value below is decided."""
_DRAWS_PER_PAIR = 100  # a p-value has a floor of 2 / draws, and Holm multiplies it by the pairs


class Pair(NamedTuple):
    """Two systems compared target by target: a minus b in the leading metric.

    ``p_value`` is corrected for the number of pairs; None where one of the two is not tested.
    """

    a: str
    b: str
    difference: Difference
    p_value: float | None

    @property
    def is_decided(self) -> bool:
        """Whether the targets tell which of the two is better."""
        return self.p_value is not None and self.p_value < SIGNIFICANT

    def reversed(self) -> Pair:
        """The same pair the other way round: b minus a."""
        return Pair(self.b, self.a, self.difference.reversed(), self.p_value)

    def to_dict(self, metric: str) -> dict[str, Any]:
        """Plain JSON values."""
        mean, low, high, _ = vars(self.difference).values()
        about = {"a": self.a, "b": self.b, "metric": metric}
        return about | {"mean": mean, "low": low, "high": high, "p_holm": self.p_value}


def compare_pairs(
    ranks: Mapping[str, Ranks],
    metric: str,
    tested: Collection[str],
    pairs: Sequence[tuple[str, str]] | None = None,
) -> list[Pair]:
    """Compare pairs of systems by a paired bootstrap over users.

    Parameters
    ----------
    ranks
        Ranks of each system over the same targets; in a pair the earlier name is ``a``.
    metric
        The metric whose difference is tested.
    tested
        Names of those that take part in tests: p-values are given between these alone, and are
        corrected (Holm) for the number of their pairs.
    pairs
        Those that are compared; None: every one.
    """
    asked = list(combinations(ranks, 2)) if pairs is None else pairs
    both = sum(a in tested and b in tested for a, b in asked)
    draws = max(DRAWS, _DRAWS_PER_PAIR * both)
    found = {(a, b): compare_ranks(ranks[a], ranks[b], metric, draws=draws) for a, b in asked}
    return corrected(found, tested)


def corrected(
    differences: Mapping[tuple[str, str], Difference], tested: Collection[str]
) -> list[Pair]:
    """Pairs (a, b) with p-values corrected (Holm) for the number of those that are tested."""
    both = [pair for pair in differences if pair[0] in tested and pair[1] in tested]
    p_values = holm([differences[pair].p_value for pair in both]).tolist()
    p_of = dict(zip(both, p_values, strict=True))
    return [Pair(*pair, found, p_of.get(pair)) for pair, found in differences.items()]
