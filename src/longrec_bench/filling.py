"""Stores filled with histories before a measurement, as the product does it: by `rebuild`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from longrec.data.histories import Histories
from longrec.recommender import Recommender
from longrec.serving.stores.protocol import Durability
from longrec_bench.turns import Progress


def fill(
    recommender: Recommender,
    stores: Mapping[str, Durability],
    histories: Histories,
    on_disk: bool,
    tell: Progress,
) -> None:
    """Bring histories into stores, by URL; of stores that are files one, and the others copy it."""
    words = f"{recommender.name}: filling"

    def rebuild(url: str, durability: Durability) -> None:
        with recommender.open_stream(url, durability) as stream:
            stream.rebuild(histories, progress=lambda done, total: tell(done, total, words))

    if on_disk:
        first, *others = stores
        rebuild(first, "process")
        for url in others:
            shutil.copytree(first, url, ignore=shutil.ignore_patterns("*-lock", ".lock"))
    else:
        for url, durability in stores.items():
            rebuild(url, durability)
