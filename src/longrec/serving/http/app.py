"""The routes: requests checked, asked of the service, and answered as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp
from torch import Tensor

from longrec.artifact.policy import seen_items_line
from longrec.core.errors import UsageError
from longrec.core.version import version
from longrec.data.given_histories import GivenEvent
from longrec.inference.explain import check_explains
from longrec.retrieval.exact import similar
from longrec.retrieval.restriction import Restriction
from longrec.serving.http import schemas
from longrec.serving.http.admission import ANSWERED, BEGAN, Admission
from longrec.serving.http.docs_page import docs_page, summary
from longrec.serving.http.errors import add_error_handlers
from longrec.serving.http.keys import Keys
from longrec.serving.http.model_reload import ModelReloader
from longrec.serving.http.openapi import METRICS, PROMETHEUS, openapi, problems
from longrec.serving.http.service import Service, item_id
from longrec.serving.http.settings import Settings
from longrec.serving.http.store_work import PATIENCE, StoreWork
from longrec.serving.http.telemetry import Telemetry
from longrec.serving.stores.packed_columns import unpack_columns
from longrec.serving.stores.protocol import StoreUnavailable
from longrec.serving.stream.ahead import TimeAhead
from longrec.serving.stream.id_keys import id_of, item_key, user_key
from longrec.serving.stream.recommending import Recommendation, RecommendRequest
from longrec.serving.stream.stream import Stream
from longrec.serving.stream.user_log import explain_given, user_log
from longrec.serving.stream.writer import Counts

UNKNOWN_USER = "nothing is kept of this user"
READY_WITHIN = 2.0
"""Seconds in which a store must answer to be ready."""


class Server:
    """An ASGI application, `app`, for a stream; the stream is closed when it shuts down.

    Parameters
    ----------
    settings : see `Settings`.
    stream : of the model to begin with.
    keys : who may ask.
    """

    service: Service
    store_work: StoreWork
    reloader: ModelReloader

    def __init__(self, settings: Settings, stream: Stream, keys: Keys) -> None:
        self._settings, self._stream = settings, stream
        self.telemetry = Telemetry()
        routes = FastAPI(
            title="longrec",
            version="1",
            summary="Fresh next-item recommendations from very long user histories.",
            lifespan=self._lifespan,
            strict_content_type=True,  # a page elsewhere may send text/plain without asking
            docs_url=None,  # FastAPI's pages load scripts from elsewhere; ours has none
            redoc_url=None,
            redirect_slashes=False,
        )
        for method, path, endpoint, answer, *errors in self._routes():
            routes.add_api_route(
                path,
                endpoint,
                methods=[method],
                response_model=answer,
                responses=problems(*errors),
            )
        routes.add_api_route(
            "/metrics", self.metrics, response_class=Response, responses=problems() | METRICS
        )
        routes.add_api_route("/docs", self.docs, include_in_schema=False)
        add_error_handlers(routes)
        routes.openapi = lambda: openapi(  # type: ignore[method-assign]
            routes, self.service.current.stream
        )
        self._openapi, self._with_keys = routes.openapi, bool(keys)
        self.telemetry.keys(keys)
        self.app: ASGIApp = Admission(routes, settings, keys, self.telemetry)

    def _routes(self) -> Iterator[tuple[Any, ...]]:
        """Of each route the method, the path, what answers, with what, and errors of its own."""
        user, similar_items = "/v1/users/{user:path}", "/v1/items/{item:path}/similar"
        yield "POST", "/v1/events", self.log_events, schemas.EventsOut, 422
        one_or_several = schemas.RecommendationsOut | schemas.ListsOut
        yield "POST", "/v1/dropped-events", self.drop_event, schemas.Dropped, 422
        yield "POST", "/v1/recommendations", self.recommend, one_or_several, 422
        yield "POST", "/v1/similar", self.similar, schemas.SimilarListsOut, 409, 422
        yield "POST", "/v1/explanations", self.explain, schemas.ExplanationOut, 404, 409, 422
        yield "GET", user, self.get_user, schemas.UserOut, 404, 422
        yield "DELETE", user, self.forget_user, schemas.Forgotten, 422
        yield "GET", similar_items, self.get_similar, schemas.SimilarOut, 404, 409, 422
        yield "GET", "/v1/model", self.get_model, schemas.ModelOut
        yield "GET", "/", self.welcome, schemas.Welcome
        yield "GET", "/healthz", self.health, schemas.Health
        yield "GET", "/readyz", self.ready, schemas.Ready

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self.service = Service(self._settings, self._stream, self.telemetry)
        self.store_work = StoreWork(self.service)
        self.reloader = ModelReloader(self.service, self.store_work)
        self.store_work.begin()
        try:
            yield
        finally:
            await self.reloader.close()
            await self.store_work.stop(PATIENCE)
            await self.service.close()

    async def log_events(self, body: schemas.EventsIn, request: Request) -> Response:
        """Log events; once answered they count in every recommendation."""
        served = self.service.current
        with served.in_use() as stream:
            entry = stream.writer.entry
            entries, problems = [], []
            for number, e in enumerate(body.events):
                try:
                    entries.append(entry(e.user, e.item, e.time, e.event_id, e.columns))
                except TimeAhead as error:
                    problem = {"event": number, "code": "ahead", "message": str(error)}
                    problems.append(schemas.EventProblem.model_validate(problem))
            self._parsed(request)
            observed = await served.log(entries) if entries else []
        counts, refused = Counts().plus(observed), len(problems)
        self.telemetry.refused.inc(refused)
        answer = schemas.EventsOut(
            accepted=counts.accepted,
            duplicates=counts.duplicates,
            unknown=counts.unknown,
            refused=refused or None,
            problems=problems or None,
        )
        return _reply(request, answer)

    async def drop_event(self, body: schemas.DropIn, request: Request) -> Response:
        """Take a wrong event back, as if it had never been logged: reads the whole log (O(T))."""
        with self.service.current.in_use() as stream:
            drop = partial(stream.drop_event, body.user, body.event_id, body.number)
            dropped = await self.service.short.run(drop)
        return _reply(request, schemas.Dropped(dropped=dropped))

    async def recommend(self, body: schemas.RecommendationsIn, request: Request) -> Response:
        """The best items for users of the store, or for histories that are sent along."""
        served = self.service.current
        with served.in_use() as stream:
            wanted, unknown_items = _recommend_requests(stream, body)
            self._parsed(request)
            found = await served.rank(wanted)
            several = body.users is not None or body.histories is not None
            answer = _lists if several else _list
            return _reply(request, answer(stream, body, wanted, found, unknown_items))

    async def similar(self, body: schemas.SimilarIn, request: Request) -> Response:
        """The items whose vectors are nearest to those of some items, by cosine."""
        with self.service.current.in_use() as stream:
            vectors = _item_vectors(stream)
            excluded, unknown_items = stream.ranker.excluded(body.exclude, body.among)
            self._parsed(request)
            index = np.array(stream.items.find([item_key(item) for item in body.items]))
            known, limits = index[index > 0], Restriction(excluded)
            found = await self.service.short.run(lambda: similar(vectors, known, body.k, limits))
            rows = zip(found.items.tolist(), found.scores.tolist(), strict=True)
            lists = [
                schemas.SimilarListOut(
                    item=item, known=bool(at), items=_ranked(stream, *next(rows)) if at else []
                )
                for item, at in zip(body.items, index.tolist(), strict=True)
            ]
            answer = schemas.SimilarListsOut(
                similar=lists, model=stream.artifact.state_digest, unknown_items=unknown_items
            )
        return _reply(request, answer)

    async def explain(self, body: schemas.ExplanationIn, request: Request) -> Response:
        """Where the model's attention lies for an item: reads the whole history (O(T))."""
        with self.service.current.in_use() as stream:
            found = await self.service.long.run_long(partial(_explain, stream, body))
            answer = schemas.ExplanationOut(**found, model=stream.artifact.state_digest)
        return _reply(request, answer)

    async def get_user(
        self,
        user: str,
        request: Request,
        after: Annotated[int, Query(ge=0, le=2**62, description="Events to leave out.")] = 0,
        limit: Annotated[int, Query(ge=0, le=schemas.MAX_LOG, description="Events to show.")] = 100,
    ) -> Response:
        """What is kept of a user: the log, a part at a time, and how far the record is."""
        key = user_key(user)
        with self.service.current.in_use() as stream:
            found = await self.service.short.run(
                lambda: user_log(stream.store, stream.engine.digest, key, after, limit)
            )
        if found is None:
            raise HTTPException(404, UNKNOWN_USER)
        record = found.header and schemas.Record(
            events=found.header.sequence, skipped=found.header.skipped, late=found.header.late
        )
        log = [
            schemas.Logged(
                item=id_of(event.item),
                time=event.time,
                event_id=None if event.event_id is None else id_of(event.event_id),
                columns=unpack_columns(event.columns),
            )
            for event in found.part
        ]
        answer = schemas.UserOut(
            user=id_of(key), events=found.events, record=record, log=log, next=found.next
        )
        return _reply(request, answer)

    async def forget_user(self, user: str, request: Request) -> Response:
        """Erase all that is kept of a user: log, event ids, records."""
        user_key(user)
        with self.service.current.in_use() as stream:
            forgotten = await self.service.short.run(lambda: stream.forget(user))
        return _reply(request, schemas.Forgotten(forgotten=forgotten))

    async def get_similar(
        self,
        item: str,
        request: Request,
        k: Annotated[int, Query(ge=1, le=schemas.MAX_ITEMS, description="Items wanted.")] = 10,
    ) -> Response:
        """The items whose vectors are nearest to an item's, by cosine."""
        with self.service.current.in_use() as stream:
            index = _known(stream, item)
            vectors = _item_vectors(stream)
            found = await self.service.short.run(lambda: similar(vectors, np.array([index]), k))
            answer = schemas.SimilarOut(
                item=item_id(stream, index),
                items=_ranked(stream, found.items[0].tolist(), found.scores[0].tolist()),
                model=stream.artifact.state_digest,
            )
        return _reply(request, answer)

    async def get_model(self, request: Request) -> Response:
        """The model that is served, and whether it is being changed."""
        stream = self.service.current.stream
        artifact, index = stream.artifact, stream.index
        answer = schemas.ModelOut(
            name=artifact.name,
            digest=artifact.state_digest,
            catalog_version=artifact.catalog_version,
            items=artifact.catalog.n_items,
            statement=stream.engine.statement,
            exclude_seen=artifact.exclude_seen,
            seen_items=seen_items_line(artifact),
            index=schemas.IndexOut(name=index.name, recall_at_10=index.recall),
            swap=self.reloader.status,
            store=self.store_work.status,
        )
        return _reply(request, answer)

    async def welcome(self, request: Request) -> Response:
        """What this is, and what there is."""
        routes = {
            f"{method} {path.replace(':path}', '}')}": summary(endpoint)
            for method, path, endpoint, *_ in self._routes()
        }
        answer = schemas.Welcome(
            service="longrec: the next item for a user, every event counted at once",
            version=version(),
            model=self.service.current.stream.artifact.name,
            docs="/docs",
            schema="/openapi.json",
            routes=routes | {"GET /metrics": summary(self.metrics)},
        )
        return _reply(request, answer)

    async def docs(self, request: Request) -> Response:
        """A page of all routes, for people: one file that loads nothing."""
        return docs_page(self._openapi(), str(request.base_url).rstrip("/"), self._with_keys)

    async def health(self, request: Request) -> Response:
        """Whether the server runs."""
        return _reply(request, schemas.Health(ok=True))

    async def ready(self, request: Request) -> Response:
        """Whether it can answer: the store is asked."""
        with self.service.current.in_use() as stream:
            try:
                async with asyncio.timeout(READY_WITHIN):
                    await self.service.short.run(stream.store.meta)
            except TimeoutError:
                raise StoreUnavailable(f"the store did not answer in {READY_WITHIN:g} s") from None
            return _reply(request, schemas.Ready(ready=True, model=stream.artifact.state_digest))

    async def metrics(self) -> Response:
        """For Prometheus."""
        return Response(self.telemetry.text(), media_type=PROMETHEUS)

    def _parsed(self, request: Request) -> None:
        self.telemetry.stage("parse", perf_counter() - request.scope[BEGAN])


def _reply(request: Request, answer: BaseModel) -> Response:
    """An answer; it is written here rather than checked again."""
    request.scope[ANSWERED] = perf_counter()
    content = answer.model_dump_json(by_alias=True, exclude=_left_out(answer))
    return Response(content, media_type="application/json")


def _left_out(answer: BaseModel) -> set[str]:
    """Fields of problems that there are none of."""
    if isinstance(answer, schemas.EventsOut) and answer.problems is None:
        return {"refused", "problems"}
    return set()


def _ranked(
    stream: Stream, items: Iterable[int], scores: Iterable[float]
) -> list[schemas.Recommended]:
    return [
        schemas.Recommended(item=item_id(stream, index), score=float(score), rank=rank)
        for rank, (index, score) in enumerate(zip(items, scores, strict=True), 1)
        if index  # 0: the items ran out
    ]


def _recommend_requests(
    stream: Stream, body: schemas.RecommendationsIn
) -> tuple[list[RecommendRequest], int]:
    """What is wanted, and how many ids of items to be left out or chosen from are unknown."""
    ranker = stream.ranker
    excluded, unknown = ranker.excluded(body.exclude, body.among)
    also = body.k, excluded, body.exclude_seen
    if body.users is not None or body.user is not None:
        users: Sequence[str | int | None] = body.users or [body.user]
        return [ranker.request(user, *also) for user in users], unknown
    if body.histories is None:
        return [ranker.history_request(_history(stream, body.history), *also)], unknown
    named = {f"histories.{number}": history for number, history in enumerate(body.histories)}
    return [
        ranker.history_request(_history(stream, history, name), *also, name)
        for name, history in named.items()
    ], unknown


def _list(
    stream: Stream,
    body: schemas.RecommendationsIn,
    wanted: Sequence[RecommendRequest],
    found: Sequence[Recommendation],
    unknown_items: int,
) -> BaseModel:
    """The answer to one user, or one history."""
    [one] = found
    return schemas.RecommendationsOut(
        items=_ranked(stream, one.items, one.scores),
        model=stream.artifact.state_digest,
        policy="personal" if one.personal else "cold",
        exclude_seen=wanted[0].exclude_seen,
        exhausted=not len(one.items),
        unknown_events=one.unknown,
        unknown_items=unknown_items,
    )


def _lists(
    stream: Stream,
    body: schemas.RecommendationsIn,
    wanted: Sequence[RecommendRequest],
    found: Sequence[Recommendation],
    unknown_items: int,
) -> BaseModel:
    """The answer to several."""
    users: Sequence[str | int | None] = body.users or [None] * len(found)
    return schemas.ListsOut(
        recommendations=[
            schemas.ListOut(
                user=user,
                items=_ranked(stream, one.items, one.scores),
                policy="personal" if one.personal else "cold",
                exhausted=not len(one.items),
                unknown_events=one.unknown,
            )
            for user, one in zip(users, found, strict=True)
        ],
        model=stream.artifact.state_digest,
        exclude_seen=wanted[0].exclude_seen,
        unknown_items=unknown_items,
    )


def _item_vectors(stream: Stream) -> Tensor:
    """The vectors by which items are similar; 409 where the model has none."""
    try:
        return stream.artifact.item_vectors()
    except UsageError as error:
        raise HTTPException(409, str(error)) from error


def _history(
    stream: Stream, history: schemas.History | None, name: str = "history"
) -> list[GivenEvent]:
    """A history that was sent along."""
    events: list[GivenEvent] = []
    for number, event in enumerate(history or ()):
        if isinstance(event, schemas.HistoryEvent):
            events.append(GivenEvent(event.item, event.time, event.columns))
        elif stream.artifact.model.reads_times:
            raise UsageError(
                f'{name}.{number}: this model reads times; send {{"item": …, "time": …}}'
            )
        else:
            events.append(GivenEvent(event, 0))
    return events


def _known(stream: Stream, item: Any) -> int:
    """The index of an item, which must be known."""
    index = stream.items.one(item_key(item))
    if not index:
        raise HTTPException(404, "the model does not know this item")
    return index


def _explain(
    stream: Stream, body: schemas.ExplanationIn, progress: Callable[..., None]
) -> dict[str, Any]:
    artifact = stream.artifact
    try:
        check_explains(artifact.model)
    except UsageError as error:
        raise HTTPException(409, str(error)) from error
    _known(stream, body.item)
    if body.history is None:
        if user_log(stream.store, stream.engine.digest, user_key(body.user), 0, 0) is None:
            raise HTTPException(404, UNKNOWN_USER)
        return stream.explain(body.user, body.item, progress).to_dict(top=body.top)
    history = _history(stream, body.history)
    return explain_given(stream.served, stream.ranker, body.item, history, progress).to_dict(
        top=body.top
    )
