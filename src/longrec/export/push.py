"""Item vectors into a vector store: `longrec push`, and what is found there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np

from longrec.artifact.artifact import Artifact
from longrec.core.errors import UsageError, absent
from longrec.export.vector_store import Items, VectorStore, plain
from longrec.export.vector_url import EXAMPLES
from longrec.retrieval.equal_lengths import of_items, of_users
from longrec.retrieval.recall import K, queries_of

ASKED = 64
"""Users for whom the store's answers are compared with the exact ones."""

Progress = Callable[[float, float, str], None]


class Pushed(NamedTuple):
    """What was pushed.

    items, dim : how many vectors, of how many numbers.
    recall : share of the exact ten best that the store's ten best hold, over `users`.
    users : whose they are, in words.
    milliseconds : of one such search, the median.
    """

    store: str
    model: str
    items: int
    dim: int
    recall: float
    users: str
    milliseconds: float


def open_vector_store(url: str) -> VectorStore:
    """The store of a URL.

    Raises
    ------
    UsageError
        When the URL is none, or its package is missing.
    VectorStoreError
        When nobody answers.
    """
    scheme = url.partition("://")[0] if "://" in url else ""
    extra = "milvus" if scheme in ("milvus", "milvuss") else "vectors"
    try:
        if scheme in ("qdrant", "qdrants"):
            from longrec.export.qdrant import open_qdrant

            return open_qdrant(url)
        if scheme in ("milvus", "milvuss"):
            from longrec.export.milvus import open_milvus

            return open_milvus(url)
        if scheme in ("postgresql", "postgres"):
            from longrec.export.pgvector import open_postgres

            return open_postgres(url)
    except ModuleNotFoundError as error:
        raise absent(f"{scheme}://", error, extra) from error
    begins = f"no vector store begins with {scheme!r}" if scheme else "that is no URL"
    raise UsageError(f"{begins}: give {EXAMPLES}")


def push(
    artifact: Artifact, url: str, progress: Progress = lambda done, total, words: None
) -> Pushed:
    """Bring a recommender's item vectors into a vector store, and measure what it finds.

    What is there under that name is replaced once all vectors are in. A push that was cut short
    changes nothing, and the next one begins anew.

    Parameters
    ----------
    artifact : Artifact
    url : str
        `qdrant://host:6333/COLLECTION` (`qdrants` with TLS, a key from QDRANT_API_KEY),
        `qdrant:///folder/COLLECTION` without a server; `milvus://host:19530/COLLECTION`
        (`milvuss` with TLS, a login from MILVUS_TOKEN), `milvus:///folder/NAME.db/COLLECTION`
        without a server; or `postgresql://…/database?table=NAME`.
    progress : callable
        Called with (done, of all, what is being done).

    Raises
    ------
    UsageError
        When the model has no vectors, the URL is none, or the name is taken by something else.
    VectorStoreError
        When the store cannot be reached, or refuses.
    """
    artifact = artifact.on_cpu()
    artifact.check_has_vectors()
    vectors = of_items(artifact.scorer.item_vectors().detach()[1:].float().numpy())
    ids = plain(artifact.catalog.ids)
    items = Items(ids, artifact.catalog.counts, vectors, artifact.state_digest)
    with closing(open_vector_store(url)) as store:
        total = len(items.ids) + ASKED
        store.replace(items, lambda sent: progress(sent, total, "items"))
        queries = queries_of(artifact).some(slice(ASKED))
        users = of_users(artifact.scorer.user_vectors(queries.h).float().numpy())
        hits, seconds = 0, list[float]()
        for number, each in enumerate(users, 1):
            begun = time.perf_counter()
            found = best([store.search(vector, K) for vector in each], K)
            seconds.append(time.perf_counter() - begun)
            exact = (each @ vectors.T).max(0)
            wanted = items.ids.gather(np.argsort(-exact, kind="stable")[:K]).to_list()
            hits += len({item for item, _ in found} & set(wanted))
            progress(len(items.ids) + number, total, "what is found")
        share = hits / (len(users) * min(K, len(items.ids)))
        median = 1000 * float(np.median(seconds))
        whose = queries.words.replace(queries.words.split()[0], str(len(users)), 1)
        n, dim = vectors.shape
        return Pushed(store.name, items.model, n, dim, share, whose, median)


def best(lists: Sequence[Sequence[tuple[Any, float]]], k: int) -> list[tuple[Any, float]]:
    """The k best items of lists of (id, score), one for each vector of a user."""
    scores: dict[Any, float] = {}
    for item, score in (pair for some in lists for pair in some):
        scores[item] = max(score, scores.get(item, score))
    return sorted(scores.items(), key=lambda pair: -pair[1])[:k]
