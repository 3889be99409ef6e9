"""Pairs as they are served over one catalog: stores filled, streams and servers, taking turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, Literal, NamedTuple, TypeVar

from longrec.models import SequenceModel
from longrec.recommender import Recommender
from longrec.retrieval.exact import ExactIndex
from longrec.retrieval.index import Index
from longrec.retrieval.index_cache import open_index
from longrec.serving.stores.protocol import Durability, open_store
from longrec_bench.cells import Cell, Measured
from longrec_bench.clients import Connection, InProcess
from longrec_bench.filling import fill
from longrec_bench.machine import Disk
from longrec_bench.parts import Parts
from longrec_bench.place import Place
from longrec_bench.plan import FEW, Plan
from longrec_bench.ratios import AGAIN
from longrec_bench.recall import recall_of
from longrec_bench.reencoding import WINDOWS, Reencoding, window_models
from longrec_bench.server import Server
from longrec_bench.stages import Served
from longrec_bench.systems import Alone, pairs
from longrec_bench.turns import Progress, take_turns
from longrec_bench.users import Users, write

Transport = Literal["python", "http"]
A = TypeVar("A", bound=Alone)


@dataclass(frozen=True)
class System:
    """A recommender with its index, and its filled stores' URLs."""

    recommender: Recommender
    index: Index
    stores: dict[tuple[Transport, Durability], str]


class Found(NamedTuple):
    """Cells, where the time goes, and what items were found with, in words."""

    cells: list[Cell]
    breakdown: list[dict[str, Any]]
    words: list[str]


class AtCatalog:
    """The measurement of recommenders with one catalog; made, all their stores are filled.

    Parameters
    ----------
    place : for their stores.
    cores : that servers may use.
    """

    def __init__(
        self,
        recommenders: Sequence[Recommender],
        plan: Plan,
        transports: Sequence[Transport],
        place: Place,
        cores: set[int],
        tell: Progress,
    ) -> None:
        self._plan, self._place, self._cores = plan, place, cores
        catalog = recommenders[0].catalog
        self._items, words = catalog.n_items, f"{catalog.n_items:,} items: "
        self._tell: Progress = lambda done, total, what: tell(done, total, words + what)
        self._users = [Users(length, catalog, plan.seed) for length in sorted(plan.histories)]
        histories = write(self._users, catalog, place.folder / "histories")
        self._systems = list[System]()
        for recommender in recommenders:
            if recommender.folder is None:
                recommender = replace(recommender)
                recommender.save(place.folder / f"{recommender.name}-run")
            index = open_index(recommender, "auto", self._tell)
            stores = {
                (transport, durability): place.url(f"{recommender.name}-{transport}", durability)
                for transport, durability in product(transports, plan.durabilities)
            }
            urls = {url: durability for (_, durability), url in stores.items()}
            fill(recommender, urls, histories, place.on_disk, self._tell)
            self._systems.append(System(recommender, index, stores))

    def measure(self, disk: Disk) -> Found:
        """Let all cells, and the disk, take their turns."""
        measured = list[list[Measured]]()
        parts, served = list[Parts](), list[Served]()
        with ExitStack() as stack:
            servers = {
                url: self._start(stack, system, durability, url)
                for system in self._systems
                for (transport, durability), url in system.stores.items()
                if transport == "http"
            }
            for system in self._systems:
                own = list[Measured]()
                for (transport, durability), url in system.stores.items():
                    of = partial(self._of, system.recommender.name, transport, durability)
                    if transport == "http":
                        connect = partial(_connect, stack, servers[url])
                        alone, together = pairs(connect, self._users, self._plan, of, Served)
                        served += _middle(alone)
                        own += [*alone, *together]
                    else:
                        own += self._in_process(stack, system, durability, url, of, parts)
                measured.append(own)
            measured[0] += self._again(self._systems[0])
            for number, server in enumerate(servers.values()):
                self._tell(number, len(servers), "starting servers")
                server.wait()
            everything = [one for own in measured for one in own]
            take_turns(everything, [*parts, disk], self._plan, self._tell)
            breakdown = [*(one.told() for one in parts), *(one.told() for one in served)]
        cells, words = list[Cell](), list[str]()
        for system, own in zip(self._systems, measured, strict=True):
            share = self._recall(system)
            cells += [one.cell() | {"recall_at_10": share} for one in own]
            words.append(
                f"{self._items:,} items, {system.recommender.name}: found with {system.index.name}."
            )
        return Found(cells, breakdown, words)

    def _start(self, stack: ExitStack, system: System, durability: Durability, url: str) -> Server:
        """A server that is not ready yet: several start at once."""
        folder = system.recommender.folder
        assert folder is not None
        log = self._place.folder / f"{system.recommender.name}-{durability}.log"
        return stack.enter_context(Server(folder, url, durability, log, self._cores))

    def _in_process(
        self,
        stack: ExitStack,
        system: System,
        durability: Durability,
        url: str,
        of: Callable[[Users, int], Cell],
        parts: list[Parts],
    ) -> list[Measured]:
        """Cells of a stream; the parts of its pairs are added to those given."""
        stream = stack.enter_context(
            system.recommender.open_stream(url, durability, index=system.index)
        )
        connect = partial(InProcess, stream)
        alone, together = pairs(connect, self._users, self._plan, of, Alone)
        if stream.engine.window is None:
            for one in _middle(alone):
                store = open_store(url, durability)
                stack.callback(store.close)
                parts.append(Parts(stream, store, one))
        return [*alone, *together]

    def _again(self, system: System) -> list[Measured]:
        """Reading windows again, for each length of history; none reads what a smaller one does."""
        found = list[Measured]()
        smaller = 0
        for model, window in zip(window_models(system.recommender), WINDOWS, strict=True):
            own = isinstance(system.recommender.model, SequenceModel)
            index = system.index if own else ExactIndex(model)
            found += [
                Reencoding(
                    *(model, index, some),
                    *(self._of(f"{AGAIN} {window}", "python", "none", some, 1), FEW),
                )
                for some in self._users
                if some.length > smaller
            ]
            smaller = window
        return found

    def _recall(self, system: System) -> float:
        self._tell(0, 1, "measuring recall")
        url = next(iter(system.stores.values()))
        with system.recommender.open_stream(url, "process", index=system.index) as stream:
            return recall_of(stream, self._users)

    def _of(self, name: str, transport: str, durability: str, users: Users, clients: int) -> Cell:
        """The first keys of a cell."""
        return {
            "system": name,
            "history": users.length,
            "catalog": self._items,
            "clients": clients,
            "transport": transport,
            "durability": durability,
        }


def _connect(stack: ExitStack, server: Server) -> Connection:
    connection = Connection(server)
    stack.callback(connection.close)
    return connection


def _middle(alone: list[A]) -> list[A]:
    """Of pairs of one client, those of the middle length of history; none if there are none."""
    return alone[len(alone) // 2 :][:1]
