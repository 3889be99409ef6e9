"""Every error is JSON of one shape: what routes refuse, what no route sees, and what is no HTTP."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path

import pytest
from serving.http.served import LocalServer, local_server
from serving.small_streams import FIRST

from longrec.serving.http.protocol import HEAD


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    settings = {"max_body": 2000}
    with local_server("elastic", tmp_path_factory.mktemp("server"), settings=settings) as found:
        yield found


def connected(server: LocalServer) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=20)


def code_of(body: bytes) -> str:
    """The code of an answer that is an error, whose shape is checked."""
    document = json.loads(body)
    assert document.keys() == {"error"}
    assert document["error"].keys() == {"code", "message"}
    assert document["error"]["message"]
    return document["error"]["code"]


def answers_to(server: LocalServer, *parts: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Status, headers and body of all answers to bytes that are sent as they are."""
    host, port = server.url.removeprefix("http://").split(":")
    found = b""
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        for part in parts:
            sock.sendall(part)
        while more := sock.recv(65536):
            found += more
    answers = []
    while found:
        head, _, found = found.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers["content-length"])
        answers.append((int(status.split()[1]), headers, found[:length]))
        found = found[length:]
    return answers


GOOD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
MALFORMED = {
    "no words": (b"\0\1\2\3\r\n\r\n", 400),
    "an unknown method": (b"BREW /v1/model HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "a version": (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400),
    "a header without a name": (b"GET / HTTP/1.1\r\n: x\r\n\r\n", 400),
    "bytes in the path": (b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{", 400),
    "a length that is none": (POST + b"Content-Length: x\r\n\r\n{", 400),
    "a chunk that is none": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "a tunnel": (b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n", 400),
    "a head too large": (b"GET / HTTP/1.1\r\nX: " + b"x" * (3 * HEAD), 431),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_is_no_http_is_answered_as_every_error_is(kind: str, server: LocalServer):
    sent, wanted = MALFORMED[kind]
    [(status, headers, body)] = answers_to(server, sent)
    assert status == wanted
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    code_of(body)


def test_what_is_malformed_spoils_no_answer_before_it(server: LocalServer):
    (status, headers, body), *more = answers_to(server, GOOD + b"\0\1\2\r\n\r\n")
    assert (status, body) == (200, b'{"ok":true}')
    assert headers["connection"] == "close" or more


def test_head_is_get_without_its_body(server: LocalServer):
    for path in ("/healthz", "/readyz", "/v1/model", "/", "/metrics", "/docs", "/openapi.json"):
        connection = connected(server)
        connection.request("HEAD", path)
        head = connection.getresponse()
        assert head.status == 200, path
        assert head.read() == b""
        connection.request("GET", path)  # of the same connection: nothing was left in it
        got = connection.getresponse()
        assert got.status == 200
        assert head.headers["content-type"] == got.headers["content-type"]
        if path not in ("/metrics",):  # which changes
            assert head.headers["content-length"] == got.headers["content-length"]
        connection.close()
    for path, status in (("/nothing", 404), ("/v1/users/nobody", 404), ("/v1/events", 405)):
        assert server.client.head(path).status_code == status


ALLOWED = {
    "/v1/events": "POST",
    "/v1/users/ann": "DELETE, GET, HEAD",
    "/v1/items/a/similar": "GET, HEAD",
    "/v1/model": "GET, HEAD",
    "/metrics": "GET, HEAD",
    "/healthz": "GET, HEAD",
    "/": "GET, HEAD",
    "/docs": "GET, HEAD",
    "/openapi.json": "GET, HEAD",
}


@pytest.mark.parametrize("path", ALLOWED)
def test_a_method_that_is_none_here_is_told_which_are(path: str, server: LocalServer):
    for method in ("PUT", "PATCH", "OPTIONS", "TRACE"):
        answer = server.client.request(method, path)
        assert answer.status_code == 405
        assert answer.headers["allow"] == ALLOWED[path]
        assert code_of(answer.content) == "method"
        for allowed in ALLOWED[path].replace(", HEAD", "").split(", "):
            assert allowed in answer.json()["error"]["message"]


def test_paths_that_are_none_are_told_in_json(server: LocalServer):
    for path in (
        "/v1/model/",
        "/v1//model",
        "/v1/../etc/passwd",
        "/%00",
        "/v1/users",
        "/docs/",
        "/é",
    ):
        answer = server.client.get(path)
        assert answer.status_code == 404, path
        assert code_of(answer.content) == "unknown"


def test_a_body_that_is_too_large_is_told_so_to_who_still_sends(server: LocalServer):
    connection = connected(server)
    large = b"[" + b"0," * 2_000_000 + b"0]"  # more than what lies between two sockets
    for body, headers in (
        (large, {}),
        (iter([large[:1000], large]), {"transfer-encoding": "chunked"}),
    ):
        connection.request(
            *("POST", "/v1/events", body),
            {"content-type": "application/json"} | headers,
            encode_chunked=bool(headers),
        )
        answer = connection.getresponse()
        assert answer.status == 413
        assert code_of(answer.read()) == "size"
        connection.close()
    connection.close()
    # Who asks first is told before anything of it is sent.
    head = POST + b"Content-Length: 9999999\r\nExpect: 100-continue\r\n\r\n"
    [(status, _, body)] = answers_to(server, head)
    assert status == 413
    assert code_of(body) == "size"


def test_what_fails_before_any_route_is_told_in_json(tmp_path: Path, monkeypatch):
    with local_server("elastic", tmp_path) as server:
        admission = server.server.app
        monkeypatch.setattr(admission, "_admit", lambda scope, headers: 1 / 0)
        answer = server.post("/v1/events", {"events": [{"user": "a", "item": FIRST, "time": 1}]})
        assert answer.status_code == 500
        assert code_of(answer.content) == "failed"
