"""The model changed under load: loaded beside the old one, records rebuilt, then switched."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from longrec.artifact.artifact import Artifact
from longrec.core.errors import LongrecError
from longrec.serving.http import access_log as logs
from longrec.serving.http.schemas import Swap
from longrec.serving.http.service import Service, open_stream
from longrec.serving.maintenance.retention import drop_old
from longrec.serving.stream.stream import Stream

T = TypeVar("T")
PATIENCE = 5.0
"""Seconds that a server that stops waits for a change to give up; nothing can tell it to an index
that is being built."""


class Swapper:
    """Changes a service's model for the one that stands in its run's folder now.

    Attributes
    ----------
    now : None, or what is being done, or how the last change failed.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self.now: Swap | None = None

    def begin(self) -> None:
        """Begin, unless one is going on; called in the event loop's thread."""
        if self._task is not None and not self._task.done():
            logs.tell("swap: one is going on", logging.WARNING)
            return
        self._task = asyncio.create_task(self._swap())

    async def close(self) -> None:
        """Give up what is going on; its records stay, and the next one goes on with them."""
        self._stopped = True
        if self._task is not None:
            await asyncio.wait([self._task], timeout=PATIENCE)

    async def _swap(self) -> None:
        telemetry = self._service.telemetry
        logs.tell("swap: begins")
        try:
            stream = await _beside(self._prepare)
            if stream is None:
                logs.tell("swap: the same model, nothing to do")
            else:
                old = await self._service.replace(stream)
                await _beside(lambda: self._drop(old))
                digest = stream.artifact.state_digest
                logs.tell("swap: done", digest=digest, index=stream.index.name)
                telemetry.swaps.labels("done").inc()
            self.now = None
        except Exception as error:
            words = str(error) if isinstance(error, LongrecError) else type(error).__name__
            self.now = Swap(state="failed", progress=0, error=words)
            telemetry.swaps.labels("failed").inc()
            logs.log.error("swap: failed, the old model stays", exc_info=error)
        telemetry.swapping.set(-1)

    def _prepare(self) -> Stream | None:
        """A stream of the new model with all its records; None where it is the one served."""
        self._tell("loading", 0)
        settings, old = self._service.settings, self._service.current.stream
        artifact = Artifact.load(settings.run)
        if _same(artifact, old.artifact):
            return None
        stream = open_stream(
            settings,
            True,
            lambda done, total, *_: self._tell("indexing", done / total),
            artifact,
        )
        try:
            digest = artifact.state_digest
            another = digest != old.artifact.state_digest
            if not (another and stream.store.meta().get("current") == digest):
                # Else another replica on the same store has made the records already.
                stream.rebuild(progress=lambda done, total: self._tell("rebuilding", done / total))
        except BaseException:
            stream.close()
            raise
        return stream

    def _drop(self, old: Stream) -> None:
        """Close the old stream; delete its records where nobody else can be serving it."""
        store = self._service.current.stream.store
        old.close()
        if not store.url.startswith("redis"):  # else another replica may serve it still
            drop_old(store)

    def _tell(self, state: str, progress: float) -> None:
        if self._stopped:
            raise LongrecError("the server is stopping")
        self.now = Swap.model_validate({"state": state, "progress": round(progress, 4)})
        self._service.telemetry.swapping.set(progress)


def _same(one: Artifact, other: Artifact) -> bool:
    """Whether nothing would change."""
    return one.state_digest == other.state_digest and one.catalog_version == other.catalog_version


async def _beside(work: Callable[[], T]) -> T:
    """Do something in a thread that does not keep the process alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def end(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as caught:
            error = caught
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(end, result, error)

    threading.Thread(target=run, name="swap", daemon=True).start()
    return await future
