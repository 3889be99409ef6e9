"""Read the features of some users: `feast apply`, then `python read.py ann bob`."""

from __future__ import annotations

import sys

from feast import FeatureStore


def main(*users: str) -> None:
    """Print a user's features in a line."""
    found = (
        FeatureStore(repo_path=".")
        .get_online_features(
            features=["taste:vector", "taste:best_items"],
            entity_rows=[{"user": user} for user in users],
        )
        .to_dict()
    )
    for user, vector, items in zip(users, found["vector"], found["best_items"], strict=True):
        print(user, f"vector of {len(vector)} numbers;", ", ".join(items))


if __name__ == "__main__":  # `feast apply` imports all files here
    main(*sys.argv[1:])
