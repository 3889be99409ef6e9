"""Requests that are too large, too slow, too many, malformed, or from somebody unknown."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from serving.http.served import LocalServer, local_server
from serving.small_streams import FIRST

from longrec.serving.http import access_log
from longrec.serving.http.access_log import JsonLines
from longrec.serving.http.admission import RateLimiter

KEY, OTHER = "k" * 16 + "-one", "k" * 16 + "-two"
EVENT = {"user": "ann", "item": FIRST, "time": 1_700_000_000}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One for all tests that need no settings of their own; nothing is logged in it."""
    with local_server("elastic", tmp_path_factory.mktemp("server")) as found:
        yield found


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_without_a_known_key_nothing_is_told(tmp_path: Path):
    with local_server("elastic", tmp_path, keys=f"{KEY} {OTHER}") as server:
        for path in ("/v1/model", "/metrics", "/openapi.json", "/v1/users/ann", "/nothing"):
            for headers in ({}, bearer("wrong"), bearer(KEY[:-1]), {"authorization": KEY}):
                answer = server.client.get(path, headers=headers)
                assert answer.status_code == 401, path
                assert answer.headers["www-authenticate"] == "Bearer"
                assert KEY not in answer.text
        refused = server.post("/v1/events", {"events": [EVENT]})
        assert refused.status_code == 401
        for key in (KEY, OTHER):
            assert server.client.get("/v1/model", headers=bearer(key)).status_code == 200
        assert server.client.get("/v1/users/ann", headers=bearer(KEY)).status_code == 404
        for path in ("/healthz", "/readyz"):
            assert server.client.get(path).status_code == 200


def test_names_that_point_at_this_machine_are_not_answered(server: LocalServer):
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", ""):
        answer = server.client.get("/v1/model", headers={"host": host})
        assert answer.status_code in (400, 403), host
    assert server.client.get("/v1/model", headers={"host": "localhost:8000"}).status_code == 200


def test_a_body_of_another_type_is_not_read(server: LocalServer):
    # A page of another site can send text/plain anywhere without asking.
    body = json.dumps({"events": [EVENT]})
    answer = server.client.post("/v1/events", content=body, headers={"content-type": "text/plain"})
    assert answer.status_code == 422
    assert server.client.get("/v1/users/ann").status_code == 404


def test_bodies_that_are_too_large_are_refused_however_they_come(tmp_path: Path):
    with local_server("elastic", tmp_path, settings={"max_body": 2000}) as server:
        large = json.dumps({"events": [EVENT] * 100}).encode()

        def parts():
            for at in range(0, len(large), 500):
                yield large[at : at + 500]

        headers = {"content-type": "application/json"}
        for content in (large, parts()):
            answer = server.client.post("/v1/events", content=content, headers=headers)
            assert answer.status_code == 413
            assert "2,000 bytes" in answer.json()["error"]["message"]
        assert server.post("/v1/events", {"events": [EVENT]}).status_code == 200


BAD: list[tuple[str, Any]] = [
    ("/v1/events", b"{"),
    ("/v1/events", b"\xff\xfe"),
    ("/v1/events", b"[" * 50_000),
    ("/v1/events", b'{"events": [{"user": 1, "item": 1, "time": ' + b"9" * 5000 + b"}]}"),
    ("/v1/events", {}),
    ("/v1/events", {"events": []}),
    ("/v1/events", {"events": [EVENT] * 1001}),
    ("/v1/events", {"events": [EVENT | {"more": 1}]}),
    ("/v1/events", {"events": [EVENT | {"user": ""}]}),
    ("/v1/events", {"events": [EVENT | {"user": None}]}),
    ("/v1/events", {"events": [EVENT | {"user": True}]}),
    ("/v1/events", {"events": [EVENT | {"user": 1.5}]}),
    ("/v1/events", {"events": [EVENT | {"user": "é" * 300}]}),
    ("/v1/events", {"events": [EVENT | {"item": ["x"]}]}),
    ("/v1/events", {"events": [EVENT | {"time": "now"}]}),
    ("/v1/events", {"events": [EVENT | {"time": 1_700_000_000_000}]}),
    ("/v1/events", b'{"events": [{"user": "u", "item": 1, "time": NaN}]}'),
    ("/v1/events", b'{"events": [{"user": "\\ud800", "item": 1, "time": 1}]}'),
    ("/v1/recommendations", {}),
    ("/v1/recommendations", {"user": "ann", "history": []}),
    ("/v1/recommendations", {"user": "ann", "k": 0}),
    ("/v1/recommendations", {"user": "ann", "k": 10**9}),
    ("/v1/recommendations", {"user": "ann", "k": "5"}),
    ("/v1/recommendations", {"user": "ann", "exclude": "x"}),
    ("/v1/recommendations", {"user": "ann", "among": [None]}),
    ("/v1/recommendations", {"history": [{"item": 1}]}),
    ("/v1/recommendations", {"history": [1] * 10_001}),
]


def test_malformed_requests_are_refused_with_words_and_without_long_values(server: LocalServer):
    for path, body in BAD:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = server.client.post(
            path, content=content, headers={"content-type": "application/json"}
        )
        assert answer.status_code in (400, 422), (path, body, answer.text)
        error = answer.json()["error"]
        assert error["message"]
        assert len(answer.text) < 1000
        assert "é" not in error["message"]
    assert server.client.get("/v1/users/ann", params={"limit": -1}).status_code == 422
    assert server.client.get("/v1/events").status_code == 405
    assert server.client.get("/v1/nothing").status_code == 404
    assert server.client.get("/v1/users/ann").status_code == 404  # nothing was logged


def test_too_many_requests_are_told_when_to_come_again(tmp_path: Path):
    with local_server("elastic", tmp_path, keys=f"{KEY} {OTHER}", settings={"rate": 2.0}) as server:
        statuses = [
            server.client.get("/v1/model", headers=bearer(KEY)).status_code for _ in range(8)
        ]
        assert statuses[:4] == [200] * 4
        assert 429 in statuses
        refused = server.client.get("/v1/model", headers=bearer(KEY))
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert server.client.get("/v1/model", headers=bearer(OTHER)).status_code == 200
        assert server.client.get("/healthz").status_code == 200


def test_a_balancers_questions_fill_no_log_while_all_is_well(tmp_path: Path, monkeypatch):
    lines: list[tuple] = []
    monkeypatch.setattr(access_log, "write_request", lambda *line: lines.append(line[1:4]))
    with local_server("elastic", tmp_path, settings={"log_requests": True}) as server:
        for path in ("/healthz", "/readyz", "/v1/model"):
            assert server.client.get(path).status_code == 200
        assert server.client.post("/healthz").status_code == 405
        until = time.monotonic() + 60
        while len(lines) < 2 and time.monotonic() < until:  # a line is written behind the answer
            time.sleep(0.01)
    assert lines == [("GET", "/v1/model", 200), ("POST", "/healthz", 405)]


def test_rates_fill_again_and_stay_few(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("longrec.serving.http.admission.monotonic", lambda: now[0])
    monkeypatch.setattr("longrec.serving.http.admission.BUCKETS", 3)
    rates = RateLimiter(0.5)
    assert rates.take("a") == 0
    assert rates.take("a") == pytest.approx(2)
    now[0] = 1.0
    assert rates.take("a") == pytest.approx(1)
    now[0] = 2.0
    assert rates.take("a") == 0
    for name in "bcde":
        rates.take(name)
    assert len(rates._buckets) == 3


def raw(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def rest(sock: socket.socket) -> bytes:
    found = b""
    while part := sock.recv(65536):
        found += part
    return found


def test_slow_clients_are_let_go(tmp_path: Path):
    with local_server("elastic", tmp_path, settings={"timeout": 0.4}) as server:
        with raw(server.url) as sock:  # a head that never ends
            sock.sendall(b"GET /v1/model HTTP/1.1\r\nHost: localhost\r\n")
            assert rest(sock).startswith(b"HTTP/1.1 408")
        with raw(server.url) as sock:  # nothing at all
            assert rest(sock) == b""
        with raw(server.url) as sock:  # drip by drip
            begun = time.monotonic()
            try:
                for _ in range(200):
                    sock.sendall(b"X")
                    time.sleep(0.02)
            except OSError:
                pass
            assert rest_or_reset(sock) is not None
            assert time.monotonic() - begun < 15
        with raw(server.url) as sock:  # a body that never ends
            sock.sendall(
                b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
            assert rest(sock).startswith(b"HTTP/1.1 408")
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        for pause in (0.1, 0.6, 0):  # one that waits between whole requests is not let go
            connection.request("GET", "/healthz")
            assert connection.getresponse().read() == b'{"ok":true}'
            time.sleep(pause)
        connection.close()
        assert server.client.get("/v1/model").status_code == 200


def rest_or_reset(sock: socket.socket) -> bytes:
    try:
        return rest(sock)
    except OSError:
        return b""


def test_a_full_queue_answers_with_when_to_come_again(tmp_path: Path):
    with local_server("elastic", tmp_path, settings={"queue": 4}) as server:
        hold, held = threading.Event(), threading.Event()
        write = server.server.service.current.stream.writer.write

        def slowly(works):
            held.set()
            hold.wait(20)
            return write(works)

        server.server.service.current.stream.writer.write = slowly
        answers: list[int] = []

        def send(number: int) -> None:
            event = EVENT | {"user": f"u{number}"}
            answer = server.post("/v1/events", {"events": [event]})
            answers.append(answer.status_code)
            if answer.status_code == 503:
                assert answer.headers["retry-after"] == "1"
                assert answer.json()["error"]["code"] == "busy"

        threads = [threading.Thread(target=send, args=(0,))]
        threads[0].start()
        assert held.wait(10)
        threads += [threading.Thread(target=send, args=(n,)) for n in range(1, 9)]
        for thread in threads[1:]:
            thread.start()
        for _ in range(500):
            if len(answers) >= 4:
                break
            time.sleep(0.01)
        hold.set()
        for thread in threads:
            thread.join(20)
        assert sorted(answers) == [200] * 5 + [503] * 4
        logged = sum(server.client.get(f"/v1/users/u{n}").status_code == 200 for n in range(9))
        assert logged == 5


def test_an_answer_that_takes_too_long_is_given_up(tmp_path: Path):
    with local_server("elastic", tmp_path, settings={"timeout": 0.3}) as server:
        hold = threading.Event()
        stream = server.server.service.current.stream
        answer_all = stream.ranker.recommend_each

        def slowly(queries):
            hold.wait(20)
            return answer_all(queries)

        stream.ranker.recommend_each = slowly
        answer = server.post("/v1/recommendations", {"user": "ann"})
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "timeout"
        assert "retry-after" in answer.headers
        hold.set()
        stream.ranker.recommend_each = answer_all
        assert server.post("/v1/recommendations", {"user": "ann"}).status_code == 200


def test_what_fails_is_logged_without_ids_and_told_without_inside(tmp_path: Path, caplog):
    with local_server("elastic", tmp_path) as server:
        stream = server.server.service.current.stream

        def broken(queries):
            raise KeyError("secret-user-17")

        stream.ranker.recommend_each = broken
        with caplog.at_level(logging.INFO, "longrec.serve"):
            answer = server.post("/v1/recommendations", {"user": "secret-user-17"})
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "failed"
        assert "secret" not in answer.text
        assert "KeyError" not in answer.text
    lines = [JsonLines().format(record) for record in caplog.records]
    assert any(json.loads(line).get("error", {}).get("type") == "KeyError" for line in lines)
    assert not any("secret-user-17" in line for line in lines)
