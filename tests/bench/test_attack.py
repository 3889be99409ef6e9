"""`longrec bench serve --attack`: each kind of hostile client does what it says, and is let go."""

from __future__ import annotations

import json
import random
import subprocess
import threading
from itertools import islice

import pytest
from bench.command import longrec_bench
from forking import run_command
from serving.http.served import local_server

from longrec.core.errors import LongrecError, UsageError
from longrec_bench.plan import Plan
from longrec_bench.serving import attack
from longrec_bench.serving.attack import AttackPlan
from longrec_bench.serving.attacker import Attack
from longrec_bench.serving.clients import Server
from longrec_bench.serving.fuzz import made_up
from longrec_bench.serving.hostile import KINDS, mixed

OK = {"200", "400", "404", "405", "408", "409", "413", "415", "422", "431", "503"}
OTHER = {"closed", "read", "connected", "held"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = tmp_path_factory.mktemp("attacked")
    with local_server("elastic", path, settings={"rate": 1e9, "timeout": 5.0}) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_hostile_client_makes_it_fail_or_takes_it_away(kind: str, server):
    host, port = server.url.removeprefix("http://").split(":")
    hostile = Attack((host, int(port)))
    acting = threading.Thread(target=hostile.act_until_stopped, args=(KINDS[kind].act, 4))
    acting.start()
    try:
        for _ in range(5):
            answer = server.post("/v1/recommendations", {"user": "innocent"})
            assert answer.status_code == 200
    finally:
        hostile.stopped.set()
        acting.join(30)
    assert hostile.answers.keys() <= OK | OTHER
    assert server.client.get("/readyz").status_code == 200


@pytest.mark.slow
def test_mixed_requests_never_make_it_fail(server):
    host, port = server.url.removeprefix("http://").split(":")
    hostile = Attack((host, int(port)), 150)
    hostile.act_until_stopped(mixed, 2)
    assert sum(hostile.answers.values()) >= 150
    assert hostile.answers.keys() <= OK | {"closed"}
    assert hostile.answers["200"] > 50


def test_made_up_requests_of_a_seed_are_always_the_same():
    some, again, others = (list(islice(made_up(random.Random(n)), 50)) for n in (1, 1, 2))
    assert some == again != others


@pytest.mark.slow
def test_the_measurement_is_whole_and_leaves_nothing(tmp_path, monkeypatch):
    def start(self, log):
        return run_command(*self._arguments, stdin=subprocess.DEVNULL, stderr=log)

    def plan(kinds: tuple[str, ...], mixed: int) -> AttackPlan:
        return AttackPlan(kinds=kinds, rounds=1, seconds=0.4, mixed=mixed)

    monkeypatch.setattr(Server, "_start", start)
    monkeypatch.setattr(attack, "SETTLED", 20)
    monkeypatch.setattr(attack, "CALM", 0.01)
    monkeypatch.setattr("longrec_bench.serving.attack.AttackPlan", plan)
    out = tmp_path / "found.json"
    options = ("--attack", "--models", "last-item", "--catalogs", 40, "--mixed", 40)
    options += ("--kinds", "healthz flood", "no JSON")
    done = longrec_bench("serve", *options, "--folder", tmp_path, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert json.loads(done.stdout) == found["cells"]
    assert [cell["kind"] for cell in found["cells"]] == ["healthz flood", "no JSON"]
    for cell in found["cells"]:
        assert 0 < cell["quiet_p50_ms"] <= cell["quiet_p99_ms"]
        assert cell["ratio"] == cell["attacked_p99_ms"] / cell["quiet_p99_ms"]
        assert sum(cell["answers"].values()) > 0
    assert found["memory"]["settled_mib"] > 0
    assert len(found["goals"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--models", "elastic,hydrarec"), "--models has 2 values"),
        (("--catalogs", "40,50"), "--catalogs has 2 values"),
        (("--mixed", "10", "--catalogs", "40"), "mixed is 10; it must be 0 or more than 5,000"),
        (("--out", "found.txt"), "name a .json file"),
        (("--kinds", "1,000 events", "no HTTQ"), "kinds has 'no HTTQ'"),
    ],
)
def test_what_cannot_be_attacked_is_refused_by_name(options, words):
    with pytest.raises((UsageError, LongrecError), match=words):
        longrec_bench("serve", "--attack", *options)


def test_plans_are_plans():
    assert isinstance(AttackPlan(), Plan)
    with pytest.raises(UsageError, match="kinds has 'x'"):
        AttackPlan(kinds=("x",))
