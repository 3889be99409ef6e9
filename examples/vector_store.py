"""What to show a user, found in a vector store and ranked by the service.

    longrec push run qdrant://localhost:6333/items
    longrec serve run --store lmdb:///users
    python examples/vector_store.py http://127.0.0.1:8000 qdrant://localhost:6333/items ann

The store finds 200 candidates by the user's vectors, and there a shop's own filters go (in stock,
allowed in this country). The service then ranks them by all that it knows: what followed the last
items, too, and what the user has seen.
"""

from __future__ import annotations

import sys
from contextlib import closing

from longrec.client import Client
from longrec.export.push import best, open_vector_store

CANDIDATES = 200


def main(service: str, store: str, user: str) -> None:
    """Print ten items."""
    with Client(service) as client, closing(open_vector_store(store)) as items:
        [vectors] = client.user_vectors([user]).vectors
        if not len(vectors):
            print(f"no event of {user} is known; what is popular:")
            wanted = None
        else:
            found = best([items.search(vector, CANDIDATES) for vector in vectors], CANDIDATES)
            wanted = [item for item, _ in found]
        for row in client.recommend(user, k=10, among=wanted):
            print(f"{row['rank']:>2}  {row['item']}  {row['score']:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
