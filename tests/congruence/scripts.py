"""Random scripts of what happens to a service, the same for everybody who plays them.

A seed decides a script alone. Each has every kind of step, and at its end asks everything of all.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from congruence.systems import FIRST, N

from longrec.core.choices import ExcludeSeen

NEW = (7, 8)
"""Ids that the catalog gets when it grows; events and requests name them before, too."""
UNKNOWN = (9, "none of the catalog")
"""Ids that no catalog has."""
FULL = "full"
"""A user who has seen all items at the end."""
USERS = ("anna", 42, "zoë / 1", FULL)
"""42 is named as 42 and as "42"."""
BEGIN, SECONDS = 1_600_000_000, 20_000


@dataclass(frozen=True)
class Event:
    """Ids are text or whole numbers, 42 and "42" the same; `event_id` is unique per user."""

    user: str | int
    item: str | int
    time: int
    event_id: str | None = None


@dataclass(frozen=True)
class Observe:
    """Events that come in this order, together."""

    events: list[Event]


@dataclass(frozen=True)
class Forget:
    """All of a user is erased."""

    user: str | int


@dataclass(frozen=True)
class Ask:
    """Recommendations for a user, or for a history (item, time) that is sent along."""

    user: str | int | None = None
    history: list[tuple[str | int, int]] | None = None
    k: int = 10
    exclude: tuple[str | int, ...] = ()
    among: tuple[str | int, ...] | None = None
    exclude_seen: ExcludeSeen = "auto"


@dataclass(frozen=True)
class Look:
    """How many events are kept of a user, how many of unknown items, how many came late."""

    user: str | int


@dataclass(frozen=True)
class Simply:
    """Something that is done and changes no answer, but for `grow`, with which NEW are known.

    restart, kill : of what serves; lose : the records, not the logs; rebuild : the records.
    """

    what: str


Step = Observe | Forget | Ask | Look | Simply


def script(seed: int, length: int = 40) -> list[Step]:
    """A script of `length` steps and some more, with every kind among them."""
    dice = random.Random(seed)
    script, sent = _Script(dice), list[Step]()
    kinds = ["one", "many", "retry", "ask", "history", "forget", "look", "lose", "rebuild"]
    kinds += dice.choices(kinds[:5], [5, 3, 1, 4, 1], k=max(0, length - len(kinds) - 4))
    kinds += ["restart", "kill", "grow"]
    dice.shuffle(kinds)
    for kind in ["many", *kinds]:
        sent.append(script.step(kind))
    every = [Event(FULL, FIRST + n, BEGIN + SECONDS + n // 3) for n in dice.sample(range(N), N)]
    every += [Event(FULL, item, BEGIN + SECONDS + 99) for item in NEW]
    sent += [Observe(every), Simply("rebuild")]
    for user in (*USERS, "42", "nobody"):
        sent.append(Look(user))
        sent += [Ask(user, k=k, exclude_seen=seen) for k, seen in ((10, "auto"), (N + 9, True))]
        sent.append(Ask(user, k=N + 9, exclude_seen=False))
    return sent


class _Script:
    """What a script has said so far, from which it may retry."""

    def __init__(self, dice: random.Random) -> None:
        self._dice, self._named = dice, list[Event]()
        self._clock, self._number = BEGIN, 0

    def step(self, kind: str) -> Step:
        dice = self._dice
        if kind == "one":
            return Observe([self._event(dice.random() < 0.6)])
        if kind == "many":
            named = dice.random() < 0.6
            events = [self._event(named) for _ in range(dice.choice((2, 5, 12, 40)))]
            if named:  # twice in one batch
                events.append(dice.choice(events))
            return Observe(events)
        if kind == "retry" and self._named:
            before = dice.choice(self._named)
            return Observe([Event(before.user, self._item(), self._time(), before.event_id)])
        if kind in ("ask", "history"):
            return self._ask(kind == "history")
        if kind == "forget":
            return Forget(dice.choice(USERS[:2]))
        if kind == "look":
            return Look(self._user())
        return Simply("restart" if kind == "retry" else kind)

    def _event(self, named: bool) -> Event:
        self._number += 1
        event_id = f"event {self._number}" if named else None
        event = Event(self._user(), self._item(), self._time(), event_id)
        self._named += [event] if named else []
        return event

    def _user(self) -> str | int:
        user = self._dice.choice(USERS)
        return str(user) if self._dice.random() < 0.5 else user

    def _item(self) -> str | int:
        dice = self._dice
        if dice.random() < 0.15:
            return dice.choice(NEW + UNKNOWN)
        # A few items again and again: repeats, and others that are never seen.
        item: str | int = FIRST + dice.randrange(dice.choice((5, N)))
        return str(item) if dice.random() < 0.3 else item

    def _time(self) -> int:
        """Mostly later, at times the same, at times long ago."""
        dice = self._dice
        self._clock += dice.choice((0, 0, 1, 60, 900))
        return self._clock - (dice.randrange(5000) if dice.random() < 0.2 else 0)

    def _ask(self, with_history: bool) -> Ask:
        dice = self._dice
        some = tuple(self._item() for _ in range(dice.choice((1, 6, 30))))
        how: dict[str, Any] = {
            "k": dice.choice((1, 3, 10, N, N + 9)),
            "exclude": some if dice.random() < 0.3 else (),
            "among": some if dice.random() < 0.3 else None,
            "exclude_seen": dice.choice(("auto", True, False)),
        }
        if with_history:
            events = dice.choice((0, 1, 4, 30))
            return Ask(history=[(self._item(), self._time()) for _ in range(events)], **how)
        return Ask(dice.choice((*USERS, "42", "nobody")), **how)
