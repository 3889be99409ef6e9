"""What systems recommend to a few users of the log: the very lists that an evaluation ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from longrec.artifact.artifact import Artifact
from longrec.artifact.targets import targets_to_rank
from longrec.core.choices import SplitName
from longrec.data.histories import Histories
from longrec.data.item_table import ItemTable
from longrec.data.splits import Targets
from longrec.data.titles import item_titles
from longrec.evaluation.report.contents import UserRecommendations
from longrec.evaluation.served_lists import ServedLists
from longrec.inference.encode import encode_targets, requests_of
from longrec.retrieval.exact import ExactIndex

USERS = 3
LAST = 8  # events of a history that are shown
TOP = 5  # items of a list


def examples(
    histories: Histories,
    models: Mapping[str, Artifact],
    split: SplitName = "test",
    protocol: str | None = None,
    cut: str | None = None,
    exclude_seen: bool | None = None,
    table: ItemTable | None = None,
) -> tuple[list[UserRecommendations], dict[Any, str]]:
    """Lists of each model for a few targets, and the titles of all items in them.

    Parameters
    ----------
    histories : Histories
    models : mapping
        Recommenders by the names of their rows.
    split, protocol, cut : str or None
        Which targets; protocol and cut None: as the recommender was trained.
    exclude_seen : bool or None
        The policy on items that a user has seen; None: each recommender's own.
    table : ItemTable or None
        With titles of items; None: those of the events, if they have some.
    """
    wanted: Targets | None = None
    lists: dict[str, list[list[tuple[object, float]]]] = {}
    for name, model in models.items():
        asked = targets_to_rank(model, histories, split, protocol, cut, narrowed=_few)
        hides = model.hides_seen("auto" if exclude_seen is None else exclude_seen)
        popular, counts = model.catalog.popular, model.catalog.counts
        index = ExactIndex(model.scorer)
        known, targets = asked.histories, asked.targets
        served = ServedLists(model.scorer, index, known, targets, TOP, hides, popular, counts)
        requests = requests_of(known, targets, model.limit, model.model.causal)
        encode_targets(model.model, known, requests, served.use, None)
        wanted = asked.wanted
        lists[name] = [
            list(zip(model.catalog.take(items[items > 0]).to_list(), scores.tolist(), strict=False))
            for items, scores in zip(served.items, served.scores, strict=True)
        ]
    if wanted is None:
        return [], {}
    shown = list[UserRecommendations]()
    indices = list[np.ndarray]()
    for number, (user, position) in enumerate(zip(wanted.users, wanted.positions, strict=True)):
        begin = max(histories.offsets[user], position - LAST)
        recent = histories.items[begin : position + 1]  # the target is the last of them
        *history, target = histories.catalog.take(recent).to_list()
        by_model = {name: found[number] for name, found in lists.items()}
        shown.append(UserRecommendations(histories.user_ids[int(user)], history, by_model, target))
        listed = [item for found in by_model.values() for item, _ in found]
        indices += [recent, histories.catalog.find(listed)]
    return shown, item_titles(histories, np.concatenate(indices), table)


def _few(targets: Targets) -> Targets:
    """Some of them, at equal distances from the first to the last."""
    return targets.where(np.unique(np.linspace(0, len(targets) - 1, USERS).astype(np.int64)))
