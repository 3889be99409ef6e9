"""Clients that connect and do nothing, or send and never read: others are answered meanwhile."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import logging
import resource
import socket
import struct
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path

import pytest
from serving.http.served import LocalServer, local_server
from serving.http.test_admission import raw, rest, rest_or_reset
from serving.small_streams import FIRST

from longrec.serving.http import access_log, connections, protocol
from longrec.serving.http.connections import Connections, most_connections

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
MODEL = b"GET /v1/model HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with local_server("elastic", tmp_path_factory.mktemp("server")) as found:
        yield found


def ask(server: LocalServer, request: bytes = HEALTH) -> bytes:
    """The answer to a request on a connection of its own."""
    with raw(server.url) as sock:
        sock.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        return rest(sock)


def healthy(sock: socket.socket) -> bool:
    """Whether a request on a connection that stays open is answered."""
    sock.settimeout(20)
    sock.sendall(HEALTH)
    found = b""
    while not found.endswith(b'{"ok":true}') and (part := sock.recv(4096)):
        found += part
    return found.startswith(b"HTTP/1.1 200")


def is_closed(sock: socket.socket) -> bool:
    sock.settimeout(10)
    return rest_or_reset(sock) == b""


def test_who_waits_longest_makes_room(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(connections, "GRACE", 0.0)
    with local_server("elastic", tmp_path, most=3) as server:
        idle = raw(server.url)  # has asked once: strangers go before it
        assert healthy(idle)
        strangers = [raw(server.url) for _ in range(6)]
        half = raw(server.url)
        half.sendall(HEALTH[:-4])
        assert ask(server).startswith(b"HTTP/1.1 200")
        assert all(is_closed(sock) for sock in strangers[:4])
        assert healthy(idle)
        for sock in (idle, half, *strangers):
            sock.close()


def test_where_all_are_being_answered_nobody_new_is_taken(tmp_path: Path):
    with local_server("elastic", tmp_path, most=2) as server:
        ranker = server.server.service.current.stream.ranker
        hold, held, answer_all = threading.Event(), threading.Semaphore(0), ranker.recommend_each

        def slowly(requests):
            held.release()
            hold.wait(20)
            return answer_all(requests)

        ranker.recommend_each = slowly
        body = json.dumps({"user": "ann", "k": 1}).encode()
        head = "POST /v1/recommendations HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        socks = [raw(server.url) for _ in range(3)]
        for sock in socks:
            sock.sendall(head.encode() + body)
        late = raw(server.url)
        late.sendall(HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert held.acquire(timeout=10)
        late.settimeout(0.2)
        with pytest.raises(TimeoutError):
            late.recv(1)
        hold.set()
        late.settimeout(20)
        assert rest(late).startswith(b"HTTP/1.1 200")
        assert all(rest(sock).startswith(b"HTTP/1.1 200") for sock in socks)


def test_a_system_without_files_costs_a_line_a_second_and_no_more(monkeypatch, caplog):
    monkeypatch.setattr(connections, "AGAIN_AFTER", 0.001)
    monkeypatch.setattr(access_log, "monotonic", lambda: 1000.0)
    taken = []

    class Taken(asyncio.Protocol):
        def connection_made(self, transport):
            taken.append(transport)
            transport.close()

    async def run() -> int:
        loop, refused = asyncio.get_running_loop(), 0
        accept = loop.sock_accept

        async def without_files(sock):
            nonlocal refused
            if refused < 50:
                refused += 1
                raise OSError(errno.EMFILE, "Too many open files")
            return await accept(sock)

        monkeypatch.setattr(loop, "sock_accept", without_files)
        with socket.create_server(("127.0.0.1", 0)) as sock:
            accepting = asyncio.create_task(Connections(10).accept(sock, Taken))
            client = socket.create_connection(sock.getsockname())
            while not taken:
                await asyncio.sleep(0.001)
            client.close()
            accepting.cancel()
        return refused

    with caplog.at_level(logging.WARNING, "longrec.serve"):
        assert asyncio.run(run()) == 50
    words = [record.getMessage() for record in caplog.records]
    assert words == ["a connection cannot be taken: Too many open files"]


def test_connections_are_fewer_than_files(monkeypatch):
    for soft, hard, most in ((64, 64, 32), (9, 4096, 3840), (9, resource.RLIM_INFINITY, 16128)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, found=(soft, hard): found)
        monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
        assert most_connections() == most


def test_a_client_that_never_reads_is_let_go(tmp_path: Path, monkeypatch):
    with local_server("elastic", tmp_path, settings={"timeout": 0.3}) as server:
        page = server.client.get("/openapi.json").content
        assert len(page) > 10_000
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = server.url.removeprefix("http://").split(":")
        sock.connect((host, int(port)))
        ask_for = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        end = time.monotonic() + 60
        try:
            while time.monotonic() < end:  # until what it does not read fills all buffers
                sock.sendall(ask_for * 8)
                time.sleep(0.01)
        except OSError:
            pass
        else:
            raise AssertionError("it is never let go")
        assert server.client.get("/healthz").status_code == 200


def test_requests_sent_ahead_are_answered_in_order_but_few_of_them(server: LocalServer):
    with raw(server.url) as sock:
        sock.sendall(HEALTH + MODEL + HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        found = rest(sock)
        assert found.count(b"HTTP/1.1 200") == 3
        assert found.index(b'{"ok":true}') < found.index(b'"elastic"') < found.rindex(b"ok")
    with raw(server.url) as sock:
        sock.sendall(HEALTH * 700)
        found = rest_or_reset(sock)
        assert found.count(b"HTTP/1.1 200") <= protocol.AHEAD + 1
        assert found.count(b'{"ok":true}') == found.count(b"HTTP/1.1")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
         b"Content-Type: application/json\r\n\r\n" + b"1\r\n \r\n" * 30_000, 413),
        (b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
         b"Content-Type: application/json\r\n\r\n1;" + b"x" * 1_000_000, 413),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_odd_heads_and_bodies_are_refused_in_json(server: LocalServer, request_, status):
    with raw(server.url) as sock:
        try:
            sock.sendall(request_)
        except OSError:
            return  # it was refused before its end
        found = rest_or_reset(sock)
    if found:  # else the answer was lost, as more was sent after it
        assert found.startswith(b"HTTP/1.1 %d" % status)
        assert json.loads(found.partition(b"\r\n\r\n")[2])["error"]["message"]
    server.post("/v1/events", {"events": [{"user": "u", "item": FIRST, "time": 1}]})


UNREAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"


def test_who_is_answered_before_the_body_ends_may_not_send_for_ever(server, monkeypatch):
    monkeypatch.setattr(protocol, "LINGER", 0.2)
    with raw(server.url) as sock:
        sock.sendall(UNREAD.replace(b"9", b"9000000"))
        end = time.monotonic() + 60
        with suppress(OSError):
            while time.monotonic() < end:
                sock.sendall(b" ")
                time.sleep(0.01)
        assert time.monotonic() < end, "it is never let go"


@pytest.mark.slow
def test_a_body_that_comes_after_its_answer_costs_nothing(tmp_path: Path):
    limits = {"timeout": 1.5}
    with local_server("elastic", tmp_path, settings=limits) as server, raw(server.url) as sock:
        for _ in range(3):
            sock.sendall(UNREAD)
            found = b""
            while not found.endswith(b'{"ok":true}'):
                found += (part := sock.recv(4096))
                assert part, "it was closed"
            sock.sendall(b" " * 9)
        sock.sendall(HEALTH[:20])  # and the head of the next one has its time
        assert rest(sock).startswith(b"HTTP/1.1 408")


CHUNKED = (
    b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Type: application/json\r\n\r\n"
)


SENT = {
    "no HTTP": b"nonsense\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 8000,
    "small chunks": CHUNKED + b"1\r\n \r\n" * 1000,
    "answered before its end": UNREAD,
    "half a head": HEALTH[:30],
    "asked": HEALTH,
    "nothing": b"",
}


@pytest.mark.parametrize("kind", SENT)
@pytest.mark.parametrize("reset", [False, True], ids=["ended", "reset"])
def test_nothing_is_kept_of_a_connection_that_is_gone(
    kind: str, reset: bool, server: LocalServer, monkeypatch
):
    """Neither by a timer, which would keep it for seconds, nor in a circle, until Python looks for
    garbage: who comes and goes thousands of times a second would stall and fill the server."""
    monkeypatch.setattr(protocol, "LINGER", 3600.0)
    kept, opened = list[weakref.ref[object]](), Connections.opened

    def noted(self, one) -> None:
        kept.append(weakref.ref(one))
        opened(self, one)

    monkeypatch.setattr(Connections, "opened", noted)
    gc.disable()
    try:
        with raw(server.url) as sock:
            sock.sendall(SENT[kind])
            if kind not in ("half a head", "nothing"):
                assert sock.recv(4096).startswith(b"HTTP/1.1 ")
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert within(20, lambda: kept and not any(one() for one in kept))
    finally:
        gc.enable()


def test_one_that_is_reset_while_its_refusal_is_sent_is_let_go(server: LocalServer, monkeypatch):
    monkeypatch.setattr(protocol, "LINGER", 3600.0)

    def gone(self) -> None:
        raise OSError(107, "Transport endpoint is not connected")

    monkeypatch.setattr(asyncio.selector_events._SelectorSocketTransport, "write_eof", gone)
    with raw(server.url) as sock, suppress(ConnectionResetError):
        sock.sendall(SENT["no HTTP"])
        rest(sock)  # ends


@pytest.mark.parametrize("kind", ["no HTTP", "many headers", "small chunks"])
def test_what_is_refused_waits_and_is_answered_once(kind: str, server: LocalServer, monkeypatch):
    """Who connects and is refused again and again waits, and others do not."""
    with raw(server.url) as sock:
        sock.sendall(SENT[kind])
        found = rest(sock)
    assert found.startswith(b"HTTP/1.1 4")
    assert found.count(b"HTTP/1.1 4") == 1
    monkeypatch.setattr(protocol, "REST", 3600.0)
    with raw(server.url) as sock:
        sock.sendall(SENT[kind])
        assert ask(server).startswith(b"HTTP/1.1 200")
        sock.settimeout(0.02)
        with pytest.raises(TimeoutError):
            sock.recv(1)


def within(seconds: float, holds) -> bool:
    """Whether something comes to hold in so many seconds."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.002)
    return bool(holds())


def test_chunks_may_be_many_where_they_carry_something(server: LocalServer):
    """As a client sends that writes an event at a time."""
    events = [{"user": "chunks", "item": FIRST, "time": n, "event_id": f"chunk-{n}-{'x' * 40}"}
              for n in range(900)]  # fmt: skip
    parts = [b'{"events":[', *(b"%s," % json.dumps(e).encode() for e in events[1:])]
    parts += [json.dumps(events[0]).encode(), b"]}"]
    with raw(server.url) as sock:
        sock.sendall(CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        sock.sendall(b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts))
        sock.sendall(b"0\r\n\r\n")
        found = rest(sock)
    assert found.startswith(b"HTTP/1.1 200"), found


def test_what_is_refused_twice_is_answered_once_and_no_failure(server, caplog):
    odd = b"POST /v1/events HTTP/1.1\r\nHost: elsewhere\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    with caplog.at_level(logging.ERROR), raw(server.url) as sock:
        sock.sendall(odd)
        assert rest(sock).startswith(b"HTTP/1.1 400")
    assert caplog.records == []


def test_the_head_of_an_answer_comes_with_its_body(server: LocalServer, monkeypatch):
    """In one write: a client that is woken by the head has not to wait once more."""
    parts: list[bytes] = []
    write = protocol._Answers.write

    class Noted:
        def __init__(self, transport) -> None:
            self._transport = transport

        def __getattr__(self, name):
            return getattr(self._transport, name)

        def write(self, data: bytes) -> None:
            parts.append(data)
            self._transport.write(data)

    def noted(self, data: bytes) -> None:
        if not isinstance(self._transport, Noted):
            self._transport = Noted(self._transport)
        write(self, data)

    monkeypatch.setattr(protocol._Answers, "write", noted)
    asks = b"Expect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n"
    requests = [
        (MODEL, 1, b"}"),
        (HEALTH, 1, b'{"ok":true}'),
        (HEALTH.replace(b"GET", b"HEAD"), 1, b"\r\n\r\n"),
        (b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 1, b"\r\n"),
        (MODEL.replace(b"/v1/model", b"/v1/nothing"), 1, b"}}"),
        (b"POST /v1/recommendations HTTP/1.1\r\nHost: localhost\r\n" + asks, 2, b"}"),
    ]
    for request, writes, end in requests:
        parts.clear()
        with raw(server.url) as sock:
            sock.sendall(request)
            if writes == 2:
                assert sock.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
                sock.sendall(b'{"user": "ann"}')
            assert sock.recv(65536).startswith(b"HTTP/1.1 ")
        assert len(parts) == writes
        assert parts[-1].endswith(end)
        assert b"\r\n\r\n" in parts[-1]
