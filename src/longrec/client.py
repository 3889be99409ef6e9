"""Asks a service of `longrec serve`: log events, recommend, users' vectors.

    from longrec.client import Client

    with Client("http://127.0.0.1:8000", key="…") as shop:
        shop.log([{"user": "ann", "item": "kettle", "time": 1763715600}])
        shop.recommend("ann", k=10)

It needs no PyTorch.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import numpy as np
import requests
from requests.adapters import HTTPAdapter

from longrec.core.errors import LongrecError, UsageError

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
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"url is {url!r}; give one such as http://127.0.0.1:8000")
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
        body: dict[str, Any] = {
            "events": [{"event_id": uuid.uuid4().hex, **event} for event in events]
        }
        if recommend is not None:
            body["recommend"] = dict(recommend)
        return self._ask("POST", "/v1/events", body)

    def recommend(self, user: str | int, k: int = 10, **further: Any) -> list[dict[str, Any]]:
        """The k best items for a user, {"item", "score", "rank"} each, best first.

        `further` goes along: `exclude`, `among`, `exclude_seen`.
        """
        body = {"user": user, "k": k, **further}
        found: list[dict[str, Any]] = self._ask("POST", "/v1/recommendations", body)["items"]
        return found

    def user_vectors(self, users: Sequence[str | int]) -> UserVectors:
        """Vectors of up to 1,000 users, by which a vector store finds what `longrec push` brought:
        an item's score is the largest product of its vector there and one of the user's."""
        answer = self._ask("POST", "/v1/vectors", {"users": list(users)})
        vectors = [np.array(user["vectors"], np.float32) for user in answer["users"]]
        return UserVectors(
            [one if len(one) else one.reshape(0, 0) for one in vectors], answer["model"]
        )

    def forget(self, user: str | int) -> bool:
        """Erase all that is kept of a user; -> whether there was something."""
        path = "/v1/users/" + quote(str(user), safe="")
        forgotten: bool = self._ask("DELETE", path)["forgotten"]
        return forgotten

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        end = time.monotonic() + self.patience
        while True:
            wait = 1.0
            try:
                answer = self._session.request(
                    method, self.url + path, json=body, timeout=self.timeout
                )
            except requests.RequestException as error:
                failed = ServiceError(None, "away", f"{self.url} gave no answer: {error}")
            else:
                if answer.ok:
                    return _document(answer)
                failed = _refusal(answer)
                if answer.status_code not in BUSY:
                    raise failed
                with suppress(ValueError):  # a proxy may say a date
                    wait = float(answer.headers.get("retry-after", wait))
            if time.monotonic() + wait > end:
                raise failed
            time.sleep(wait)


def _document(answer: requests.Response) -> dict[str, Any]:
    """What a service answers."""
    try:
        found: dict[str, Any] = answer.json()
    except ValueError:
        raise ServiceError(answer.status_code, "http", NOT_OURS) from None
    return found


def _refusal(answer: requests.Response) -> ServiceError:
    """What an answer that is an error says."""
    try:
        said = answer.json()["error"]
        return ServiceError(answer.status_code, said["code"], said["message"])
    except (ValueError, LookupError, TypeError):  # a proxy's page
        return ServiceError(answer.status_code, "http", answer.reason or NOT_OURS)
