"""A pair in one request: events that are logged, and what to show next, which counts them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from serving.http.served import LocalServer, local_server
from serving.http.test_app import T0, UNKNOWN, events_of
from serving.small_streams import FIRST, N, recommender

from longrec.core.errors import DataError


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with local_server("elastic", tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.mark.parametrize(
    "wanted",
    [{"k": 4}, {"k": N}, {"exclude": [FIRST + 5]}, {"among": [FIRST + 1, UNKNOWN]}],
    ids=str,
)
@pytest.mark.parametrize("events", [1, 3, 40])
def test_both_in_one_are_what_two_requests_are(events: int, wanted: dict, server: LocalServer):
    items = [FIRST + n * 7 % N for n in range(events - 1)] + [UNKNOWN]
    names = [f"{one} {events} {wanted}" for one in ("two", "one")]
    answers = []
    for name in names:
        body = events_of(name, items)
        if name == names[0]:
            found = server.post("/v1/events", body).json()
            found["recommended"] = server.post(
                "/v1/recommendations", {"user": name, **wanted}
            ).json()
        else:
            found = server.post("/v1/events", body | {"recommend": {"user": name, **wanted}}).json()
        answers.append(found)
    assert answers[0] == answers[1]
    assert answers[0]["accepted"] == events
    assert "recommended" not in server.post("/v1/events", events_of("none", items)).json()


def test_whoever_is_asked_for_gets_a_list(server: LocalServer):
    """Several users, among them some without events here, and a history that is sent along."""
    body = events_of("a", [FIRST]) | {"recommend": {"users": ["a", "nobody"], "k": 2}}
    lists = server.post("/v1/events", body).json()["recommended"]["recommendations"]
    assert [one["policy"] for one in lists] == ["personal", "cold"]
    many = events_of("b", [FIRST]) | {"recommend": {"users": ["b"] * 40, "k": 2}}
    lists = server.post("/v1/events", many).json()["recommended"]["recommendations"]
    assert {one["policy"] for one in lists} == {"personal"}
    body = events_of("c", [FIRST]) | {"recommend": {"history": [FIRST + 3], "k": 2}}
    assert server.post("/v1/events", body).json()["recommended"]["policy"] == "personal"


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({}, "recommend: give one of user, history, users and histories"),
        ({"user": "x", "k": 0}, "recommend.k is 0; it must be at least 1"),
        ({"user": "x", "n": 3}, "recommend.n is no field that is known here; did you mean k?"),
        ({"user": "", "k": 1}, "recommend.user has 0 characters"),
        ([], "recommend is a list; it must be an object"),
    ],
    ids=str,
)
def test_nothing_is_logged_where_what_is_wanted_is_wrong(wanted, words, server: LocalServer):
    answer = server.post("/v1/events", events_of("wrong", [FIRST]) | {"recommend": wanted})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith(words)
    assert server.client.get("/v1/users/wrong").status_code == 404


def test_events_that_are_all_refused_do_not_keep_the_list_back(server: LocalServer):
    ahead = {"user": "ahead", "item": FIRST, "time": 10**10}
    answer = server.post("/v1/events", {"events": [ahead], "recommend": {"user": "ahead", "k": 2}})
    found = answer.json()
    assert (found["accepted"], found["refused"]) == (0, 1)
    assert found["problems"][0]["code"] == "ahead"
    assert (found["recommended"]["policy"], len(found["recommended"]["items"])) == ("cold", 2)


def test_who_only_logs_is_answered_where_another_s_list_fails(tmp_path: Path):
    """Both are of one batch: that a list cannot be made is no matter of who wants none."""
    with local_server("elastic", tmp_path) as server:
        stream = server.server.service.current.stream
        write, recommend = stream.writer.write, stream.ranker.recommend_each
        hold, held, works = threading.Event(), threading.Event(), list[int]()

        def slowly(batches):
            held.set()
            assert hold.wait(20)
            works.append(len(batches))
            return write(batches)

        def fails(requests, pause=None):
            raise DataError("it is damaged")

        stream.writer.write, stream.ranker.recommend_each = slowly, fails
        answers = dict[str, int]()

        def send(name: str, **more: object) -> None:
            answers[name] = server.post("/v1/events", events_of(name, [FIRST]) | more).status_code

        threads = [threading.Thread(target=send, args=("first",))]
        threads[0].start()
        assert held.wait(10)
        threads.append(threading.Thread(target=send, args=("logs",)))
        wanted = {"recommend": {"user": "asks", "k": 2}}
        threads.append(threading.Thread(target=send, args=("asks",), kwargs=wanted))
        for thread in threads[1:]:
            thread.start()
        for _ in range(1000):
            if server.server.service.current.events.waiting == 3:
                break
            threading.Event().wait(0.005)
        hold.set()
        for thread in threads:
            thread.join(20)
        stream.ranker.recommend_each = recommend
        assert works == [1, 2]
        assert answers == {"first": 200, "logs": 200, "asks": 500}
        logged = server.client.get("/v1/users/asks").json()
        assert (logged["events"], logged["log"][0]["time"]) == (1, T0)
        text = server.client.get("/metrics").text
        assert 'longrec_events_total{outcome="accepted"} 3.0' in text
        digest = recommender("elastic").state_digest
        assert logged["model"] == digest
