"""Many threads, one call at a time, and each caller gets what is its own."""

from __future__ import annotations

import random
import threading
import time

import pytest
from serving.small_streams import in_threads

from longrec.core.errors import UsageError
from longrec.serving.stream import group_commit as module
from longrec.serving.stream.group_commit import GroupCommit


def test_alone_it_is_a_call() -> None:
    group = GroupCommit(lambda works: [2 * work for work in works])
    assert [group.submit(n) for n in range(5)] == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("at_once", [1, 3, 256])
def test_many_threads(at_once: int, monkeypatch) -> None:
    """Each gets its own result, groups never overlap, and works of a thread keep their order."""
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    busy = threading.Lock()
    groups: list[list[tuple[int, int]]] = []

    def do(works):
        assert busy.acquire(blocking=False)
        groups.append(works)
        if random.random() < 0.2:
            time.sleep(0.001)
        busy.release()
        return [(number, turn, "done") for number, turn in works]

    group = GroupCommit(do)
    results = in_threads(16, lambda number: [group.submit((number, t)) for t in range(60)])
    for number, found in enumerate(results):
        assert found == [(number, turn, "done") for turn in range(60)]
    done = [work for works in groups for work in works]
    assert len(done) == 16 * 60
    assert max(map(len, groups)) <= at_once
    for number in range(16):
        assert [turn for n, turn in done if n == number] == list(range(60))


def meanwhile(do, many: int) -> tuple[GroupCommit, list]:
    """A group that has done the work 0, and then `many` others, all of which came meanwhile.

    -> the group, and by work what its thread got.
    """
    began, go = threading.Event(), threading.Event()

    def wait_and_do(works):
        if works[0] == 0:
            began.set()
            assert go.wait(60)
        return do(works)

    group = GroupCommit(wait_and_do)

    def work(number: int):
        if number > many:
            queued(group, many)
            return go.set()
        if number:
            began.wait(60)
        return group.submit(number)

    return group, in_threads(many + 2, work)[:-1]


def queued(group: GroupCommit, many: int) -> None:
    """Wait until so many are in the queue."""
    end = time.monotonic() + 60
    while len(group._queue) < many:
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize(("at_once", "sizes"), [(256, [1, 9]), (4, [1, 4, 4, 1])])
def test_what_comes_meanwhile_is_done_together(at_once: int, sizes: list[int], monkeypatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    found = []

    def do(works):
        found.append(len(works))
        return works

    assert meanwhile(do, 9)[1] == list(range(10))
    assert found == sizes


def test_what_fails_fails_for_all_of_the_group_and_for_nobody_else() -> None:
    def do(works):
        if works[0]:
            raise UsageError("no room")
        return works

    group, results = meanwhile(do, 5)
    assert results[0] == 0
    errors = results[1:]
    assert all(type(error) is UsageError and str(error) == "no room" for error in errors)
    assert len(set(map(id, errors))) == 5  # one traceback each
    with pytest.raises(UsageError):
        group.submit(1)


def test_a_result_that_is_an_exception_is_raised_for_its_work_alone() -> None:
    group = GroupCommit(lambda works: [KeyError(w) if w == 3 else w for w in works])
    with pytest.raises(KeyError):
        group.submit(3)
    _, results = meanwhile(lambda works: [KeyError(w) if w == 3 else w for w in works], 5)
    assert type(results[3]) is KeyError
    assert results[:3] + results[4:] == [0, 1, 2, 4, 5]


def test_an_exception_that_cannot_be_copied_is_told() -> None:
    class Odd(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    def do(works):
        if works[0]:
            raise Odd(1, 2)
        return works

    errors = meanwhile(do, 2)[1][1:]
    assert sorted(type(error).__name__ for error in errors) == ["LongrecError", "Odd"]
    assert all("1 and 2" in str(error) for error in errors)


def test_a_leader_that_is_interrupted_interrupts_nobody() -> None:
    def do(works):
        if works[0] == 0:
            raise KeyboardInterrupt
        return works

    _, results = meanwhile(do, 3)
    assert type(results[0]) is KeyboardInterrupt
    assert results[1:] == [1, 2, 3]


def test_those_whose_leader_was_interrupted_are_told() -> None:
    def do(works):
        if works[0]:
            raise KeyboardInterrupt
        return works

    found = meanwhile(do, 3)[1][1:]
    kinds = sorted(type(error).__name__ for error in found)
    assert kinds == ["KeyboardInterrupt", "LongrecError", "LongrecError"]
    assert sum("may be in the log or not" in str(error) for error in found) == 2


class Interrupted:
    """A lock on which its thread is interrupted: at once, or when the lead was passed to it."""

    def __init__(self, lock, passed) -> None:
        self.lock, self.passed = lock, passed

    def acquire(self) -> None:
        if self.passed:
            self.passed()
            self.lock.acquire()
        raise KeyboardInterrupt

    def release(self) -> None:
        self.lock.release()


@pytest.mark.parametrize("led", [False, True])
def test_who_leaves_the_queue_is_not_waited_for(led: bool, monkeypatch) -> None:
    began, go = threading.Event(), threading.Event()

    def do(works):
        if works[0] == 0:
            began.set()
            assert go.wait(60)
        return works

    class Leaving(module._Job):
        def __init__(self, work) -> None:
            super().__init__(work)
            if work == 1:
                self.woken = Interrupted(self.woken, go.set if led else None)

    monkeypatch.setattr(module, "_Job", Leaving)
    group = GroupCommit(do)
    first = threading.Thread(target=group.submit, args=(0,))
    first.start()
    began.wait(60)
    with pytest.raises(KeyboardInterrupt):
        group.submit(1)
    go.set()
    first.join(60)
    assert group.submit(2) == 2
    assert not group._queue
