"""One Ray cluster of two processes for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
from needs import missing

from longrec.cluster.ray_cluster import Cluster, ray_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    try:
        import ray
    except ImportError:
        missing("Ray is not installed", "LONGREC_REQUIRE_RAY")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_BACKEND_LOG_LEVEL", "error")
        yield from _started(ray)


def _started(ray: ModuleType) -> Iterator[Cluster]:
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=100 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        with ray_cluster(None) as connected:  # which is connected already
            yield connected
    finally:
        ray.shutdown()
