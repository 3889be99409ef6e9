"""The OpenAPI schema with examples that work as printed: their items are of the catalog served."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from longrec.serving.http.bodies import BODIES
from longrec.serving.http.docs_page import docs_page
from longrec.serving.http.schemas import Problem
from longrec.serving.http.service import item_id
from longrec.serving.stream.stream import Stream

USER, TIME = "ann", 1_763_715_600
PROMETHEUS = "text/plain; version=1.0.0; charset=utf-8"
METRICS: dict[int | str, dict[str, Any]] = {
    200: {"content": {PROMETHEUS: {"schema": {"type": "string"}}}}
}
PROBLEMS = {
    400: "The body is no JSON, or did not come to its end.",
    401: "No known API key.",
    403: "Not for this host.",
    404: "There is no such thing.",
    408: "The body came too slowly.",
    409: "Not available with this model.",
    413: "The body is too large.",
    415: "The body is compressed, which is not taken.",
    422: "A value cannot be taken; the message names the field.",
    429: "Too many requests.",
    503: "Too much is waiting, or the store is away: again after Retry-After seconds.",
}
"""What each status says that is an error."""


_REFERENCE = "#/components/schemas/{model}"


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route: those of every route, and these."""
    return {
        status: {"model": Problem, "description": description}
        for status, description in PROBLEMS.items()
        if status not in (404, 409, 422) or status in statuses
    }


def body_of(schema: type[BaseModel]) -> dict[str, Any]:
    """A route's body, which FastAPI does not know of: it is read by `bodies`."""
    of_json = {"schema": {"$ref": _REFERENCE.format(model=schema.__name__)}}
    return {"requestBody": {"required": True, "content": {"application/json": of_json}}}


@lru_cache(maxsize=1)
def openapi(routes: FastAPI, stream: Stream) -> dict[str, Any]:
    """The schema of all routes, with examples; made once for each stream that is served."""
    schema = get_openapi(
        title=routes.title, version=routes.version, summary=routes.summary, routes=routes.routes
    )
    _, found = models_json_schema(
        [(body, "validation") for body in BODIES], ref_template=_REFERENCE
    )
    schema["components"]["schemas"] |= found["$defs"]
    paths, items = schema["paths"], example_items(stream)
    for path, examples in bodies(items).items():
        paths[path]["post"]["requestBody"]["content"]["application/json"]["examples"] = {
            name: {"value": value} for name, value in examples.items()
        }
    for path, operations in paths.items():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["example"] = str(items[0]) if "items" in path else USER
    return schema


@lru_cache(maxsize=1)
def pages(routes: FastAPI, stream: Stream, with_keys: bool) -> tuple[bytes, bytes]:
    """The schema as JSON, and the page for people; made once for each stream that is served."""
    schema = openapi(routes, stream)
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return text.encode(), docs_page(schema, with_keys)


def bodies(items: list[Any]) -> dict[str, dict[str, Any]]:
    """Bodies by path and name; those for recommendations come after the events that they need."""
    first, second, third, fourth = items
    event = {"user": USER, "item": first, "time": TIME, "event_id": "order-1"}
    bought = event | {"event_id": "order-2", "columns": {"type": "buy", "weight": 2}}
    shown = event | {"item": fourth, "event_id": "order-3"}
    later = {"item": second, "time": TIME + 60}
    others = [{"user": USER, **later}, {"user": "bob", "item": third, "time": TIME + 61}]
    history = [{"item": first, "time": TIME}, later]
    return {
        "/v1/events": {
            "one event": {"events": [event]},
            "several": {"events": others},
            "with further columns": {"events": [bought]},
            "and what to show next": {"events": [shown], "recommend": {"user": USER, "k": 5}},
        },
        "/v1/dropped-events": {
            "by its id": {"user": USER, "event_id": "order-2"},
            "by its place in the log": {"user": USER, "number": 1},
        },
        "/v1/recommendations": {
            "for a user": {"user": USER, "k": 5},
            "for a history": {"history": history, "k": 5},
            "not these": {"user": USER, "k": 5, "exclude": [third]},
            "among some": {"user": USER, "k": 2, "among": [third, fourth]},
            "seen items, too": {"user": USER, "k": 5, "exclude_seen": False},
            "for several users": {"users": [USER, "bob"], "k": 5, "exclude": [third]},
            "for several histories": {"histories": [history, [later]], "k": 5},
        },
        "/v1/similar": {"to several items": {"items": [first, second], "k": 3}},
        "/v1/vectors": {"of several users": {"users": [USER, "bob"]}},
        "/v1/explanations": {"of a user's item": {"user": USER, "item": third, "top": 5}},
    }


def example_items(stream: Stream) -> list[Any]:
    """The ids of the four most popular items; the last one again in smaller catalogs."""
    ids = [item_id(stream, index) for index in stream.artifact.catalog.popular[:4]]
    return [*ids, *ids[-1:] * (4 - len(ids))]
