"""The client of a service: events, lists and users' vectors, over a real socket."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import numpy as np
import pytest
from serving.http.served import LocalServer, local_server
from serving.http.test_app import T0, UNKNOWN
from serving.small_streams import FIRST, N

from longrec.client import Client, ServiceError
from longrec.core.errors import UsageError
from longrec.retrieval.equal_lengths import of_items

HISTORY = [FIRST + n * 5 % N for n in range(9)]


@pytest.fixture(scope="module", params=["elastic", "limarec"])
def server(request, tmp_path_factory):
    """Of a model with one vector per user, and of one with several."""
    with local_server(request.param, tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: LocalServer):
    with Client(server.url) as found:
        yield found


def events(user: str, items: list[int]) -> list[dict]:
    return [{"user": user, "item": item, "time": T0 + n} for n, item in enumerate(items)]


def test_vectors_give_the_scores_of_recommendations(client: Client, server: LocalServer):
    assert client.log(events("ann", HISTORY))["accepted"] == len(HISTORY)
    client.log(events("stranger", [UNKNOWN]))
    found = client.user_vectors(["ann", "nobody", "stranger"])
    artifact = server.server.service.current.stream.artifact
    assert found.model == artifact.state_digest
    assert [one.shape for one in found.vectors[1:]] == [(0, 0)] * 2
    items = of_items(artifact.scorer.item_vectors().detach().numpy())
    np.testing.assert_allclose(np.linalg.norm(items, axis=1), np.linalg.norm(items[0]), rtol=1e-5)
    scores = (found.vectors[0] @ items.T).max(0)
    for row in client.recommend("ann", k=N, exclude_seen=False):
        np.testing.assert_allclose(scores[row["item"] - FIRST + 1], row["score"], rtol=1e-4)


def test_an_event_that_is_sent_again_counts_once(client: Client):
    event = events("twice", HISTORY[:1])[0] | {"event_id": "order"}
    assert client.log([event])["accepted"] == 1
    answer = client.log([event], recommend={"user": "twice", "k": 2})
    assert (answer["accepted"], answer["duplicates"]) == (0, 1)
    assert len(answer["recommended"]["items"]) == 2
    assert client.log(events("twice", HISTORY[:1]))["accepted"] == 1  # an id of its own
    assert client.forget("twice")
    assert not client.forget("twice")


def test_what_is_refused_says_why(client: Client):
    with pytest.raises(ServiceError, match=r"k is 0; it must be at least 1") as raised:
        client.recommend("ann", k=0)
    assert (raised.value.status, raised.value.code) == (422, "value")


@pytest.mark.parametrize("case", ["item-knn", "dfar"])
def test_models_without_vectors_say_so(case: str, tmp_path):
    with (
        local_server(case, tmp_path) as found,
        Client(found.url) as client,
        pytest.raises(ServiceError, match="no vectors of") as raised,
    ):
        client.user_vectors(["ann"])
    assert raised.value.status == 409


def test_a_service_that_is_away_is_waited_for():
    """It is busy twice, then answers; what is sent each time is the same."""
    bodies, at_midnight = [], False

    class Busy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            busy = len(bodies) < 3
            self.send_response(503 if busy else 200)
            self.send_header("retry-after", "Mon, 30 Nov 2026" if at_midnight else "0.01")
            page = busy or self.path != "/v1/events"
            body = b"<html>away</html>" if page else b'{"accepted":1}'
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *said: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Busy)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        with Client(url) as client:
            assert client.log(events("ann", HISTORY[:1])) == {"accepted": 1}
        assert len(set(bodies)) == 1
        bodies.clear()
        at_midnight = True
        with Client(url, patience=0) as client, pytest.raises(ServiceError, match="503"):
            client.recommend("ann")
        bodies += [b""] * 2
        with Client(url) as client, pytest.raises(ServiceError, match="no longrec answers there"):
            client.recommend("ann")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    with Client(url, patience=0) as client, pytest.raises(ServiceError, match="gave no answer"):
        client.recommend("ann")
    with pytest.raises(UsageError, match="give one such as"):
        Client("localhost:8000")


@pytest.mark.parametrize(
    "url",
    [
        *(
            "127.0.0.1:8000",
            "ftp://x",
            "http://",
            "http://h:99999",
            "http://h:x",
            "http://h?a=b",
            5,
        ),
        *("http://shop:hunter2@h", "https://h:8000:x@y", "x://shop:hunter2@h"),
    ],
)
def test_an_address_that_is_none_is_told_without_its_password(url):
    with pytest.raises(UsageError, match="url ") as told:
        Client(url)
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize("key", ["hunter2\nx", "hunter2☃", b"hunter2", 5])
def test_a_key_that_no_header_holds_is_not_shown(key):
    with pytest.raises(UsageError, match="key is no text") as told:
        Client("http://127.0.0.1:9", key)
    assert "hunter2" not in str(told.value)


def test_what_cannot_be_sent_is_told_before_it_is_sent():
    with Client("http://127.0.0.1:9", patience=0) as client:
        for call in (
            lambda: client.user_vectors("ann"),
            lambda: client.user_vectors([object()]),
            lambda: client.log([{"user": 1, "item": 2, "time": float("nan")}]),
            lambda: client.log([["ann"]]),
            lambda: client.recommend({1}),
        ):
            with pytest.raises(UsageError):
                call()


class _Answers(BaseHTTPRequestHandler):
    """Says what it is told to say, and keeps what it was sent."""

    body, status, retry = b"[]", 200, ""
    sent: ClassVar[list[dict]] = []

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        self.sent.append(json.loads(self.rfile.read(length)))
        self.send_response(self.status)
        self.send_header("retry-after", self.retry)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def other(monkeypatch):
    monkeypatch.setattr(_Answers, "sent", [])
    with HTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        with Client(f"http://127.0.0.1:{server.server_port}", patience=0.0) as client:
            yield client
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("body", [b"[]", b"{}", b"null", b"<html>", b'{"items": 1}'])
def test_an_answer_of_another_service_is_told(other: Client, monkeypatch, body: bytes):
    monkeypatch.setattr(_Answers, "body", body)
    with pytest.raises(ServiceError, match="no longrec answers there"):
        other.user_vectors(["ann"])


@pytest.mark.parametrize("retry", ["nan", "-5", "inf", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_a_time_to_wait_that_is_none_is_left_out(other: Client, monkeypatch, retry: str):
    monkeypatch.setattr(_Answers, "status", 503)
    monkeypatch.setattr(_Answers, "retry", retry)
    with pytest.raises(ServiceError):
        other.user_vectors(["ann"])


def test_numbers_of_numpy_are_numbers_and_no_id_is_an_id_of_its_own(other: Client, monkeypatch):
    monkeypatch.setattr(_Answers, "body", b"{}")
    other.log([{"user": np.int64(3), "item": "x", "time": np.float64(5.5), "event_id": None}])
    [event] = _Answers.sent[0]["events"]
    assert (event["user"], event["time"]) == (3, 5.5)
    assert len(event["event_id"]) == 32
