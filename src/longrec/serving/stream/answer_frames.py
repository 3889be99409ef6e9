"""Recommendations as frames, with the items' own ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from longrec.retrieval.index import COLD, PERSONAL
from longrec.serving.stream.recommending import Recommendation


class AnswerFrames:
    """Makes the frames of `Stream.recommend`; for any number of threads.

    Parameters
    ----------
    ids : (n_items,) item ids, that of item index i at i - 1.
    """

    def __init__(self, ids: np.ndarray | pl.Series) -> None:
        self._ids = ids
        self._columns = pl.Series("rank", [], pl.Int64), pl.Series("policy", [], pl.String)

    def frame(self, user: Any, found: Recommendation) -> pl.DataFrame:
        """Columns user, rank, item, score, policy; a row for each item that was found."""
        count = len(found.items)
        rank, policy = self._constant_columns(count, PERSONAL if found.personal else COLD)
        return pl.DataFrame(
            [
                pl.Series("user", [user]).new_from_index(0, count),
                rank,
                pl.Series("item", self._ids[found.items - 1]),
                pl.Series("score", found.scores),
                policy,
            ]
        )

    def frame_of_several(self, users: pl.Series, found: Sequence[Recommendation]) -> pl.DataFrame:
        """The same for several users, one after the other."""
        counts = np.array([len(one.items) for one in found], np.int64)
        items = np.concatenate([np.zeros(0, np.int64), *(one.items for one in found)])
        scores = np.concatenate([np.zeros(0, np.float32), *(one.scores for one in found)])
        policy = np.where([one.personal for one in found], PERSONAL, COLD).astype(object)
        ranks = [np.arange(1, count + 1) for count in counts]
        return pl.DataFrame(
            [
                users.gather(np.repeat(np.arange(len(found)), counts)).alias("user"),
                pl.Series("rank", np.concatenate([np.zeros(0, np.int64), *ranks])),
                pl.Series("item", self._ids[items - 1]),
                pl.Series("score", scores),
                pl.Series("policy", np.repeat(policy, counts), dtype=pl.String),
            ]
        )

    def _constant_columns(self, count: int, policy: str) -> tuple[pl.Series, pl.Series]:
        """The columns rank and policy, made once and used again."""
        ranks, policies = self._columns
        if len(ranks) != count or not count or policies[0] != policy:
            ranks = pl.int_range(1, count + 1, eager=True).alias("rank")
            policies = pl.Series("policy", [policy]).new_from_index(0, count)
            self._columns = ranks, policies
        return ranks, policies
