"""The routes: requests read, asked of the service, and answered as JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from functools import partial
from time import perf_counter
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from longrec.artifact.policy import seen_items_line
from longrec.core.errors import UsageError
from longrec.core.version import version
from longrec.serving.http import schemas
from longrec.serving.http.admission import CALL, PUBLIC, Admission
from longrec.serving.http.answers import (
    UNKNOWN_USER,
    asked_of,
    dumps,
    events_asked_of,
    explained,
    known_item,
    lists_of,
    logged,
    shown_user,
    similar_asked_of,
    similar_lists,
    similar_to,
    user_vectors,
)
from longrec.serving.http.bodies import NO_OBJECT, read_body
from longrec.serving.http.call import JSON, Call
from longrec.serving.http.docs_page import docs_answer, summary
from longrec.serving.http.errors import Refused, add_error_handlers
from longrec.serving.http.keys import Keys
from longrec.serving.http.model_reload import ModelReloader
from longrec.serving.http.openapi import METRICS, PROMETHEUS, body_of, pages, problems
from longrec.serving.http.readiness import Readiness, SharedText
from longrec.serving.http.service import FEW, Service, is_light
from longrec.serving.http.settings import Settings
from longrec.serving.http.store_work import PATIENCE, StoreWork
from longrec.serving.http.telemetry import Telemetry
from longrec.serving.http.threads import Pause, in_thread
from longrec.serving.stores.protocol import StoreFull, StoreUnavailable
from longrec.serving.stream.id_keys import user_key
from longrec.serving.stream.recommending import nothing
from longrec.serving.stream.stream import Stream

T = TypeVar("T")
SMALL = 4096
"""Bytes of a body up to which it is read at once, in the event loop: in less than a millisecond."""


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
        self._settings, self._first = settings, [stream]
        self.telemetry = Telemetry()
        routes = FastAPI(
            title="longrec",
            version="1",
            summary="Fresh next-item recommendations from very long user histories.",
            lifespan=self._lifespan,
            docs_url=None,  # FastAPI's pages load scripts from elsewhere; ours has none
            redoc_url=None,
            openapi_url=None,  # ours is written once, and has bodies and examples
            redirect_slashes=False,
        )
        direct: dict[tuple[str, str], Any] = {}
        for method, path, endpoint, schema, answer, *errors in self._routes():
            if schema is not None or path in PUBLIC:
                direct[method, path] = endpoint
            routes.add_api_route(
                path,
                _shown(endpoint) if (method, path) in direct else endpoint,
                methods=[method],
                response_model=answer,
                responses=problems(*errors),
                openapi_extra=body_of(schema) if schema else None,
            )
        routes.add_api_route(
            "/metrics", self.metrics, response_class=Response, responses=problems() | METRICS
        )
        for path, page in (("/docs", self.docs), ("/openapi.json", self.schema)):
            routes.add_api_route(path, page, include_in_schema=False)
        add_error_handlers(routes)
        self._make_pages = partial(pages, routes, with_keys=bool(keys))
        self.telemetry.keys(keys)
        self.readiness = Readiness(self._ask_store)
        self._metrics = SharedText(self.telemetry.text)
        self.app: ASGIApp = Admission(routes, direct, settings, keys, self.telemetry)

    def _routes(self) -> Iterator[tuple[Any, ...]]:
        """Of each route the method, the path, what answers, what its body has (None: there is none)
        and what its answer has, and errors of its own. Those with a body are answered directly."""
        user, similar_items = "/v1/users/{user:path}", "/v1/items/{item:path}/similar"
        yield "POST", "/v1/events", self.log_events, schemas.EventsIn, schemas.EventsOut, 422
        one_or_several = schemas.RecommendationsOut | schemas.ListsOut
        drop = "/v1/dropped-events", self.drop_event, schemas.DropIn
        yield "POST", *drop, schemas.Dropped, 422
        recommendations = "/v1/recommendations", self.recommend, schemas.RecommendationsIn
        yield "POST", *recommendations, one_or_several, 422
        similar = "/v1/similar", self.similar, schemas.SimilarIn
        yield "POST", *similar, schemas.SimilarListsOut, 409, 422
        vectors = "/v1/vectors", self.user_vectors, schemas.VectorsIn
        yield "POST", *vectors, schemas.VectorsOut, 409, 422
        explanations = "/v1/explanations", self.explain, schemas.ExplanationIn
        yield "POST", *explanations, schemas.ExplanationOut, 404, 409, 422
        yield "GET", user, self.get_user, None, schemas.UserOut, 404, 422
        yield "DELETE", user, self.forget_user, None, schemas.Forgotten, 422
        yield "GET", similar_items, self.get_similar, None, schemas.SimilarOut, 404, 409, 422
        yield "GET", "/v1/model", self.get_model, None, schemas.ModelOut
        yield "GET", "/", self.welcome, None, schemas.Welcome
        yield "GET", "/healthz", self.health, None, schemas.Health
        yield "GET", "/readyz", self.ready, None, schemas.Ready

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        # Kept by the service alone: once the model is changed the first one is let go of.
        self.service = Service(self._settings, self._first.pop(), self.telemetry)
        self.store_work = StoreWork(self.service)
        self.reloader = ModelReloader(self.service, self.store_work)
        self.store_work.begin()
        try:
            yield
        finally:
            await self.reloader.close()
            await self.store_work.stop(PATIENCE)
            await self.service.close()

    async def log_events(self, call: Call) -> bytes:
        """Log events; once answered they count in every recommendation, also in one that is asked
        for with them."""
        served = self.service.current
        with served.in_use() as stream:
            read = self._read(call, schemas.EventsIn, partial(events_asked_of, stream))
            (entries, told, asked), small = await read
            wanted = [] if asked is None else asked.wanted
            light = is_light(wanted)
            with self._giving_way(small and light and len(entries) <= FEW):
                observed, found = await served.log_and_rank(entries, wanted, len(told))
                call.found = perf_counter()
                if asked is None:
                    return logged(stream, observed, told)
                lists = partial(lists_of, stream, asked, found)
                write = partial(logged, stream, observed, told, lists)
                return write() if light else await self.service.large.run_long(write)

    async def drop_event(self, call: Call) -> bytes:
        """Take a wrong event back, as if it had never been logged: reads the whole log (O(T))."""
        with self.service.current.in_use() as stream:
            body, _ = await self._read(call, schemas.DropIn, lambda body, pause: body)
            drop = partial(stream.drop_event, body["user"], body["event_id"], body["number"])
            dropped = await self.service.short(user_key(body["user"])).run(drop)
        return dumps({"dropped": dropped})

    async def recommend(self, call: Call) -> bytes:
        """The best items for users of the store, or for histories that are sent along."""
        served = self.service.current
        with served.in_use() as stream:
            ask = partial(asked_of, stream)
            asked, small = await self._read(call, schemas.RecommendationsIn, ask)
            light = is_light(asked.wanted)
            with self._giving_way(small and light):
                found = await served.rank(asked.wanted)
                call.found = perf_counter()
                write = partial(lists_of, stream, asked, found)
                return write() if light else await self.service.large.run_long(write)

    async def similar(self, call: Call) -> bytes:
        """The items whose vectors are nearest to those of some items, by cosine."""
        with self.service.current.in_use() as stream:
            ask = partial(similar_asked_of, stream)
            items, k, excluded, unknown = (await self._read(call, schemas.SimilarIn, ask))[0]
            find = partial(similar_lists, stream, items, k, excluded, unknown)
            content = await self.service.large.run_long(find)
        call.found = perf_counter()
        return content

    async def user_vectors(self, call: Call) -> bytes:
        """Users' vectors, by which a vector store finds items that `longrec push` brought there."""
        with self.service.current.in_use() as stream:
            body, _ = await self._read(call, schemas.VectorsIn, lambda body, pause: body)
            find = partial(user_vectors, stream, body["users"])
            content = await self.service.large.run_long(find)
        call.found = perf_counter()
        return content

    async def explain(self, call: Call) -> bytes:
        """Where the model's attention lies for an item: reads the whole history (O(T))."""
        with self.service.current.in_use() as stream:
            body, _ = await self._read(call, schemas.ExplanationIn, lambda body, pause: body)
            found = await self.service.long.run_long(partial(explained, stream, body))
            answer = schemas.ExplanationOut(**found, model=stream.artifact.state_digest)
        call.found = perf_counter()
        return answer.model_dump_json().encode()

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
            show = partial(shown_user, stream, key, after, limit)
            answer = await self.service.short(key).run_long(show)
        if answer is None:
            raise HTTPException(404, UNKNOWN_USER)
        return _reply(request, answer)

    async def forget_user(self, user: str, request: Request) -> Response:
        """Erase all that is kept of a user: log, event ids, records."""
        key = user_key(user)
        with self.service.current.in_use() as stream:
            forgotten = await self.service.short(key).run(lambda: stream.forget(user))
        return _reply(request, schemas.Forgotten(forgotten=forgotten))

    async def get_similar(
        self,
        item: str,
        request: Request,
        k: Annotated[int, Query(ge=1, le=schemas.MAX_ITEMS, description="Items wanted.")] = 10,
    ) -> Response:
        """The items whose vectors are nearest to an item's, by cosine."""
        with self.service.current.in_use() as stream:
            index = known_item(stream, item)
            content = await self.service.large.run_long(partial(similar_to, stream, index, k))
        request.scope[CALL].found = perf_counter()
        return Response(content, media_type=JSON)

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
        return docs_answer(self._pages[1], str(request.base_url).rstrip("/"))

    async def schema(self) -> Response:
        """All routes, as OpenAPI."""
        return Response(self._pages[0], media_type=JSON)

    async def health(self, call: Call) -> bytes:
        """Whether the server runs."""
        return b'{"ok":true}'

    async def ready(self, call: Call) -> bytes:
        """Whether it can answer: the store is asked."""
        try:
            await self.readiness.check()
        except StoreUnavailable as error:
            raise Refused(503, "store", str(error), retry_after="1") from None
        except StoreFull as error:
            raise Refused(503, "full", str(error), retry_after="1") from None
        digest = self.service.current.stream.artifact.state_digest
        return dumps({"ready": True, "model": digest})

    async def _ask_store(self) -> None:
        with self.service.current.in_use() as stream:
            await in_thread(stream.store.check_ready)

    async def metrics(self) -> Response:
        """For Prometheus."""
        return Response(await self._metrics.get(), media_type=PROMETHEUS)

    @property
    def _pages(self) -> tuple[bytes, bytes]:
        """The schema, and the page for people."""
        return self._make_pages(self.service.current.stream)

    async def _read(
        self, call: Call, schema: type[BaseModel], use: Callable[[dict[str, Any], Pause], T]
    ) -> tuple[T, bool]:
        """What becomes of a request's body, and whether it is a small one, which was read here."""
        raw = call.body
        if raw and not call.says_json:  # a page elsewhere may send text/plain without asking
            raise UsageError(NO_OBJECT)
        small = len(raw) <= SMALL
        if small:
            found = use(read_body(schema, raw), nothing)
        else:
            found = await self.service.large.run_long(
                lambda pause: use(read_body(schema, raw, pause), pause)
            )
        self.telemetry.stage("parse", perf_counter() - call.began)
        return found, small

    def _giving_way(self, short: bool) -> AbstractContextManager[None]:
        """Lets long work wait meanwhile for a request that is short."""
        return self.service.courtesy.short() if short else nullcontext()


def _shown(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Stands in the schema for what is answered directly, and says which methods there are."""

    async def answered_before() -> None:
        raise AssertionError("what is answered directly reaches no route")

    answered_before.__name__, answered_before.__doc__ = endpoint.__name__, endpoint.__doc__
    return answered_before


def _reply(request: Request, answer: BaseModel) -> Response:
    """An answer; it is written here rather than checked again."""
    request.scope[CALL].found = perf_counter()
    return Response(answer.model_dump_json(by_alias=True), media_type=JSON)
