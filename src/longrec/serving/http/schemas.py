"""What comes in and goes out as JSON. `longrec.serving.http.bodies` reads what comes in as it is
described here, where unknown fields are errors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from longrec.serving.stores.packed_columns import MAX_COLUMNS, MAX_INTEGER, MAX_NAME, MAX_TEXT

MAX_EVENTS = 1000
"""Events of one request."""
MAX_IDS = 10_000
"""Ids of one list, and events of a history."""
MAX_ITEMS = 1000
"""Items recommended at once to one user."""
MAX_USERS = 1000
"""Users, or histories, of one request."""
MAX_ANSWERED = 100_000
"""Items of one answer, and events of the histories of one request."""
MAX_LOG = 1000
"""Events of a user's log shown at once."""

Id = Annotated[str, Field(min_length=1, max_length=400)] | int
EventId = Annotated[str, Field(min_length=1, max_length=200)] | int
Time = Annotated[
    Annotated[float, Field(gt=-1e11, lt=1e11)] | Annotated[int, Field(gt=-(10**11), lt=10**11)],
    Field(description="Seconds since 1970 (UTC)."),
]
ColumnName = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
ColumnValue = (
    Annotated[str, Field(max_length=MAX_TEXT)]
    | bool
    | Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]
    | float
)
ColumnsIn = Annotated[
    dict[ColumnName, ColumnValue],
    Field(
        max_length=MAX_COLUMNS,
        description="Further columns by name, such as the type of the event: all are logged, and "
        "the model reads those that it was trained with.",
    ),
]
K = Annotated[int, Field(ge=1, le=MAX_ITEMS, description="Items wanted.")]
Ids = Annotated[list[Id], Field(max_length=MAX_IDS)]


class RequestBody(BaseModel):
    """Of a request: what is not known is an error."""

    model_config = ConfigDict(extra="forbid")


class Answer(BaseModel):
    """Of an answer: JSON knows no infinity."""

    model_config = ConfigDict(allow_inf_nan=False)


class EventIn(RequestBody):
    """One event of a user with an item."""

    user: Id
    item: Id
    time: Time
    event_id: EventId | None = Field(
        None, description="The caller's own, unique per user: sending it again changes nothing."
    )
    columns: ColumnsIn = {}


class EventProblem(Answer):
    """An event that was not taken as it came."""

    event: int = Field(description="Its place in the request, from 0.")
    code: Literal["ahead", "conflict"] = Field(
        description="ahead: refused, since its time is further ahead of the server's clock than "
        "--max-ahead allows; conflict: a duplicate, but another event was logged with its id."
    )
    message: str


class HistoryEvent(RequestBody):
    """An event of a history that is sent along."""

    item: Id
    time: Time
    columns: ColumnsIn = {}


History = Annotated[list[Id | HistoryEvent], Field(max_length=MAX_IDS)]


class HistoryBody(RequestBody):
    """Whose history counts: that of a user of the store, or one that is sent along."""

    user: Id | None = None
    history: History | None = Field(
        None, description="Items, or items with times, oldest event first; in place of a user."
    )


class RecommendationsIn(RequestBody):
    """For whom, how many, and what not: one user or history, or several."""

    user: Id | None = None
    history: History | None = Field(
        None, description="Items, or items with times, oldest event first; in place of a user."
    )
    users: Annotated[list[Id], Field(min_length=1, max_length=MAX_USERS)] | None = Field(
        None, description="Several users, each of whom gets a list."
    )
    histories: Annotated[list[History], Field(min_length=1, max_length=MAX_USERS)] | None = Field(
        None, description="Several histories, for each of which there is a list."
    )
    k: K = 10
    exclude: Ids = Field([], description="Items not to be recommended.")
    among: Ids | None = Field(None, description="Recommend these only.")
    exclude_seen: bool | Literal["auto"] = Field(
        "auto", description="Leave out items of the history; auto: as the recommender does."
    )


class EventsIn(RequestBody):
    """Events, in their order."""

    events: list[EventIn] = Field(min_length=1, max_length=MAX_EVENTS)
    recommend: RecommendationsIn | None = Field(
        None, description="What is wanted once they are logged, in the same answer."
    )


class Recommended(Answer):
    """An item; rank 1 is the best."""

    item: str | int
    score: float
    rank: int


class RecommendationsOut(Answer):
    """The best items now."""

    items: list[Recommended]
    model: str = Field(description="State digest of the model.")
    policy: Literal["personal", "cold"] = Field(
        description="cold: nothing is known of the user, so these are the popular items."
    )
    exclude_seen: bool = Field(description="Whether items of the history were left out.")
    exhausted: bool = Field(
        description="No item is left: the user has seen all of them, or the rest is excluded."
    )
    unknown_events: int = Field(
        description="Events of the history of items that the model does not know: it skips them."
    )
    unknown_items: int = Field(
        description="Ids in exclude and among of items that the model does not know."
    )


class ListOut(Answer):
    """The best items for one of several."""

    user: str | int | None = Field(description="As it was sent; null: of a history.")
    items: list[Recommended]
    policy: Literal["personal", "cold"]
    exhausted: bool
    unknown_events: int


class ListsOut(Answer):
    """The best items now for each of several, in their order; fields as of one."""

    recommendations: list[ListOut]
    model: str
    exclude_seen: bool
    unknown_items: int


class EventsOut(Answer):
    """What became of them: logged, or known by their event ids already."""

    accepted: int
    duplicates: int
    unknown: int = Field(
        description="Of the accepted ones those of items that the model does not know: they are "
        "logged, and count once a model knows them."
    )
    model: str = Field(description="The model that took them in.")
    refused: int | None = Field(
        None, description="Events that are ahead, and were not logged; left out without problems."
    )
    conflicting: int | None = Field(
        None, description="Of the duplicates those in conflict; left out without problems."
    )
    problems: list[EventProblem] | None = Field(
        None, description="Each event that was not taken as it came; left out if there is none."
    )
    recommended: RecommendationsOut | ListsOut | None = Field(
        None, description="What `recommend` asked for; left out if nothing was."
    )


class ExplanationIn(HistoryBody):
    """Which item's score is to be looked into."""

    item: Id
    top: int = Field(10, ge=1, le=MAX_LOG, description="Events that are shown.")


class ExplainedEvent(Answer):
    """An event of the history; position 1 is the oldest."""

    position: int
    item: str | int
    time: int | None
    attention: float | None
    contribution: float | None


class Followed(Answer):
    """How often the explained item came soon after one of the user's last items, in training."""

    item: str | int
    times: float


class ExplanationOut(Answer):
    """Where the model's attention lies, which is no cause."""

    item: str | int
    score: float
    bias: float = Field(description="What of the score the item has for every user.")
    added: float = Field(description="What of the score an added score adds.")
    followed: list[Followed] = Field(
        description="How often the item came soon after each of the last ones, where the model "
        "counts that."
    )
    memory: float = Field(description="The memory bank's share of the attention.")
    memory_contribution: float
    rest: float = Field(description="What of the score none of the others add directly.")
    seen: bool = Field(
        description="Whether the item is in the history: where seen items are left out it is not "
        "recommended."
    )
    events_read: int
    unknown_events: int = Field(
        description="Events of items that the model does not know: it skips them."
    )
    events: list[ExplainedEvent] = Field(
        description="Those with most attention; the newest where it is not known (null)."
    )
    note: str
    model: str


class Logged(Answer):
    """An event as it was logged; ids as text."""

    item: str
    time: int | None
    event_id: str | None
    columns: dict[str, str | bool | int | float]
    damaged: bool = Field(
        default=False, description="What stands there is damaged: nothing is known of the event."
    )


class Record(Answer):
    """How far the model's record of a user is."""

    events: int = Field(description="Events of the log that it has taken in.")
    skipped: int = Field(description="Those of items that the model does not know.")
    late: int


class UserOut(Answer):
    """What is kept of a user."""

    user: str
    events: int
    record: Record | None
    log: list[Logged]
    next: int | None = Field(description="`after` for the next part of the log, if there is one.")
    model: str = Field(description="State digest of the model whose record it is.")


class Forgotten(Answer):
    """Whether there was such a user."""

    forgotten: bool


class DropIn(RequestBody):
    """An event of a user that is to be taken back."""

    user: Id
    event_id: EventId | None = None
    number: Annotated[int, Field(ge=1, le=2**62)] | None = Field(
        None, description="Its place in the user's log, from 1, in place of its id."
    )


class Dropped(Answer):
    """Whether there was such an event."""

    dropped: bool


class SimilarOut(Answer):
    """Items by the cosine of their vectors with the item's."""

    item: str | int
    items: list[Recommended]
    model: str


class SimilarIn(RequestBody):
    """Which items, how many like each, and what not."""

    items: Annotated[list[Id], Field(min_length=1, max_length=MAX_USERS)]
    k: K = 10
    exclude: Ids = Field([], description="Items not to be given.")
    among: Ids | None = Field(None, description="Give these only.")


class SimilarListOut(Answer):
    """Items like one item; none where the model does not know it."""

    item: str | int
    known: bool
    items: list[Recommended]


class SimilarListsOut(Answer):
    """Items by the cosine of their vectors with those of several items, in their order."""

    similar: list[SimilarListOut]
    model: str
    unknown_items: int = Field(description="Ids in exclude and among that the model does not know.")


class VectorsIn(RequestBody):
    """Of which users of the store."""

    users: Annotated[list[Id], Field(min_length=1, max_length=MAX_USERS)]


class UserVectorsOut(Answer):
    """A user's vectors: an item's score is the largest product of one of them and the item's."""

    user: str | int
    vectors: list[list[float]] = Field(description="None where no event of the user is known.")


class VectorsOut(Answer):
    """Users' vectors, of the model that made the item vectors of `longrec push`."""

    users: list[UserVectorsOut]
    model: str


class IndexOut(Answer):
    """How items are found."""

    name: str
    recall_at_10: float = Field(description="Against exact search, measured when it was built.")


class Reload(Answer):
    """A change of the model: what is done now, or how it failed."""

    state: Literal["loading", "indexing", "rebuilding", "failed"]
    progress: float
    error: str | None = None


class StoreWorkOut(Answer):
    """What is done to the store beside requests, or how it failed."""

    state: Literal["seeding", "new model", "new items", "old records", "failed"] = Field(
        description="seeding: users are filled in from histories, and those who are not yet in are "
        "cold; new model: the store served another one, and records are made of all users who have "
        "not been read since; new items: events of items that were unknown are applied; old "
        "records: those of other models are deleted."
    )
    progress: float
    error: str | None = None


class ModelOut(Answer):
    """The model that is served."""

    name: str
    digest: str
    catalog_version: str
    items: int
    statement: str
    exclude_seen: bool = Field(
        description="Whether items that a user has seen are left out where nobody says otherwise."
    )
    seen_items: str = Field(description="The same in words, and why.")
    index: IndexOut
    swap: Reload | None
    store: StoreWorkOut | None


class Welcome(Answer):
    """What this is, and where to read on."""

    service: str
    version: str
    model: str
    docs: str = Field(description="A page for people.")
    schema_: str = Field(alias="schema", description="OpenAPI.")
    routes: dict[str, str] = Field(description="Method and path, and what is done there.")


class Health(Answer):
    """The server runs."""

    ok: bool


class Ready(Answer):
    """It can answer: the store is there."""

    ready: bool
    model: str


class Error(BaseModel):
    """What is wrong, in one word for programs and in words for people."""

    code: str
    message: str


class Problem(BaseModel):
    """The body of every answer that is an error."""

    error: Error
