"""A store made ready beside its requests: filled, brought up to a new model or to new items."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, Literal

from longrec.data.histories import Histories, open_histories
from longrec.serving.http import access_log
from longrec.serving.http.errors import words_of
from longrec.serving.http.schemas import StoreWorkOut
from longrec.serving.http.service import Service
from longrec.serving.http.threads import in_thread
from longrec.serving.maintenance.retention import drop_old
from longrec.serving.stores.protocol import StoreFull, StoreUnavailable
from longrec.serving.stream.imports import is_imported, left_out
from longrec.serving.stream.rebuild import job_of
from longrec.serving.stream.store_models import give_up, new_items, other_models
from longrec.serving.stream.stream import Stream

PATIENCE = 5.0
"""Seconds that a server that stops waits for the page that is being done."""
LINE_EVERY = 5.0
"""Seconds between two lines of the log that tell how far it is."""
AGAIN_AFTER = 5.0
"""Seconds until a store that was away or full is tried again."""

LEFT_OUT = (
    "events of users whom the store knew were left out, but for those earlier than all that is "
    "logged of the user: what is newer comes in by POST /v1/events, or by stream.observe_many"
)
Need = Literal["seeding", "new model", "new items", "old records"]


def need_of(stream: Stream, histories: Histories | None) -> Need | None:
    """What a stream's store needs: histories that are not in it yet, or else, where it served
    another model, records of this one, or a grown catalog applied, or what is left of others gone.

    A store on Redis may have other replicas that serve the others still.
    """
    meta, artifact = stream.store.meta(), stream.artifact
    if histories is not None:
        digest = stream.engine.digest
        begun = meta.get("rebuild", {}).get(digest, {}).get("job")
        ended = begun != job_of(digest, artifact.catalog_version, histories)
        if not (is_imported(meta, histories) and ended):
            return "seeding"
    if meta.get("current") != stream.engine.digest:
        return "new model"
    if new_items(meta, artifact):
        return "new items"
    alone = not stream.store.url.startswith("redis")
    return "old records" if alone and other_models(meta, stream.engine.digest) else None


class Stopped(Exception):
    """The work is to stop here; it goes on there when it begins again."""


class StoreWork:
    """Does what a service's store needs, in a thread beside its requests.

    Attributes
    ----------
    status : None, or what is being done and how far it is, or how it failed.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._task: asyncio.Task[None] | None = None
        self._stopped = threading.Event()
        self._line_after = 0.0
        self.status: StoreWorkOut | None = None

    def begin(self) -> None:
        """Begin, or go on; called in the event loop's thread, when nothing is going on."""
        self._stopped.clear()
        self._task = asyncio.create_task(self._run())

    async def stop(self, patience: float | None = None) -> None:
        """Stop at the end of the page that is being done; `begin` goes on there."""
        self._stopped.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=patience)

    async def _run(self) -> None:
        gauge = self._service.telemetry.store_work
        with self._service.current.in_use() as stream:
            try:
                await in_thread(lambda: self._do(stream))
                self.status = None
            except Stopped:
                self.status = None
            except Exception as error:
                words = words_of(error)
                self.status = StoreWorkOut(state="failed", progress=0, error=words)
                access_log.log.error(
                    "store: failed, it goes on at the next start",
                    exc_info=error,
                    extra={"fields": {"why": words}},
                )
        gauge.set(-1)

    def _do(self, stream: Stream) -> None:
        """All that is needed, one after the other; again where the store was away."""
        folder = self._service.settings.data
        histories = None if folder is None else open_histories(folder)
        before = None
        while True:
            try:
                need = need_of(stream, histories)
                if need is None:
                    break
                if need != before:
                    access_log.write(f"{need}: begins")
                before = need
                done = self._do_one(stream, need, histories)
                access_log.write(f"{need}: done", **done)
                if done.get("left_out"):
                    access_log.write(LEFT_OUT, left_out=done["left_out"])
            except (StoreUnavailable, StoreFull) as error:
                access_log.log.warning("store: tried again soon", exc_info=error)
                if self._stopped.wait(AGAIN_AFTER):
                    raise Stopped from None
        if histories is not None and before is None:
            number = left_out(stream.store.meta(), histories)
            access_log.write("seeding: done before, nothing to do", left_out=number)

    def _do_one(self, stream: Stream, need: Need, histories: Histories | None) -> dict[str, Any]:
        """Do what is needed; -> figures for the log."""

        def progress(done: int, total: int) -> None:
            self._report(need, done, total)

        progress(0, 1)
        if need == "old records":
            give_up(stream.store, other_models(stream.store.meta(), stream.engine.digest))
            return {"records": sum(model["records"] for model in drop_old(stream.store))}
        if need == "new items":
            rebuilt = stream.apply_new_items(progress)
        else:
            rebuilt = stream.rebuild(histories if need == "seeding" else None, progress)
        facts: dict[str, Any] = rebuilt._asdict() | {"seconds": round(rebuilt.seconds, 1)}
        if need != "seeding":  # which alone imports
            return {name: facts[name] for name in ("users", "events", "seconds")}
        return facts

    def _report(self, need: Need, done: int, total: int) -> None:
        if self._stopped.is_set():
            raise Stopped
        part = done / max(total, 1)
        self.status = StoreWorkOut(state=need, progress=round(part, 4))
        self._service.telemetry.store_work.set(part)
        if time.monotonic() >= self._line_after:
            self._line_after = time.monotonic() + LINE_EVERY
            access_log.write(f"{need}: {part:.0%}")
