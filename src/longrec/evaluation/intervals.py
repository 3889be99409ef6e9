"""How sure a number is: bootstrap intervals over users, for one model and for two compared.

A bootstrap draw takes as many users as there are, with replacement, and averages again. What
counts is only how often each user is drawn, so a draw is one multinomial vector, and users with the
same values share a category: metrics of ranks take few distinct values, and two thousand draws
cost the same for ten thousand users as for ten million. Where users have several targets
(prequential), whole users are drawn, because the targets of one user are not independent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from longrec.core.arrays import Floats, Ints

DRAWS = 2000  # leaves each end an error of 3% of the interval's half width
LEVEL = 0.95
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)  # the quantiles between which an interval lies
_BLOCK_CELLS = 1 << 22  # draws x categories held at once: 32 MiB


@dataclass(frozen=True)
class Difference:
    """One model minus another over the same targets.

    Attributes
    ----------
    mean : float
        The difference of the two means.
    low, high : float
        Bootstrap percentile interval of the difference.
    p_value : float
        Two-sided bootstrap probability of a difference this far from zero when there is none: twice
        the share of draws on the other side of zero, the observed one counted among them. It is
        never below 2 / (draws + 1), and has a standard error of sqrt(2 p / draws) from the draws:
        .007 at .05 of 2,000.
    """

    mean: float
    low: float
    high: float
    p_value: float

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0

    def reversed(self) -> Difference:
        """The other model minus the one."""
        return Difference(-self.mean, -self.high, -self.low, self.p_value)


def bootstrap_interval(
    values: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Floats:
    """95% percentile interval of the mean of each column.

    Parameters
    ----------
    values : (n,) or (n, m)
        One row per target, one column per metric.
    clusters : (n,), optional
        The user of each target, where users have several; whole users are drawn.
    draws, seed
        Number of resamples, and the seed that makes the interval repeatable.

    Returns
    -------
    (2,) or (2, m)
        The lower and the upper ends.

    Raises
    ------
    ValueError
        When there is no target.
    """
    values = np.asarray(values, dtype=np.float64)
    columns = values.reshape(len(values), int(np.prod(values.shape[1:])))
    means = np.concatenate(list(_resampled_means(columns, clusters, draws, seed)))
    ends: Floats = np.quantile(means, TAILS, axis=0)
    return ends.reshape(2, *values.shape[1:])


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """Compare two models target by target: ``a`` and ``b``, both (n,), in the same order.

    Pairing removes what makes users easy or hard for every model, so it sees differences that two
    overlapping intervals hide.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"paired values are two equal rows, not shapes {a.shape} and {b.shape}")
    gains = (a - b)[:, None]
    means = np.concatenate(list(_resampled_means(gains, clusters, draws, seed)))[:, 0]
    low, high = np.quantile(means, TAILS)
    beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
    p_value = min(1.0, 2 * (beyond + 1) / (draws + 1))
    return Difference(float(gains.mean()), float(low), float(high), p_value)


def holm(p_values: ArrayLike) -> Floats:
    """Correct p-values (n,) for n comparisons at once by Holm's method.

    The smallest is multiplied by n, the next by n - 1, …; none falls below one before it. Found
    clear at 5% after this, all of them are right together 95 times in 100.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(len(values), 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected


def _resampled_means(
    columns: Floats, clusters: ArrayLike | None, draws: int, seed: int
) -> Iterator[Floats]:
    """Yield blocks (b, m) of means over resampled users, ``draws`` rows in all."""
    if not len(columns):
        raise ValueError("an interval needs at least one target")
    if draws < 1:
        raise ValueError(f"an interval needs at least one draw, not {draws}")
    sums, sizes, users = _categories(columns, clusters)
    total = int(users.sum())
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_CELLS // len(users))
    for begin in range(0, draws, block):
        drawn = generator.multinomial(total, users / total, size=min(block, draws - begin))
        yield (drawn @ sums) / (drawn @ sizes)[:, None]


def _categories(columns: Floats, clusters: ArrayLike | None) -> tuple[Floats, Floats, Ints]:
    """Group users that a draw cannot tell apart.

    Returns the sums of each category's one user (c, m), its number of targets (c,) and how many
    users the category has (c,).
    """
    if clusters is None:
        sums, users = np.unique(columns, axis=0, return_counts=True)
        return sums, np.ones(len(sums)), users
    owner = np.unique(np.asarray(clusters), return_inverse=True)[1]
    sizes = np.bincount(owner).astype(np.float64)
    sums = np.stack([np.bincount(owner, weights=column) for column in columns.T], axis=1)
    return sums, sizes, np.ones(len(sizes), dtype=np.int64)
