"""recall@10 of what is served against exact search."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from longrec.retrieval.exact import ExactIndex
from longrec.retrieval.index import TopK
from longrec.retrieval.recall import recall
from longrec.serving.stream.recommending import Ranker
from longrec.serving.stream.stream import Stream
from longrec_bench.clients import K
from longrec_bench.users import Users


def recall_of(stream: Stream, groups: Sequence[Users]) -> float:
    """Share of the exact ten best items that a stream's index finds, over all users as they stand.

    Items that they have seen are barred in both, as a recommendation bars them.
    """
    exact = Ranker(
        stream.artifact,
        stream.store,
        stream.engine,
        stream.items,
        ExactIndex(stream.artifact.model),
    )
    users = [user for some in groups for user in some.ids]
    return recall(_ranked(stream.ranker, users), _ranked(exact, users))


def _ranked(ranker: Ranker, users: Sequence[str]) -> list[TopK]:
    """What a ranker gives to users who ask one by one."""
    answers = [ranker.recommend([ranker.request(user, K)]) for user in users]
    return [TopK(torch.from_numpy(one.scores), torch.from_numpy(one.items)) for one in answers]
