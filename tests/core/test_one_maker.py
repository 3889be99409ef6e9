"""Who makes something is waited for while it is at work, and nobody else is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from longrec.core import one_maker as making
from longrec.core.one_maker import one_maker

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="locks of Linux")

# Takes a name, lets a child inherit the socket, and says so.
HOLDER = """
import socket, subprocess, sys, time
lock = socket.socket(socket.AF_UNIX)
lock.bind("\\0" + sys.argv[1])
lock.listen()
child = subprocess.Popen(["sleep", "600"], pass_fds=[lock.fileno()], stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def address(request):
    return f"\0longrec-test-{os.getpid()}-{request.node.name}"[:100]


def forever() -> float:
    return time.monotonic() + 600


@pytest.fixture
def holder(address):
    command = [sys.executable, "-I", "-S", "-c", HOLDER, address[1:]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        child = int(started.stdout.readline())
        yield started
        os.kill(child, signal.SIGKILL)
        started.kill()


def test_who_was_killed_is_not_waited_for_though_a_child_of_it_lives(holder, address):
    holder.kill()
    holder.wait()
    assert making._bound(address) is None
    assert not making._waited(address, forever())


def test_who_is_stopped_is_not_waited_for(holder, address):
    holder.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, holder.pid, os.WSTOPPED | os.WNOWAIT)
    assert not making._waited(address, forever())


def test_another_user_or_container_is_not_waited_for(address, monkeypatch):
    lock = making._bound(address)
    assert lock is not None
    assert not making._waited(address, time.monotonic()), "no longer than that"
    assert not making._works(0), "a process of another container is 0"
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert not making._waited(address, forever())
    lock.close()


def test_who_has_the_name_and_does_not_listen_is_looked_at_a_few_times(address, monkeypatch):
    monkeypatch.setattr(making, "LOOK_EVERY", 0.0001)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(address)
        assert making._lock(address) is None


def test_who_is_at_work_is_waited_for_as_long_as_that_takes():
    entered, done = threading.Event(), []

    def other() -> None:
        entered.set()
        with one_maker("x" * 999):
            done.append("other")

    with one_maker("x" * 999):
        thread = threading.Thread(target=other)
        thread.start()
        assert entered.wait(60)
        time.sleep(2 * making.LOOK_EVERY)
        done.append("one")
    thread.join()
    assert done == ["one", "other"]


def test_where_sockets_are_forbidden_nobody_waits(monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", refuse)
    with one_maker("x"):
        pass
