"""What the served lists are like, besides right: coverage, novelty, Gini and popularity bias.

By training counts n_i of items, N in all, and lists of the k items that are served:

coverage@k : share of the catalog that is in some list (Ge et al., RecSys 2010).
gini@k : how unequally often items are listed, 0 (all alike) to 1 (one item alone), over the whole
    catalog (Shani and Gunawardana, 2011).
novelty@k : mean over users of the mean self-information -log2(n_i / N) of what they are served, in
    bits (Zhou et al., PNAS 2010); an item without training events counts as one of one event.
popularity_bias@k : how much more popular the lists are than the histories that they are for: mean
    count of listed items over mean count of the items in users' inputs, minus 1; 0 is none, 1 twice
    as popular (the Delta GAP of Abdollahpouri et al., RMSE workshop at RecSys 2019).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from longrec.core.arrays import Ints

NAMES = ("coverage", "novelty", "gini", "popularity_bias")


def beyond_accuracy(
    items: Ints, counts: Ints, history_popularity: np.ndarray, ks: Sequence[int]
) -> dict[str, float]:
    """Measure lists.

    Parameters
    ----------
    items : ndarray
        (n, at least max(ks) where the catalog has as many) item indices, 0 where a list has ended.
    counts : ndarray
        (n_items,) training events of each item.
    history_popularity : ndarray
        (n,) mean count of the items in each user's input; nan without input.
    ks : sequence of int
        How many items of each list count.

    Returns
    -------
    dict
        "coverage@10", "novelty@10", "gini@10", "popularity_bias@10", …
    """
    information = np.append(np.nan, -np.log2(np.maximum(counts, 1) / max(1, counts.sum())))
    popularity = np.append(np.nan, counts.astype(np.float64))
    in_histories = float(np.nanmean(history_popularity)) if len(items) else np.nan
    found: dict[str, float] = {}
    for k in ks:
        lists = items[:, :k]
        listed = np.bincount(lists[lists > 0], minlength=len(counts) + 1)[1:]
        values = (
            float((listed > 0).mean()),
            _mean_of_lists(information, lists),
            gini(listed),
            _mean_of_lists(popularity, lists) / in_histories - 1 if in_histories else np.nan,
        )
        found |= {f"{name}@{k}": value for name, value in zip(NAMES, values, strict=True)}
    return found


def gini(listed: Ints) -> float:
    """Gini index of how often each item is listed, (n_items,)."""
    n, total = len(listed), int(listed.sum())
    if n < 2 or not total:
        return 0.0
    place = 2 * np.arange(1, n + 1) - n - 1
    return float((place * np.sort(listed)).sum() / ((n - 1) * total))


def _mean_of_lists(values: np.ndarray, lists: Ints) -> float:
    """Mean over the lists with items of the mean value of their items."""
    there = lists > 0
    sums = np.where(there, values[lists], 0.0).sum(1)
    lengths = there.sum(1)
    full = lengths > 0
    return float((sums[full] / lengths[full]).mean()) if full.any() else float("nan")
