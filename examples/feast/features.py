"""A user's vector and ten best items as features, asked of `longrec serve` when they are read.

Feast keeps nothing of them: the service counts every event at once, and a copy would be old.
"""

from __future__ import annotations

from typing import Any

from feast import Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Float32, String

asked = RequestSource(name="asked", schema=[Field(name="user", dtype=String)])


@on_demand_feature_view(
    sources=[asked],
    schema=[
        Field(name="vector", dtype=Array(Float32)),
        Field(name="best_items", dtype=Array(String)),
    ],
    mode="python",
)
def taste(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    import os  # Feast keeps this function alone

    from longrec.client import Client

    users = inputs["user"]
    with Client(os.environ.get("LONGREC_URL", "http://127.0.0.1:8000")) as service:
        found = service.user_vectors(users)
        return {
            "vector": [[float(x) for x in one[0]] if len(one) else [] for one in found.vectors],
            "best_items": [[str(row["item"]) for row in service.recommend(user)] for user in users],
        }
