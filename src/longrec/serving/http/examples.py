"""The OpenAPI schema with examples that work as printed: their items are of the catalog served."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from longrec.serving.http.service import item_id
from longrec.serving.stream.stream import Stream

USER, TIME = "ann", 1_763_715_600


def openapi(routes: FastAPI, stream: Stream) -> dict[str, Any]:
    """The schema of all routes, with examples."""
    schema = get_openapi(
        title=routes.title, version=routes.version, summary=routes.summary, routes=routes.routes
    )
    paths = schema["paths"]
    for path, examples in bodies(stream).items():
        paths[path]["post"]["requestBody"]["content"]["application/json"]["examples"] = {
            name: {"value": value} for name, value in examples.items()
        }
    first = example_items(stream)[0]
    for path, operations in paths.items():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["example"] = str(first) if "items" in path else USER
    return schema


def bodies(stream: Stream) -> dict[str, dict[str, Any]]:
    """Bodies by path and name; those for recommendations come after the events that they need."""
    first, second, third, fourth = example_items(stream)
    event = {"user": USER, "item": first, "time": TIME, "event_id": "order-1"}
    return {
        "/v1/events": {
            "one event": {"events": [event]},
            "several": {
                "events": [
                    {"user": USER, "item": second, "time": TIME + 60},
                    {"user": "bob", "item": third, "time": TIME + 61},
                ]
            },
        },
        "/v1/recommendations": {
            "for a user": {"user": USER, "k": 5},
            "for a history": {
                "history": [
                    {"item": first, "time": TIME},
                    {"item": second, "time": TIME + 60},
                ],
                "k": 5,
            },
            "not these": {"user": USER, "k": 5, "exclude": [third]},
            "among some": {"user": USER, "k": 2, "among": [third, fourth]},
        },
        "/v1/explanations": {
            "of a user's item": {"user": USER, "item": third, "top": 5},
        },
    }


def example_items(stream: Stream) -> list[Any]:
    """The ids of the four most popular items; the last one again in smaller catalogs."""
    ids = [item_id(stream, index) for index in stream.artifact.catalog.popular[:4]]
    return [*ids, *ids[-1:] * (4 - len(ids))]
