"""Processes that do not come, or do not answer, are told of in one line."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch

from longrec.core.errors import UsageError
from longrec.training import meeting
from longrec.training.processes import Processes, ProcessLost


def second_of(number, seconds, monkeypatch):
    """This process becomes the second of so many, of whom the first is there and waits so long.

    Gives the store that they meet at, which ends with it.
    """
    store, variables = meeting.meeting_place(number)
    for name, value in {**variables, "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    store.set("longrec/here/0", "here")
    monkeypatch.setattr(meeting, "MEETING", timedelta(seconds=seconds))
    return store


@pytest.mark.slow
def test_who_does_not_come_is_named(monkeypatch):
    _store = second_of(3, 2, monkeypatch)
    with (
        pytest.raises(UsageError, match=r"within 2\.0 s; not there: 2 \(.*same torchrun") as error,
        meeting.joined(),
    ):
        pass
    assert "\n" not in str(error.value)


def test_nobody_goes_on_while_another_one_still_connects(monkeypatch):
    """Who went on and ended with an error was a broken network to who still connected."""
    store = second_of(2, 0.3, monkeypatch)
    monkeypatch.setattr(meeting.dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(meeting.dist, "destroy_process_group", lambda: None)
    with pytest.raises(UsageError, match="not connected: 0 "), meeting.joined():
        pass
    store.set("longrec/connected/0", "connected")
    with meeting.joined() as found:
        assert not found.rank


def test_one_that_does_not_answer_is_told_apart_from_one_that_ended(monkeypatch):
    def fails(said):
        def all_reduce(_):
            raise RuntimeError(said)

        monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
        with pytest.raises(ProcessLost) as error:
            Processes(0, 2).sums(1.0)
        return str(error.value)

    told = fails("[gloo] Timed out waiting 3600000ms for recv operation to complete\nmore")
    assert "did not answer within 1 h 00 min ([gloo] Timed out" in told
    assert "--resume" in told
    assert "whose own line says why" in fails("Connection closed by peer")
