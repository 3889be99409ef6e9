"""Three replicas on one Redis behind a real balancer; one is killed, and another one comes."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from needs import missing
from serving.http.served import ServeProcess
from serving.http.test_app import T0
from serving.redis_server import RedisServer, free_port
from serving.small_streams import FIRST, N, recommender

from longrec.client import Client

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[3] / "examples" / "haproxy.cfg"
CLIENTS, EVENTS = 3, 30


@contextmanager
def balancer(folder: Path, replicas: list[ServeProcess]) -> Iterator[str]:
    """The example's balancer, with other ports."""
    if shutil.which("haproxy") is None:
        missing(
            "haproxy is not installed (Debian: apt-get install haproxy)", "LONGREC_REQUIRE_HAPROXY"
        )
    text, port = EXAMPLE.read_text(encoding="utf-8"), free_port()
    text = text.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    for number, replica in enumerate(replicas, 1):
        text = text.replace(f"127.0.0.1:800{number}", replica.url.removeprefix("http://"))
    assert not re.search(r":800\d", text)
    config = folder / "haproxy.cfg"
    config.write_text(text)
    process = subprocess.Popen(["haproxy", "-f", config])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def shop(url: str, user: str, sent: list[int], failed: list[str], halfway: threading.Barrier):
    """Log a user's events one by one, and ask after each; the list must know all of them."""
    rng = np.random.default_rng(len(user) + ord(user[-1]))
    with Client(url, timeout=10, patience=60) as client:
        for number in range(EVENTS):
            if number == EVENTS // 3:
                halfway.wait()
            item = FIRST + int(rng.integers(N))
            answer = client.log([{"user": user, "item": item, "time": T0 + number}])
            if answer["accepted"] + answer["duplicates"] != 1:
                failed.append(str(answer))
            sent.append(item)
            shown = {row["item"] for row in client.recommend(user, k=N, exclude_seen=True)}
            if shown & set(sent):
                failed.append(f"{user} was shown what was logged: {shown & set(sent)}")


def test_a_users_events_stay_whole_and_in_order_while_a_replica_is_killed(tmp_path: Path):
    run = recommender("elastic").save(tmp_path / "run")
    users = [f"u{number}" for number in range(CLIENTS)]
    sent: dict[str, list[int]] = {user: [] for user in users}
    failed: list[str] = []
    halfway = threading.Barrier(CLIENTS + 1)
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(tmp_path / "redis"))
        start = [
            ServeProcess(run, redis.url, "--no-log-requests", "--durability", "process")
            for _ in range(3)
        ]
        replicas = [stack.enter_context(one) for one in start]
        url = stack.enter_context(balancer(tmp_path, replicas))
        threads = [
            threading.Thread(target=shop, args=(url, user, sent[user], failed, halfway))
            for user in users
        ]
        for thread in threads:
            thread.start()
        halfway.wait()
        replicas[0].process.kill()
        for thread in threads:
            thread.join(120)
        assert not failed
        found = []
        for replica in replicas[1:]:
            with Client(replica.url) as client:
                lists = [client.recommend(user, k=5, exclude_seen=False) for user in users]
            pages = [replica.client.get(f"/v1/users/{user}?limit=1000").json() for user in users]
            logs = {
                user: [int(one["item"]) for one in page["log"]]
                for user, page in zip(users, pages, strict=True)
            }
            assert logs == sent
            found.append(lists)
        assert found[0] == found[1]
