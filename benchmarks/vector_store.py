"""How much of the ten best items a graph of neighbours finds, as vector stores keep one.

    python benchmarks/vector_store.py RUN [RUN ...]

HNSW of faiss, 16 neighbours, by the product with a user: items as they are, with the mean of all
taken out, of one length (`longrec.retrieval.equal_lengths`), and both; recall@10 for 64 users of
the run's own data, 100 and 400 items looked at.
"""

from __future__ import annotations

import sys

import faiss
import numpy as np

from longrec.recommender import load
from longrec.retrieval.equal_lengths import of_items, of_users
from longrec.retrieval.recall import K, queries_of

USERS, NEIGHBOURS, BUILT_WITH = 64, 16, 100


def main(*runs: str) -> None:
    """Print a table."""
    print("| run | items | looked at | as they are | less their mean | of one length | both |")
    print("|---|---|---|---|---|---|---|")
    for run in runs:
        recommender = load(run).on_cpu()
        items = recommender.scorer.item_vectors().detach()[1:].float().numpy()
        h = queries_of(recommender).some(slice(USERS)).h
        users = recommender.scorer.user_vectors(h).float().numpy()[:, 0]
        exact = np.argsort(-(users @ items.T), axis=1)[:, :K]
        centred = items - items.mean(0)
        for looked_at in (100, 400):
            found = [
                recall(items, users, exact, looked_at),
                recall(centred, users, exact, looked_at),
                recall(of_items(items), of_users(users), exact, looked_at),
                recall(of_items(centred), of_users(users), exact, looked_at),
            ]
            cells = " | ".join(f"{share:.3f}" for share in found)
            print(f"| {run} | {len(items):,} | {looked_at} | {cells} |", flush=True)


def recall(items: np.ndarray, users: np.ndarray, exact: np.ndarray, looked_at: int) -> float:
    """The share of users' exact best items that a graph of these items finds."""
    graph = faiss.IndexHNSWFlat(items.shape[1], NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction, graph.hnsw.efSearch = BUILT_WITH, looked_at
    graph.add(np.ascontiguousarray(items))
    found = graph.search(np.ascontiguousarray(users), K)[1]
    pairs = zip(found, exact, strict=True)
    return float(np.mean([len(set(some) & set(best)) / K for some, best in pairs]))


if __name__ == "__main__":
    main(*sys.argv[1:])
