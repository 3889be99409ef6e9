"""The routes: requests checked, asked of the service, and answered as JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.inference.explain import check_explains, explain_given
from longrec.retrieval.exact import similar
from longrec.retrieval.index import COLD, PERSONAL
from longrec.serving.http import access_log as logs
from longrec.serving.http import schemas
from longrec.serving.http.batcher import Busy
from longrec.serving.http.examples import openapi
from longrec.serving.http.guard import ANSWERED, BEGAN, App, Guard, problem
from longrec.serving.http.keys import Keys
from longrec.serving.http.schemas import problems
from longrec.serving.http.service import Service
from longrec.serving.http.settings import Settings
from longrec.serving.http.swap import Swapper
from longrec.serving.http.telemetry import Telemetry
from longrec.serving.stores.protocol import StoreFull, StoreUnavailable
from longrec.serving.stream.id_keys import id_of, item_key, user_key
from longrec.serving.stream.recommending import RecommendRequest
from longrec.serving.stream.stream import Stream
from longrec.serving.stream.user_log import user_log

AGAIN = {"retry-after": "1"}
NOBODY = "nothing is kept of this user"
FAILED = "the server failed; its log tells more under this request's id"
PING = 2.0
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
    swapper: Swapper
    _schema: tuple[Stream, dict[str, Any] | None]

    def __init__(self, settings: Settings, stream: Stream, keys: Keys) -> None:
        self._settings, self._stream = settings, stream
        self.telemetry = Telemetry()
        routes = FastAPI(
            title="longrec",
            version="1",
            summary="Fresh next-item recommendations from very long user histories.",
            lifespan=self._lifespan,
            strict_content_type=True,  # a page elsewhere may send text/plain without asking
            docs_url=None,  # these pages load scripts from elsewhere
            redoc_url=None,
        )
        self._add_events(routes)
        self._add_recommendations(routes)
        self._add_users(routes)
        self._add_items(routes)
        self._add_operations(routes)
        _add_errors(routes)
        routes.openapi = self._openapi  # type: ignore[method-assign]
        self._routes, self._schema = routes, (stream, None)
        self.app: App = Guard(routes, settings, keys, self.telemetry)

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self.service = Service(self._settings, self._stream, self.telemetry)
        self.swapper = Swapper(self.service)
        try:
            yield
        finally:
            await self.swapper.close()
            await self.service.close()

    def _openapi(self) -> dict[str, Any]:
        """The schema, made once for each stream that is served."""
        stream = self.service.current.stream
        of, schema = self._schema
        if schema is None or of is not stream:
            schema = openapi(self._routes, stream)
            self._schema = stream, schema
        return schema

    def _add_events(self, routes: FastAPI) -> None:
        @routes.post("/v1/events", response_model=schemas.EventsOut, responses=problems(422))
        async def log_events(body: schemas.EventsIn, request: Request) -> Response:
            """Log events; once answered they count in every recommendation."""
            with self.service.current.used() as stream:
                entry = stream.writer.entry
                entries = [entry(e.user, e.item, e.time, e.event_id) for e in body.events]
                self._parsed(request)
                observed = await self.service.log(stream, entries)
            accepted = sum(one.new for one in observed)
            return _reply(request, {"accepted": accepted, "duplicates": len(observed) - accepted})

    def _add_recommendations(self, routes: FastAPI) -> None:
        @routes.post(
            "/v1/recommendations",
            response_model=schemas.RecommendationsOut,
            responses=problems(422),
        )
        async def recommend(body: schemas.RecommendationsIn, request: Request) -> Response:
            """The best items for a user of the store, or for a history that is sent along."""
            with self.service.current.used() as stream:
                wish = _wish(stream, body)
                self._parsed(request)
                answer = await self.service.rank(stream, wish)
                return _reply(
                    request,
                    {
                        "items": _ranked(stream, answer.items, answer.scores),
                        "model": stream.artifact.state_digest,
                        "policy": PERSONAL if answer.personal else COLD,
                    },
                )

        @routes.post(
            "/v1/explanations",
            response_model=schemas.ExplanationOut,
            responses=problems(404, 409, 422),
        )
        async def explain(body: schemas.ExplanationIn, request: Request) -> Response:
            """Where the model's attention lies for an item: reads the whole history (O(T))."""
            with self.service.current.used() as stream:
                found = await self.service.long.do_long(partial(_explain, stream, body))
                digest = stream.artifact.state_digest
            return _reply(request, found | {"model": digest})

    def _add_users(self, routes: FastAPI) -> None:
        @routes.get(
            "/v1/users/{user:path}", response_model=schemas.UserOut, responses=problems(404, 422)
        )
        async def get_user(
            user: str,
            request: Request,
            after: int = Query(0, ge=0, le=2**62, description="Events to leave out."),
            limit: int = Query(100, ge=0, le=schemas.LOG, description="Events to show."),
        ) -> Response:
            """What is kept of a user: the log, a part at a time, and how far the record is."""
            key = user_key(user)
            with self.service.current.used() as stream:
                digest, store = stream.engine.digest, stream.store
                found = await self.service.aside.do(
                    lambda: user_log(store, digest, key, after, limit)
                )
            if found is None:
                raise HTTPException(404, NOBODY)
            header = found.header
            record = header and {
                "events": header.sequence,
                "skipped": header.skipped,
                "late": header.late,
            }
            log = [
                {
                    "item": id_of(event.item),
                    "time": event.time,
                    "event_id": None if event.event_id is None else id_of(event.event_id),
                }
                for event in found.part
            ]
            told = {"user": id_of(key), "events": found.events, "record": record}
            return _reply(request, told | {"log": log, "next": found.next})

        @routes.delete(
            "/v1/users/{user:path}", response_model=schemas.Forgotten, responses=problems(422)
        )
        async def forget_user(user: str, request: Request) -> Response:
            """Erase all that is kept of a user: log, event ids, records."""
            user_key(user)
            with self.service.current.used() as stream:
                forgotten = await self.service.aside.do(lambda: stream.forget(user))
            return _reply(request, {"forgotten": forgotten})

    def _add_items(self, routes: FastAPI) -> None:
        @routes.get(
            "/v1/items/{item:path}/similar",
            response_model=schemas.SimilarOut,
            responses=problems(404, 409, 422),
        )
        async def get_similar(
            item: str,
            request: Request,
            k: int = Query(10, ge=1, le=schemas.BEST, description="Items wanted."),
        ) -> Response:
            """The items whose vectors are nearest to an item's, by cosine."""
            with self.service.current.used() as stream:
                index = _known(stream, item)
                try:
                    vectors = stream.artifact.item_vectors()
                except UsageError as error:
                    raise HTTPException(409, str(error)) from error
                found, scores = await self.service.aside.do(lambda: similar(vectors, index, k))
                ranked = _ranked(stream, found.tolist(), scores.tolist())
                [own] = _ranked(stream, [index], [0.0])
                digest = stream.artifact.state_digest
            return _reply(request, {"item": own["item"], "items": ranked, "model": digest})

    def _add_operations(self, routes: FastAPI) -> None:
        @routes.get("/v1/model", response_model=schemas.ModelOut, responses=problems())
        async def get_model(request: Request) -> Response:
            """The model that is served, and whether it is being changed."""
            stream = self.service.current.stream
            artifact, swap = stream.artifact, self.swapper.now
            return _reply(
                request,
                {
                    "name": artifact.name,
                    "digest": artifact.state_digest,
                    "catalog_version": artifact.catalog_version,
                    "items": artifact.catalog.n_items,
                    "statement": stream.engine.statement,
                    "index": {"name": stream.index.name, "recall_at_10": stream.index.recall},
                    "swap": None if swap is None else swap.model_dump(),
                },
            )

        @routes.get("/healthz", response_model=schemas.Health, responses=problems())
        async def health(request: Request) -> Response:
            """Whether the server runs."""
            return _reply(request, {"ok": True})

        @routes.get("/readyz", response_model=schemas.Ready, responses=problems())
        async def ready(request: Request) -> Response:
            """Whether it can answer: the store is asked."""
            with self.service.current.used() as stream:
                try:
                    async with asyncio.timeout(PING):
                        await self.service.aside.do(stream.store.meta)
                except TimeoutError:
                    raise StoreUnavailable(f"the store did not answer in {PING:g} s") from None
                digest = stream.artifact.state_digest
            return _reply(request, {"ready": True, "model": digest})

        @routes.get("/metrics", response_class=Response, responses=problems() | METRICS)
        async def metrics() -> Response:
            """For Prometheus."""
            return Response(self.telemetry.text(), media_type=PROMETHEUS)

    def _parsed(self, request: Request) -> None:
        self.telemetry.stage("parse", perf_counter() - request.scope[BEGAN])


PROMETHEUS = "text/plain; version=1.0.0; charset=utf-8"
METRICS: dict[int | str, dict[str, Any]] = {
    200: {"content": {PROMETHEUS: {"schema": {"type": "string"}}}}
}


def _reply(request: Request, content: dict[str, Any]) -> Response:
    """An answer; it is built here rather than checked again."""
    request.scope[ANSWERED] = perf_counter()
    return Response(json.dumps(content, allow_nan=False), media_type="application/json")


def _ranked(stream: Stream, items: Iterable[int], scores: Iterable[float]) -> list[dict[str, Any]]:
    """Items with their own ids: numbers stay numbers, and what is neither is text."""
    found = []
    for rank, (index, score) in enumerate(zip(items, scores, strict=True), 1):
        item = stream.ids[int(index) - 1]
        item = item.item() if hasattr(item, "item") else item
        if isinstance(item, bytes):
            item = id_of(item)
        elif not isinstance(item, int | str):
            item = str(item)
        found.append({"item": item, "score": float(score), "rank": rank})
    return found


def _wish(stream: Stream, body: schemas.RecommendationsIn) -> RecommendRequest:
    ranker = stream.ranker
    excluded = ranker.excluded(body.exclude, body.among)
    if body.history is None:
        return ranker.request(body.user, body.k, excluded, body.exclude_seen)
    return ranker.history_request(_history(stream, body), body.k, excluded, body.exclude_seen)


def _history(stream: Stream, body: schemas.Wanted) -> list[tuple[Any, Any]]:
    """A history that was sent along as (item, time)."""
    timed = stream.artifact.model.reads_times
    events: list[tuple[Any, Any]] = []
    for number, event in enumerate(body.history or ()):
        if isinstance(event, schemas.HistoryEvent):
            events.append((event.item, event.time))
        elif timed:
            raise UsageError(
                f'history.{number}: this model forgets by time; send {{"item": …, "time": …}}'
            )
        else:
            events.append((event, 0))
    return events


def _known(stream: Stream, item: Any) -> int:
    """The index of an item, which must be known."""
    index = stream.items.one(item_key(item))
    if not index:
        raise HTTPException(404, "the model does not know this item")
    return index


def _explain(
    stream: Stream, body: schemas.ExplanationIn, go_on: Callable[..., None]
) -> dict[str, Any]:
    try:
        check_explains(stream.artifact.model)
    except UsageError as error:
        raise HTTPException(409, str(error)) from error
    _known(stream, body.item)
    if body.history is not None:
        events = _history(stream, body)
        artifact = stream.artifact
        found = explain_given(
            artifact.model,
            artifact.catalog,
            body.item,
            [item for item, _ in events],
            [int(time) for _, time in events],
            artifact.limit,
            go_on,
        )
    else:
        if user_log(stream.store, stream.engine.digest, user_key(body.user), 0, 0) is None:
            raise HTTPException(404, NOBODY)
        found = stream.explain(body.user, body.item, go_on)
    return found.to_dict(top=body.top)


def _add_errors(routes: FastAPI) -> None:
    """Answer what routes raise with a `Problem`."""

    def add(
        kind: type[Exception],
        status: int,
        code: str,
        words: Callable[[Any], str] = str,
        headers: dict[str, str] | None = None,
    ) -> None:
        async def answer(request: Request, error: Exception) -> Response:
            if status == 500 and kind is not Exception:  # that one is raised on, and logged then
                logs.log.error(code, exc_info=error)
            body = problem(code, words(error))
            return Response(body, status, headers, media_type="application/json")

        routes.add_exception_handler(kind, answer)

    async def answer_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = {400: "json", 404: "unknown", 405: "method", 409: "unavailable"}
        body = problem(code.get(error.status_code, "http"), error.detail)
        return Response(body, error.status_code, error.headers, media_type="application/json")

    add(RequestValidationError, 422, "value", _invalid)
    add(UsageError, 422, "value")
    add(Busy, 503, "busy", lambda _: "too much is waiting: send it again", AGAIN)
    add(StoreUnavailable, 503, "store", headers=AGAIN)
    add(StoreFull, 503, "full", headers=AGAIN)
    add(DataError, 500, "data")
    add(LongrecError, 500, "failed")
    add(Exception, 500, "failed", lambda _: FAILED)
    routes.add_exception_handler(HTTPException, answer_http)


def _invalid(error: RequestValidationError) -> str:
    """What is wrong with which fields; their values are not repeated."""
    found = error.errors()
    if found and found[0]["type"] == "json_invalid":
        return "the body is no JSON"
    words = []
    for one in found[:5]:
        place = ".".join(str(part) for part in one["loc"] if part not in ("body", "query"))
        words.append(f"{place or 'body'}: {one['msg']}")
    return "; ".join(words)
