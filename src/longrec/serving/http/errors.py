"""What is answered where something fails: a status, a code for programs, words for people."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.core.memory import out_of_memory
from longrec.serving.http import access_log
from longrec.serving.http.json_reader import cut, shown
from longrec.serving.stores.protocol import StoreFull, StoreUnavailable

RETRY = {"retry-after": "1"}
FAILED = "the server failed; its log tells more under this request's id"


class Busy(Exception):
    """Too much is waiting, or the server is closing: try again in a second."""

    def __str__(self) -> str:
        return "too much is waiting: send it again"


class Refused(Exception):
    """A request that is not answered: the status, a code and a message, perhaps further headers."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def words_of(error: BaseException) -> str:
    """An error in words for those who run the server: others' words may hold ids of users."""
    if (words := out_of_memory(error)) is not None:
        return words
    return str(error) if isinstance(error, LongrecError) else type(error).__name__


def problem(code: str, message: str) -> bytes:
    """The body of every answer that is an error."""
    return json.dumps({"error": {"code": code, "message": message}}).encode()


def refusal(refused: Refused) -> Response:
    """What is answered to a request that is refused."""
    body = problem(refused.code, refused.message)
    return Response(body, refused.status, refused.headers, media_type="application/json")


_KINDS: dict[type[Exception], tuple[int, str, Mapping[str, str] | None]] = {
    UsageError: (422, "value", None),
    Busy: (503, "busy", RETRY),
    StoreUnavailable: (503, "store", RETRY),
    StoreFull: (503, "full", RETRY),
    DataError: (500, "data", None),
    LongrecError: (500, "failed", None),
}
_CODES = {400: "json", 404: "unknown", 405: "method", 409: "unavailable"}


def answer_to(error: Exception) -> Response | None:
    """What is answered where something fails; None where nobody foresaw that."""
    if isinstance(error, Refused):
        return refusal(error)
    if isinstance(error, HTTPException):
        code = _CODES.get(error.status_code, "http")
        return _answer(error.status_code, code, error.detail, error.headers)
    for kind in type(error).__mro__:
        if kind in _KINDS:
            status, code, headers = _KINDS[kind]
            if status == 500:
                access_log.log.error(code, exc_info=error)
            return _answer(status, code, str(error), headers)
    return None


def _answer(status: int, code: str, message: str, headers: Mapping[str, str] | None) -> Response:
    return Response(problem(code, message), status, headers, media_type="application/json")


def add_error_handlers(routes: FastAPI) -> None:
    """Answer what routes raise with a `Problem`."""

    async def answer(request: Request, error: Exception) -> Response:
        # The words of what nobody foresaw may hold anything; it is raised on, and logged then.
        return answer_to(error) or _answer(500, "failed", FAILED, None)

    async def answer_parameter(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _answer(422, "value", _of_parameter(error.errors()[0]), None)

    async def answer_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        told = HTTPException(error.status_code, _of_routes(routes, request, error))
        if error.status_code == 405:
            told.headers = {"Allow": ", ".join(_methods(routes, request))}
        return await answer(request, told)

    for kind in (*_KINDS, Refused, Exception):
        routes.add_exception_handler(kind, answer)
    routes.add_exception_handler(RequestValidationError, answer_parameter)
    routes.add_exception_handler(HTTPException, answer_http)


def _of_parameter(error: Mapping[str, Any]) -> str:
    """What is wrong with a parameter of a request's address."""
    wanted, context = "a whole number", error.get("ctx", {})
    if "ge" in context:
        wanted = f"at least {context['ge']:,}"
    elif "le" in context:
        wanted = f"at most {context['le']:,}"
    return f"{error['loc'][-1]} is {shown(error['input'])}; it must be {wanted}"


def _of_routes(routes: FastAPI, request: Request, error: HTTPException) -> str:
    """What an error says; of a path or a method that there is not, what there is."""
    path = cut(request.url.path)
    if error.status_code == 404 and error.detail == HTTPStatus.NOT_FOUND.phrase:
        paths = [route.path for route in routes.routes if isinstance(route, APIRoute)]
        near = difflib.get_close_matches(path, paths, 1)
        hint = f", perhaps {near[0]} is meant" if near else ""
        return f"there is nothing at {path}{hint}; GET / tells what there is"
    if error.status_code == 405:
        return f"{path} takes {' or '.join(_methods(routes, request))}, not {request.method}"
    return error.detail


def _methods(routes: FastAPI, request: Request) -> list[str]:
    """The methods that a request's path takes."""
    methods = set[str]()
    for route in routes.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] != Match.NONE:
            methods |= route.methods or set()
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))
