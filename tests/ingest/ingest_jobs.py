"""Consumers for tests, in this process or in children that are killed (see forking.py)."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from serving.small_streams import FIRST, UNKNOWN, quick_engine, recommender, small_stream

from longrec.core.choices import MessageFormat
from longrec.ingest.address import SourceAddress
from longrec.ingest.consume import Consumer, Limits, Stop
from longrec.ingest.dead_letters import DeadLetters
from longrec.ingest.decoding import make_decoder
from longrec.ingest.mapping import FieldMap
from longrec.ingest.open import open_source
from longrec.ingest.source import Begin, Begun, Message, Notes, Source, SourceAway
from longrec.ingest.telemetry import Telemetry
from longrec.serving.stores.protocol import Store
from longrec.serving.stream.id_keys import user_key
from longrec.serving.stream.stream import Stream

CASE = "last-item"
BEGIN = 1_600_000_000
GROUP = "shop"

if "pytest" not in sys.modules:  # in a fork server: once, before any child is forked
    quick_engine(recommender(CASE))


class Parts:
    """A consumer of a stream and a source, and what it told."""

    def __init__(
        self,
        stream: Stream,
        source: Source,
        letters: Path,
        notes: Notes,
        kind: MessageFormat,
        fields: Sequence[str] = (),
        **limits: Any,
    ) -> None:
        self.stream, self.source, self.notes, self.stop = stream, source, notes, Stop()
        self.telemetry, self.letters = Telemetry(notes), letters
        self.limits = Limits(**limits)
        self.lines: list[str] = []
        self._more = make_decoder(kind), FieldMap(fields), DeadLetters(letters)

    def run(self, progress: Callable[[str], None] = lambda line: None) -> Any:
        decode, fields, letters = self._more
        consumer = Consumer(
            *(self.stream, self.source, decode, fields, letters, self.notes, self.telemetry),
            *(self.limits, self.stop, progress),
        )
        return consumer.run()

    def dead(self) -> list[dict[str, Any]]:
        """The dead letters in the file."""
        if not self.letters.exists():
            return []
        return [json.loads(line) for line in self.letters.read_text().splitlines()]


def parts(
    stream: Stream,
    url: str,
    folder: Path,
    begin: Begin = "earliest",
    session: float = 1.0,
    group: str = GROUP,
    said: list[str] | None = None,
    **limits: Any,
) -> Parts:
    """A consumer of a real source."""
    notes = Notes((said if said is not None else []).append)
    address = SourceAddress.parse(url)
    source = open_source(address, group, begin, session, Begun(stream.store), notes)
    kind: MessageFormat = "json" if address.scheme == "kafka" else "fields"
    return Parts(stream, source, folder / "dead.jsonl", notes, kind, **limits)


def consume(
    say: Callable[[str], None],
    url: str,
    store: str,
    session: float,
    batch: int,
    until_end: bool = False,
    folder: str | None = None,
) -> None:
    """A child: consume, and say how many messages were done whenever that changes."""
    with small_stream(CASE, store, "process") as stream:
        where = Path(folder or tempfile.mkdtemp())
        limits = {"batch": batch, "until_end": until_end, "patience": 60.0}
        one = parts(stream, url, where, session=session, **limits)
        before = 0

        def progress(line: str) -> None:
            nonlocal before
            if one.telemetry.messages != before:
                before = one.telemetry.messages
                say(str(before))

        one.run(progress)
        say(f"ended {one.telemetry.messages} {one.telemetry.letters}")


def event(user: str, number: int, item: int | None = None) -> dict[str, Any]:
    """The event of a user at a number; its time says which it is."""
    return {
        "user": user,
        "item": FIRST + number % 25 if item is None else item,
        "time": BEGIN + number,
    }


def logged(store: Store, user: str) -> list[int]:
    """The numbers of a user's events in the log, in its order."""
    from serving.acknowledged import log_of

    return [one.time - BEGIN for one in log_of(store, user_key(user))[1]]


class ListSource:
    """Messages from lists, a list per partition, for what no real source does when asked to."""

    url = "list://here"

    def __init__(self, partitions: dict[str, list[Any]]) -> None:
        self.partitions = partitions
        self.next = dict.fromkeys(partitions, 0)
        self.kept = dict.fromkeys(partitions, 0)
        self.calls: list[str] = []
        self.away = 0
        self.alive = 0

    def open(self) -> None:
        self.next = dict(self.kept)

    def poll(self, limit: int, seconds: float) -> list[Message]:
        if self.away:
            self.away -= 1
            raise SourceAway("list://here is away")
        found = []
        for name, values in self.partitions.items():
            for offset in range(self.next[name], len(values))[: limit - len(found)]:
                value = values[offset]
                body = json.dumps(value).encode() if isinstance(value, dict) else value
                token = name, offset
                found.append(
                    Message(body, b"key", 5.0, name, str(offset), f"{name}-{offset}", token)
                )
                self.next[name] = offset + 1
        if found:
            self.calls.append("poll")
        return found

    def commit(self, messages: Iterable[Message]) -> None:
        self.calls.append("commit")
        for message in messages:
            name, offset = message.token
            self.kept[name] = max(self.kept[name], offset + 1)

    def keep_alive(self) -> None:
        self.alive += 1

    def lag(self) -> dict[str, int]:
        return {name: len(values) - self.next[name] for name, values in self.partitions.items()}

    def close(self) -> None:
        self.calls.append("close")


__all__ = ["UNKNOWN", "ListSource", "Parts", "consume", "event", "logged", "parts"]
