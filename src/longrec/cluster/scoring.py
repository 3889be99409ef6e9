"""Users recommended to by a Ray cluster: blocks of them, the rows as they would be here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from longrec.artifact.artifact import Artifact
from longrec.cluster.ray_cluster import Cluster
from longrec.core.arrays import Ints
from longrec.core.errors import DataError, UsageError
from longrec.core.registry import load_plugin
from longrec.data.histories import Histories, open_histories
from longrec.recommender import Recommender, load
from longrec.retrieval.restriction import Restriction
from longrec.retrieval.users_lists import Asked, Scored, score


class ScoringWorkers:
    """Workers of a cluster, as `Recommender.recommend` takes them.

    Each reads the recommender's folder and the histories for itself: all machines see both under
    the same paths.

    Parameters
    ----------
    cluster : Cluster
    plugins : modules that the model comes from.
    """

    def __init__(self, cluster: Cluster, plugins: Sequence[str] = ()) -> None:
        self.cluster, self.plugins = cluster, tuple(plugins)

    def score(
        self, artifact: Artifact, data: Histories, blocks: Sequence[Ints], asked: Asked
    ) -> Iterator[Scored]:
        """See `longrec.retrieval.users_lists.UserWorkers`."""
        if artifact.folder is None:
            raise UsageError("workers read the recommender from its folder: save it first")
        if asked.limits.own is not None:
            raise UsageError(
                "exclude, among and where are of all users here: give one list, or rule"
            )
        run, place = str(artifact.folder.resolve()), str(data.path.resolve())
        opened = run, artifact.answers_as, place, data.fingerprint, self.plugins
        what = asked.k, asked.exclude_seen, asked.limits.common
        yield from self.cluster.run(score_block, ((opened, block, *what) for block in blocks))


def score_block(
    opened: tuple[str, str, str, str, tuple[str, ...]],
    rows: Ints,
    k: int,
    exclude_seen: bool,
    common: np.ndarray | None,
) -> Scored:
    """What a worker does: recommend to some rows of the data."""
    recommender, data = _open(*opened)
    asked = Asked(k, exclude_seen, Restriction(common))
    return score(recommender, recommender.index, data, rows, asked)


@lru_cache(maxsize=1)
def _open(
    run: str,
    answers_as: str,
    histories: str,
    fingerprint: str,
    plugins: tuple[str, ...],
) -> tuple[Recommender, Histories]:
    """The recommender and the data, read once for all calls of a command."""
    for module in plugins:
        load_plugin(module)
    recommender, data = load(Path(run)), open_histories(Path(histories))
    same = recommender.answers_as == answers_as
    if not same or data.fingerprint != fingerprint:
        changed = histories if same else run
        raise DataError(f"{changed} was replaced while it was in use: run the command again.")
    return recommender, data
