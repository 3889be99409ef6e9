"""Work is handed to a thread in batches; the event loop waits for short ones, never for long."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from longrec.serving.http import batcher
from longrec.serving.http.batcher import Batcher


@pytest.fixture
def waited(monkeypatch) -> list[float]:
    """The seconds that the event loop waited for a batch at most, each time."""
    seen: list[float] = []
    within = batcher._Done.within

    def noted(self, seconds):
        seen.append(seconds)
        return within(self, seconds)

    monkeypatch.setattr(batcher._Done, "within", noted)
    monkeypatch.setattr(batcher, "PATIENCE", 20.0)
    return seen


def run(main) -> object:
    return asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize("small", [0, 100], ids=["told by the thread", "waited for"])
def test_each_work_gets_its_own_result_in_order(small, monkeypatch):
    monkeypatch.setattr(batcher, "SMALL", small)
    monkeypatch.setattr(batcher, "PATIENCE", 20.0)

    async def main() -> None:
        batches: list[list[int]] = []

        def do(works):
            batches.append(list(works))
            return [ValueError(str(work)) if work % 5 == 3 else 2 * work for work in works]

        made = Batcher("test", do, 100, lambda *_: None)
        for begin in (0, 20, 40):
            works = range(begin, begin + 20)
            found = await asyncio.gather(*map(made.submit, works), return_exceptions=True)
            for work, one in zip(works, found, strict=True):
                assert str(one) == str(work if work % 5 == 3 else 2 * work)
                assert isinstance(one, ValueError) == (work % 5 == 3)
        assert [one for batch in batches for one in batch] == list(range(60))
        assert len(batches) == 3, "what comes at once is done at once"
        assert await made.submit(100) == 200
        await made.close()

    run(main)


def test_the_loop_waits_for_a_blocked_thread_no_longer_than_its_patience(waited, monkeypatch):
    async def main() -> None:
        hold = threading.Event()
        hold.set()
        made = Batcher("test", lambda works: hold.wait(20) and works, 100, lambda *_: None)
        assert await made.submit(0) == 0  # short
        monkeypatch.setattr(batcher, "PATIENCE", 0.001)
        hold.clear()
        blocked = asyncio.create_task(made.submit(1))
        turns = 0
        while turns < 100:  # the loop goes on
            await asyncio.sleep(0)
            turns += 1
        more = [asyncio.create_task(made.submit(n)) for n in (2, 3)]
        await asyncio.sleep(0.01)
        assert not any(one.done() for one in (blocked, *more))
        assert waited == [20.0, batcher.PATIENCE]
        hold.set()
        assert await asyncio.gather(blocked, *more) == [1, 2, 3]
        await made.close()

    run(main)


def test_the_batch_after_a_long_one_is_not_waited_for(waited, monkeypatch):
    async def main() -> None:
        seconds = [0.0, 0.0, 0.02, 0.0, 0.0]

        def do(works):
            time.sleep(seconds[works[0]])
            return works

        made = Batcher("test", do, 100, lambda *_: None)
        waits = []
        for number in range(5):
            monkeypatch.setattr(batcher, "PATIENCE", 0.004 if seconds[number] else 20.0)
            await made.submit(number)
            waits.append(len(waited))
        await made.close()
        assert waits[0] == 1
        assert waits[3] == waits[2]  # after the long one

    run(main)


def test_a_result_that_comes_as_patience_ends_is_told_once(monkeypatch):
    """Whether the thread or the loop is the first, each work is answered."""
    monkeypatch.setattr(batcher, "PATIENCE", 0.0)

    async def main() -> None:
        made = Batcher("test", lambda works: works, 100, lambda *_: None)
        for number in range(500):
            assert await made.submit(number) == number
        await made.close()

    run(main)


def test_what_the_machine_took_for_others_does_not_make_a_batch_long(waited):
    """Beside a busy event loop a batch takes long by the clock, and waiting for it is the mend."""

    async def main() -> None:
        made = Batcher("test", lambda works: time.sleep(0.02) or works, 100, lambda *_: None)
        for number in range(4):
            await made.submit(number)
        await made.close()
        assert len(waited) == 4

    run(main)
