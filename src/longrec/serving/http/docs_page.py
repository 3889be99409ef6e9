"""`/docs`: all routes on a page that loads nothing, made from the OpenAPI schema.

Pages that a library brings for it fetch their scripts from somewhere else, which a server in a
closed network cannot, and one with keys must not. This one has no script, and is tried from a
terminal: its examples are commands.
"""

from __future__ import annotations

import html
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from fastapi import Response
from jinja2 import Template

from longrec.core.templates import page_template

_POLICY = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
"""A browser runs and fetches nothing here, whatever ids may hold."""

ADDRESS = "http://address.invalid"
"""Stands for the address of a server in a page that is made once for all who ask."""
_LIMITS = {
    "minimum": "at least {:,.15g}",
    "maximum": "at most {:,.15g}",
    "maxLength": "at most {:,} characters",
    "minItems": "{:,} or more",
    "maxItems": "at most {:,} of them",
}
"""What keys of a schema say of a value."""

Schema = Mapping[str, Any]


def docs_page(schema: Schema, with_keys: bool) -> bytes:
    """The page of a schema, with examples for `ADDRESS`; they carry a key where one is needed."""
    routes = list(_routes(schema, ADDRESS, with_keys))
    page: str = _template().render(about=schema["info"], routes=routes, with_keys=with_keys)
    return page.encode()


def docs_answer(page: bytes, address: str) -> Response:
    """A page with its examples for an address."""
    own = html.escape(address.replace("'", "'\\''"))
    content = page.replace(ADDRESS.encode(), own.encode())
    return Response(content, media_type="text/html", headers=_POLICY)


def summary(endpoint: Callable[..., Any]) -> str:
    """The first line of what a route says of itself."""
    return (inspect.getdoc(endpoint) or "").partition("\n")[0]


@cache
def _template() -> Template:
    return page_template("longrec.serving.http", ".", "docs.html")


def _routes(schema: Schema, address: str, with_keys: bool) -> Iterator[dict[str, Any]]:
    """Of each route what the page shows."""
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            good = operation["responses"]["200"].get("content", {}).get("application/json", {})
            yield {
                "method": method.upper(),
                "path": path,
                "what": operation.get("description") or operation.get("summary", ""),
                "parameters": list(_parameters(schema, operation)),
                "fields": list(_fields(schema, body.get("schema", {}))),
                "answer": list(_fields(schema, good.get("schema", {}))),
                "examples": _commands(address, method, path, operation, body, with_keys),
                "errors": {
                    status: one["description"]
                    for status, one in operation["responses"].items()
                    if status != "200"
                },
            }


def _parameters(schema: Schema, operation: Schema) -> Iterator[dict[str, str]]:
    for one in operation.get("parameters", ()):
        yield {
            "name": one["name"],
            "values": f"{_values(schema, one['schema'])}, in the {one['in']}",
            "meaning": one.get("description", one["schema"].get("description", "")),
        }


def _fields(schema: Schema, of: Schema, before: str = "") -> Iterator[dict[str, str]]:
    """The fields of an object, and of objects in its lists, one row each."""
    for option in of.get("anyOf", [of]):
        found = _resolved(schema, option)
        needed = found.get("required", ())
        for name, field in found.get("properties", {}).items():
            values = _values(schema, field)
            yield {
                "name": before + name,
                "values": values if name in needed or before else f"{values}; optional",
                "meaning": field.get("description", ""),
            }
            for part in field.get("anyOf", [field]):
                if "items" in part and not before:
                    yield from _fields(schema, part["items"], f"{name}[].")


def _values(schema: Schema, field: Schema) -> str:
    """What a field may be, in words."""
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_values(schema, one) for one in field["anyOf"]))
    if "$ref" in field:
        return "object"
    if "enum" in field or "const" in field:
        return " or ".join(json.dumps(one) for one in field.get("enum", [field.get("const")]))
    kind = {
        "string": "text",
        "integer": "whole number",
        "array": "list",
        "boolean": "true or false",
    }
    name = str(field.get("type", "anything"))
    word = kind.get(name, name)
    if word == "list" and "items" in field:
        word = f"list of {_values(schema, field['items'])}"
    limits = [words.format(field[key]) for key, words in _LIMITS.items() if key in field]
    return f"{word} ({', '.join(limits)})" if limits else word


def _resolved(schema: Schema, field: Schema) -> Schema:
    """A part of the schema, found where it is named."""
    found = field
    while "$ref" in found:
        found = schema["components"]["schemas"][found["$ref"].rpartition("/")[2]]
    return found


def _commands(
    address: str, method: str, path: str, operation: Schema, body: Schema, with_keys: bool
) -> dict[str, str]:
    """Commands that try a route, by what they show."""
    for one in operation.get("parameters", ()):
        if one["in"] == "path":
            path = path.replace(f"{{{one['name']}}}", str(one.get("example", "ID")))
    words = ["curl -s"]
    if method != "get":
        words.append(f"-X {method.upper()}")
    words.append(_quoted(address + path))
    if with_keys:
        words.append("-H 'authorization: Bearer KEY'")
    if not body:
        return {"": " ".join(words)}
    words.append("-H 'content-type: application/json'")
    return {
        name: " ".join([*words, "-d", _quoted(json.dumps(example["value"]))])
        for name, example in body.get("examples", {}).items()
    }


def _quoted(text: str) -> str:
    """Text as one word of a shell."""
    return "'" + text.replace("'", "'\\''") + "'"
