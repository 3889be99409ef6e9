"""The settings of a server, fixed at its start."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from longrec.config.border import check_config
from longrec.core.bounds import MOST, Bounds
from longrec.core.choices import Durability, IndexKind
from longrec.serving.stream.ahead import DAY


@dataclass(frozen=True)
class Settings:
    """Settings of `longrec serve`.

    Attributes
    ----------
    run : folder of the recommender; read again when the model is changed.
    store : URL of the users' store.
    durability : what acknowledged events survive, "power" or "process".
    host, port : address to listen on; port 0: any free one.
    index : how items are found, "auto", "exact" or "approximate".
    keys : file of API keys, a line each, or None.
    without_keys : whether to listen beyond this machine without any.
    max_body : bytes of a request's body.
    rate : requests per second of one key (without keys: of one address), and twice as many at once.
    queue : events, and recommendations, that may wait; more are refused with 503.
    timeout : seconds for a request's head, for its body, and for its answer.
    log_requests : whether every request is a line of the log.
    fresh_counts : seconds between two countings of what followed what in the store's log, for a
        recommender with transitions; None: it is not counted.
    max_ahead : seconds that an event's time may be ahead of this machine's clock; what is later is
        refused.
    data : folder of histories that the store is filled from while it serves, or None; read again
        when the model is changed.
    another_catalog : whether the run may have another catalog than the model whose events the store
        holds; see `longrec.serving.stream.store_models.register`.
    """

    run: Path
    store: str
    durability: Durability = "power"
    host: str = "127.0.0.1"
    port: Annotated[int, Bounds(ge=0, le=65535)] = 8000
    index: IndexKind = "auto"
    keys: Path | None = None
    without_keys: bool = False
    max_body: Annotated[int, Bounds(ge=1024)] = 1 << 20
    rate: Annotated[float, Bounds(gt=0)] = 2000.0
    queue: Annotated[int, Bounds(ge=1)] = 2048
    timeout: Annotated[float, Bounds(gt=0)] = 10.0
    log_requests: bool = True
    max_ahead: Annotated[float, Bounds(gt=0, le=MOST)] = DAY
    data: Path | None = None
    fresh_counts: Annotated[float, Bounds(gt=0, le=MOST)] | None = 60.0
    another_catalog: bool = False

    def __post_init__(self) -> None:
        check_config(self)

    @cached_property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
