"""What requests ask of a stream and what is answered, outside of the event loop where it is much.

`pause` is called between the pieces of what may be long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from torch import Tensor

from longrec.core.arrays import Ints
from longrec.core.errors import UsageError
from longrec.data.given_histories import GivenEvent
from longrec.inference.explain import check_explains
from longrec.retrieval.exact import similar
from longrec.retrieval.index import COLD, PERSONAL
from longrec.retrieval.restriction import Restriction
from longrec.serving.http import schemas
from longrec.serving.http.service import TOGETHER, item_id, item_ids
from longrec.serving.http.threads import Pause
from longrec.serving.stores.packed_columns import unpack_columns
from longrec.serving.stores.protocol import DAMAGED
from longrec.serving.stream.ahead import TimeAhead
from longrec.serving.stream.id_keys import id_of, item_key, user_key
from longrec.serving.stream.recommending import (
    PAUSE_EVERY,
    Recommendation,
    RecommendRequest,
    nothing,
)
from longrec.serving.stream.stream import Stream
from longrec.serving.stream.user_log import explain_given, user_log
from longrec.serving.stream.writer import Counts, Entry, Observed

UNKNOWN_USER = "nothing is kept of this user"
Problem = dict[str, Any]
"""An event that was not taken as it came, as `schemas.EventProblem` has it."""
CONFLICT = (
    "another event of this user was logged with this event_id, and stays: send this one with an id "
    "of its own, or take the other one back first (POST /v1/dropped-events)"
)


def dumps(value: Any) -> bytes:
    """A value as JSON, which knows no infinity: that is null.

    Eight times as fast as Python's own json; orjson and msgspec are another three times as fast,
    which is less than a thousandth of a request.
    """
    return to_json(value, inf_nan_mode="null")


class Asked(NamedTuple):
    """What a request for recommendations wants.

    users : ids as they were sent, None each: of a history; several : whether it asks for lists;
    unknown_items : ids of items to be left out or chosen from that the model does not know.
    """

    wanted: list[RecommendRequest]
    users: Sequence[str | int | None]
    several: bool
    unknown_items: int


def events_asked_of(
    stream: Stream, body: dict[str, Any], pause: Pause
) -> tuple[list[Entry], list[Problem], Asked | None]:
    """Events to be logged, what is wrong with those that are not, and what is to be recommended
    once they are logged."""
    entry, entries, problems = stream.writer.entry, list[Entry](), list[Problem]()
    for number, e in enumerate(body["events"]):
        try:
            entries.append(entry(e["user"], e["item"], e["time"], e["event_id"], e["columns"]))
        except TimeAhead as error:
            problems.append({"event": number, "code": "ahead", "message": str(error)})
        if not number % PAUSE_EVERY:
            pause()
    wanted = body["recommend"]
    return entries, problems, None if wanted is None else asked_of(stream, wanted, pause)


def logged(
    stream: Stream,
    observed: Sequence[Observed],
    problems: list[Problem],
    lists: Callable[[Pause], bytes] | None = None,
    pause: Pause = nothing,
) -> bytes:
    """The answer to events that were logged, with the lists that were asked for with them."""
    counts, refused = Counts().plus(observed), len(problems)
    if counts.conflicting:
        problems = _with_conflicts(problems, observed)
    answer: dict[str, Any] = {
        "accepted": counts.accepted,
        "duplicates": counts.duplicates,
        "unknown": counts.unknown,
        "model": stream.artifact.state_digest,
    }
    if problems:
        answer |= {"refused": refused, "conflicting": counts.conflicting, "problems": problems}
    content = dumps(answer)
    if lists is None:
        return content
    return b'%s,"recommended":%s}' % (content[:-1], lists(pause))


def _with_conflicts(problems: list[Problem], observed: Sequence[Observed]) -> list[Problem]:
    """The problems of a request's events that were not logged, and of those that were observed."""
    refused = {problem["event"] for problem in problems}
    numbers = (n for n in count() if n not in refused)
    found: list[Problem] = [
        {"event": number, "code": "conflict", "message": CONFLICT}
        for number, one in zip(numbers, observed, strict=False)
        if one.conflicting
    ]
    return sorted(problems + found, key=lambda problem: problem["event"])


def asked_of(stream: Stream, body: dict[str, Any], pause: Pause) -> Asked:
    ranker = stream.ranker
    excluded, unknown = ranker.excluded(body["exclude"], body["among"], pause=pause)
    also = body["k"], excluded, body["exclude_seen"]
    users, histories = body["users"], body["histories"]
    several = users is not None or histories is not None
    if body["user"] is not None:
        users = [body["user"]]
    if users is not None:
        return Asked([ranker.request(user, *also) for user in users], users, several, unknown)
    named = {"history": body["history"]}
    if several:
        named = {f"histories.{number}": history for number, history in enumerate(histories)}
    wanted = [
        ranker.history_request(_history(stream, history, name, pause), *also, name, pause)
        for name, history in named.items()
    ]
    return Asked(wanted, [None] * len(wanted), several, unknown)


def similar_asked_of(
    stream: Stream, body: dict[str, Any], pause: Pause
) -> tuple[list[Any], int, np.ndarray | None, int]:
    """Items, how many like each, and what not."""
    excluded, unknown = stream.ranker.excluded(body["exclude"], body["among"], pause=pause)
    return body["items"], body["k"], excluded, unknown


def _ranked(stream: Stream, items: Ints, scores: np.ndarray) -> list[dict[str, Any]]:
    """Items as an answer has them; 0 stands where they ran out."""
    found = zip(item_ids(stream, items[items > 0]), scores.tolist(), strict=False)
    return [
        {"item": item, "score": score, "rank": rank} for rank, (item, score) in enumerate(found, 1)
    ]


def lists_of(
    stream: Stream, asked: Asked, found: Sequence[Recommendation], pause: Pause = nothing
) -> bytes:
    """The answer to who asked for recommendations."""
    return (_several_lists if asked.several else _one_list)(stream, asked, found, pause)


def _one_list(stream: Stream, asked: Asked, found: Sequence[Recommendation], pause: Pause) -> bytes:
    """The answer to one user, or one history."""
    [one] = found
    return dumps(
        {
            "items": _ranked(stream, one.items, one.scores),
            "model": stream.artifact.state_digest,
            "policy": _policy(one),
            "exclude_seen": asked.wanted[0].exclude_seen,
            "exhausted": not len(one.items),
            "unknown_events": one.unknown,
            "unknown_items": asked.unknown_items,
        }
    )


def _several_lists(
    stream: Stream, asked: Asked, found: Sequence[Recommendation], pause: Pause
) -> bytes:
    """The answer to several."""
    lists = []
    for user, one in zip(asked.users, found, strict=True):
        lists.append(
            dumps(
                {
                    "user": user,
                    "items": _ranked(stream, one.items, one.scores),
                    "policy": _policy(one),
                    "exhausted": not len(one.items),
                    "unknown_events": one.unknown,
                }
            )
        )
        pause()
    about = {
        "model": stream.artifact.state_digest,
        "exclude_seen": asked.wanted[0].exclude_seen,
        "unknown_items": asked.unknown_items,
    }
    return _with_lists("recommendations", lists, about)


def _policy(one: Recommendation) -> str:
    return PERSONAL if one.personal else COLD


def _with_lists(name: str, lists: Sequence[bytes], about: dict[str, Any]) -> bytes:
    """An answer with lists that are JSON already: in one go long ones would hold up all threads."""
    return b'{"%s":[%s],%s' % (name.encode(), b",".join(lists), dumps(about)[1:])


def similar_lists(
    stream: Stream,
    items: list[Any],
    k: int,
    excluded: np.ndarray | None,
    unknown_items: int,
    pause: Pause,
) -> bytes:
    vectors = _item_vectors(stream)
    index = np.array([stream.items.one(item_key(item)) for item in items])
    rows = iter(range(len(items)))
    found = similar(vectors, index[index > 0], k, Restriction(excluded))
    lists = []
    for item, at in zip(items, index.tolist(), strict=True):
        row = next(rows) if at else None
        near = () if row is None else _ranked(stream, *(one[row].numpy() for one in found[::-1]))
        lists.append(dumps({"item": item, "known": bool(at), "items": near}))
        pause()
    about = {"model": stream.artifact.state_digest, "unknown_items": unknown_items}
    return _with_lists("similar", lists, about)


def similar_to(stream: Stream, index: int, k: int, pause: Pause) -> bytes:
    """The answer about items like one."""
    found = similar(_item_vectors(stream), np.array([index]), k)
    return dumps(
        {
            "item": item_id(stream, index),
            "items": _ranked(stream, found.items[0].numpy(), found.scores[0].numpy()),
            "model": stream.artifact.state_digest,
        }
    )


def user_vectors(stream: Stream, users: Sequence[Any], pause: Pause) -> bytes:
    """The answer to who asked for users' vectors."""
    _check_vectors(stream)
    lists = list[bytes]()
    for start in range(0, len(users), TOGETHER):
        some = users[start : start + TOGETHER]
        for user, vectors in zip(some, stream.ranker.user_vectors(some), strict=True):
            shown = [] if vectors is None else vectors.tolist()
            lists.append(dumps({"user": user, "vectors": shown}))
        pause()
    return _with_lists("users", lists, {"model": stream.artifact.state_digest})


def shown_user(
    stream: Stream, key: bytes, after: int, limit: int, pause: Pause
) -> schemas.UserOut | None:
    """What is kept of a user; None: there is none."""
    found = user_log(stream.store, stream.engine.digest, key, after, limit)
    if found is None:
        return None
    record = found.header and schemas.Record(
        events=found.header.sequence, skipped=found.header.skipped, late=found.header.late
    )
    log = list[schemas.Logged]()
    for event in found.part:
        log.append(
            schemas.Logged(
                item=id_of(event.item),
                time=None if event is DAMAGED else event.time,
                damaged=event is DAMAGED,
                event_id=None if event.event_id is None else id_of(event.event_id),
                columns=unpack_columns(event.columns),
            )
        )
        pause()
    return schemas.UserOut(
        user=id_of(key),
        events=found.events,
        record=record,
        log=log,
        next=found.next,
        model=stream.engine.digest,
    )


def _item_vectors(stream: Stream) -> Tensor:
    """The vectors by which items are similar; 409 where the model has none."""
    _check_vectors(stream)
    return stream.artifact.item_vectors()


def _check_vectors(stream: Stream) -> None:
    try:
        stream.artifact.check_has_vectors()
    except UsageError as error:
        raise HTTPException(409, str(error)) from error


def _history(stream: Stream, history: Sequence[Any], name: str, pause: Pause) -> list[GivenEvent]:
    """A history that was sent along."""
    events: list[GivenEvent] = []
    for number, event in enumerate(history):
        if not number % PAUSE_EVERY:
            pause()
        if isinstance(event, dict):
            events.append(GivenEvent(**event))
        elif stream.artifact.model.reads_times:
            raise UsageError(
                f'{name}.{number}: this model reads times; send {{"item": …, "time": …}}'
            )
        else:
            events.append(GivenEvent(event, None))
    return events


def known_item(stream: Stream, item: Any) -> int:
    """The index of an item, which must be known."""
    index = stream.items.one(item_key(item))
    if not index:
        raise HTTPException(404, "the model does not know this item")
    return index


def explained(stream: Stream, body: dict[str, Any], pause: Pause) -> dict[str, Any]:
    artifact, item, top = stream.artifact, body["item"], body["top"]
    try:
        check_explains(artifact.scorer)
    except UsageError as error:
        raise HTTPException(409, str(error)) from error
    known_item(stream, item)
    if body["history"] is None:
        user = body["user"]
        if user_log(stream.store, stream.engine.digest, user_key(user), 0, 0) is None:
            raise HTTPException(404, UNKNOWN_USER)
        return stream.explain(user, item, pause).to_dict(top=top)
    history = _history(stream, body["history"], "history", pause)
    return explain_given(stream.served, stream.ranker, item, history, pause).to_dict(top=top)
