"""The model changed under load: loaded beside the old one, records rebuilt, then switched."""

from __future__ import annotations

import asyncio
import logging

from longrec.artifact.artifact import Artifact
from longrec.core.errors import LongrecError
from longrec.serving.http import access_log
from longrec.serving.http.schemas import Reload
from longrec.serving.http.service import Service, open_stream
from longrec.serving.http.store_work import StoreWork
from longrec.serving.http.threads import in_thread
from longrec.serving.maintenance.retention import drop_old
from longrec.serving.stream.store_models import give_up
from longrec.serving.stream.stream import Stream

PATIENCE = 5.0
"""Seconds that a server that stops waits for a change to give up; an index that is being
built cannot be interrupted."""


class ModelReloader:
    """Changes a service's model for the one that stands in its run's folder now.

    What the store needs for it alone, `store_work` does before and after; it rests meanwhile.

    Attributes
    ----------
    status : None, or what is being done, or how the last change failed.
    """

    def __init__(self, service: Service, store_work: StoreWork) -> None:
        self._service, self._store_work = service, store_work
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self.status: Reload | None = None

    def begin(self) -> None:
        """Begin, unless one is going on; called in the event loop's thread."""
        if self._task is not None and not self._task.done():
            access_log.write("swap: one is going on", logging.WARNING)
            return
        self._task = asyncio.create_task(self._reload())

    async def close(self) -> None:
        """Give up what is going on; its records stay, and the next one goes on with them."""
        self._stopped = True
        if self._task is not None:
            await asyncio.wait([self._task], timeout=PATIENCE)

    async def _reload(self) -> None:
        telemetry = self._service.telemetry
        access_log.write("swap: begins")
        await self._store_work.stop()
        try:
            stream = await in_thread(self._prepare)
            if stream is None:
                access_log.write("swap: the same model, nothing to do")
            else:
                old = await self._service.replace(stream)
                await in_thread(lambda: self._retire(old))
                digest = stream.artifact.state_digest
                access_log.write("swap: done", digest=digest, index=stream.index.name)
                telemetry.reloads.labels("done").inc()
            self.status = None
        except Exception as error:
            words = str(error) if isinstance(error, LongrecError) else type(error).__name__
            self.status = Reload(state="failed", progress=0, error=words)
            telemetry.reloads.labels("failed").inc()
            access_log.log.error("swap: failed, the old model stays", exc_info=error)
        telemetry.reload_progress.set(-1)
        if not self._stopped:
            self._store_work.begin()

    def _prepare(self) -> Stream | None:
        """A stream of the new model with all its records; None where it is the one served."""
        self._report("loading", 0)
        settings, old = self._service.settings, self._service.current.stream
        artifact = Artifact.load(settings.run)
        if _what_serves(artifact) == _what_serves(old.artifact):
            return None
        stream = open_stream(
            settings,
            True,
            lambda done, total, *_: self._report("indexing", done / total),
            artifact,
        )
        try:
            if stream.store.meta().get("current") != artifact.state_digest:
                # Else only items are new, which are applied once nobody skips them any more, or
                # another replica on the same store has made the records already.
                stream.rebuild(
                    progress=lambda done, total: self._report("rebuilding", done / total)
                )
        except BaseException:
            stream.close()
            raise
        return stream

    def _retire(self, old: Stream) -> None:
        """Close the old stream; delete its records where nobody else can be serving it."""
        stream = self._service.current.stream
        old.close()
        if not stream.store.url.startswith("redis"):  # else another replica may serve it still
            if old.engine.digest != stream.engine.digest:
                give_up(stream.store, old.engine.digest)
            drop_old(stream.store)

    def _report(self, state: str, progress: float) -> None:
        if self._stopped:
            raise LongrecError("the server is stopping")
        self.status = Reload.model_validate({"state": state, "progress": round(progress, 4)})
        self._service.telemetry.reload_progress.set(progress)


def _what_serves(artifact: Artifact) -> tuple[object, ...]:
    """All of a recommender that an answer depends on."""
    added = artifact.added
    return (
        *(artifact.state_digest, artifact.catalog_version, artifact.saved_tensors),
        artifact.exclude_seen,
        None if added is None else (added.name, added.config),
    )
