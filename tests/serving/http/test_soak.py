"""Minutes of load on a real server: no failed request, and memory that stays what it is."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest
from serving.http.served import ServeProcess
from serving.http.test_app import T0
from serving.http.test_serve import loaded
from serving.small_streams import FIRST, recommender

WARM, LONG = 40.0, 120.0
USERS = 200
MORE = 1.08
"""Memory at the end over that after warming up: allocators settle slowly, a leak does not stop."""


def resident(child: ServeProcess) -> int:
    """Bytes of a process's own memory; pages of a mapped file are not among them."""
    text = Path(f"/proc/{child.process.pid}/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", text)
    assert found
    return 1024 * int(found[1])


@pytest.mark.long
def test_memory_stays_steady_under_load(tmp_path: Path):
    run = recommender("elastic").save(tmp_path / "run")
    rng = random.Random(0)
    options = ("--durability", "process", "--no-log-requests", "--rate", "1e9")
    with ServeProcess(run, str(tmp_path / "users"), *options) as child, loaded(child) as load:
        begun, before, rounds = time.monotonic(), 0, 0
        while (now := time.monotonic() - begun) < LONG:
            if not before and now > WARM:
                before = resident(child)
            user = f"user{rng.randrange(USERS)}"
            event = {"user": user, "item": FIRST + rng.randrange(20), "time": T0}
            for path, body, status in (
                ("/v1/events", {"events": [event | {"event_id": rng.randrange(500)}]}, 200),
                ("/v1/recommendations", {"user": user, "k": 5, "exclude": [FIRST]}, 200),
                ("/v1/recommendations", {"history": [FIRST] * rng.randrange(1, 300)}, 200),
                ("/v1/recommendations", {"user": user, "k": 0}, 422),
                ("/v1/explanations", {"user": user, "item": FIRST}, 200),
            ):
                assert child.client.post(path, json=body).status_code == status
            assert child.client.get(f"/v1/users/{user}").status_code == 200
            assert child.client.get("/metrics").status_code == 200
            if rounds % 10 == 0:
                assert child.client.delete(f"/v1/users/{user}").status_code == 200
            rounds += 1
        after = resident(child)
    assert rounds > 100
    assert not load.failed
    assert after < MORE * before, (before, after)
