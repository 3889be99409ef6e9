"""Asks a service of `longrec serve`: log events, recommend, users' vectors.

    from longrec.client import Client

    with Client("http://127.0.0.1:8000", key="…") as shop:
        shop.log([{"user": "ann", "item": "kettle", "time": 1763715600}])
        shop.recommend("ann", k=10)

It needs no PyTorch.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlsplit

import numpy as np
import requests
from requests.adapters import HTTPAdapter

from longrec.core.arguments import described, without_passwords
from longrec.core.errors import LongrecError, UsageError, first_line

BUSY = (429, 503)
"""Answers after which the same request may be sent again."""
NOT_OURS = "no longrec answers there"
CONNECTIONS = 64
"""Connections that are kept open."""


class ServiceError(LongrecError):
    """The service refuses, or cannot be reached.

    Attributes
    ----------
    status : of the answer; None: there was none.
    code : one word for programs.
    """

    def __init__(self, status: int | None, code: str, message: str) -> None:
        super().__init__(f"{code} ({status}): {message}" if status else message)
        self.status, self.code = status, code


class UserVectors(NamedTuple):
    """vectors : per user (R, D) float32, (0, 0) where no event is known; model : its digest, which
    the item vectors of `longrec push` have, too."""

    vectors: list[np.ndarray]
    model: str


class Client:
    """A service, for any number of threads.

    Parameters
    ----------
    url : str
    key : str or None
        Where the service asks for one.
    timeout : float
        Seconds that one answer may take.
    patience : float
        Seconds for which a request is sent again where the service is busy or away. Events have
        ids, so that one that was logged before its answer was lost counts once.
    """

    def __init__(
        self, url: str, key: str | None = None, *, timeout: float = 10.0, patience: float = 30.0
    ) -> None:
        _check_url(url)
        if key is not None and not (isinstance(key, str) and key.isascii() and key.isprintable()):
            raise UsageError("key is no text of ASCII characters that can be printed")
        self.url, self.timeout, self.patience = url.rstrip("/"), timeout, patience
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=CONNECTIONS))
        if key is not None:
            self._session.headers["authorization"] = f"Bearer {key}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._session.close()

    def log(
        self, events: Iterable[Mapping[str, Any]], recommend: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Log events, {"user", "item", "time", "event_id"?, "columns"?}: they count at once.

        Parameters
        ----------
        events : of mappings
            One without `event_id` gets one. It is the caller's who wants to send the same again.
        recommend : mapping or None
            What to recommend once they are logged: a body of `POST /v1/recommendations`. The answer
            has it as `recommended`.

        Returns
        -------
        dict
            accepted, duplicates, unknown, model; and what the service did not take, `problems`.
        """
        body: dict[str, Any] = {"events": [_with_id(event) for event in events]}
        if recommend is not None:
            body["recommend"] = dict(recommend)
        found: dict[str, Any]
        (found,) = self._ask("POST", "/v1/events", body)
        return found

    def recommend(self, user: str | int, k: int = 10, **further: Any) -> list[dict[str, Any]]:
        """The k best items for a user, {"item", "score", "rank"} each, best first.

        `further` goes along: `exclude`, `among`, `exclude_seen`.
        """
        body = {"user": user, "k": k, **further}
        found: list[dict[str, Any]]
        (found,) = self._ask("POST", "/v1/recommendations", body, "items")
        return found

    def user_vectors(self, users: Sequence[str | int]) -> UserVectors:
        """Vectors of up to 1,000 users, by which a vector store finds what `longrec push` brought:
        an item's score is the largest product of its vector there and one of the user's."""
        if isinstance(users, str | bytes | Mapping):
            raise UsageError("users is one text; give a list of users' ids")
        answers, model = self._ask("POST", "/v1/vectors", {"users": list(users)}, "users", "model")
        vectors = [np.array(user["vectors"], np.float32) for user in answers]
        return UserVectors([one if len(one) else one.reshape(0, 0) for one in vectors], model)

    def forget(self, user: str | int) -> bool:
        """Erase all that is kept of a user; -> whether there was something."""
        path = "/v1/users/" + quote(str(user), safe="")
        forgotten: bool
        (forgotten,) = self._ask("DELETE", path, None, "forgotten")
        return forgotten

    def _ask(self, method: str, path: str, body: Any = None, *fields: str) -> list[Any]:
        """The fields of an answer; without any the whole of it."""
        data, headers = _encoded(body), {"content-type": "application/json"}
        end = time.monotonic() + self.patience
        while True:
            wait = 1.0
            try:
                answer = self._session.request(
                    method, self.url + path, data=data, headers=headers, timeout=self.timeout
                )
            except requests.RequestException as error:
                failed = ServiceError(None, "away", f"{self.url} gave no answer: {error}")
            else:
                if answer.ok:
                    found = _document(answer, fields)
                    return [found[field] for field in fields] if fields else [found]
                failed = _refusal(answer)
                if answer.status_code not in BUSY:
                    raise failed
                said = answer.headers.get("retry-after", "")
                if said.isascii() and said.isdigit():  # a proxy may say a date
                    wait = float(said)
            if time.monotonic() + wait > end:
                raise failed
            time.sleep(wait)


def _check_url(url: Any) -> None:
    """Raise UsageError, with nothing secret in it, for what is no service's address."""
    address = url if isinstance(url, str) else ""
    try:
        parts = urlsplit(address)
        there = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port
        there = False
    if not there or "?" in address or "#" in address:
        raise UsageError(
            f"url is {without_passwords(described(url))}; give one such as http://127.0.0.1:8000"
        )
    if "@" in address:
        raise UsageError("url has a user or a password in it: leave it out, and give key=")


def _with_id(event: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(event, Mapping):
        raise UsageError(f"an event is {described(event)}; give a mapping of user, item and time")
    given = event.get("event_id")
    return {**event, "event_id": uuid.uuid4().hex if given is None else given}


def _encoded(body: Any) -> bytes | None:
    """JSON of a body, NumPy's numbers as numbers."""
    if body is None:
        return None
    try:
        return json.dumps(body, default=_number, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"what is to be sent cannot be JSON ({first_line(error)[:100]})") from None


def _number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"it has a {type(value).__name__}; give text, numbers, lists or mappings")


def _document(answer: requests.Response, fields: Sequence[str]) -> dict[str, Any]:
    """What a service answers, which has these fields."""
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict) or not found.keys() >= set(fields):
        raise ServiceError(answer.status_code, "http", NOT_OURS)
    return found


def _refusal(answer: requests.Response) -> ServiceError:
    """What an answer that is an error says."""
    try:
        said = answer.json()["error"]
        return ServiceError(answer.status_code, said["code"], said["message"])
    except (ValueError, LookupError, TypeError):  # a proxy's page
        return ServiceError(answer.status_code, "http", answer.reason or NOT_OURS)
