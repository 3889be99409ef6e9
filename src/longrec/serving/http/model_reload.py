"""The model changed under load: loaded beside the old one, records rebuilt, then switched."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path

from longrec.artifact.folder import RECOMMENDER
from longrec.serving.http import access_log
from longrec.serving.http.errors import words_of
from longrec.serving.http.schemas import Reload
from longrec.serving.http.service import Service, load_run, open_stream
from longrec.serving.http.store_work import StoreWork
from longrec.serving.http.threads import in_thread
from longrec.serving.stream.stream import Stream

PATIENCE = 5.0
"""Seconds that a server that stops waits for a change to give up; a run that is being loaded, or an
index that is being built, cannot be interrupted: the process then ends without it."""


class GivenUp(Exception):
    """The change ends here: the server stops, or another run is wanted."""


class ModelReloader:
    """Changes a service's model for the one that stands in its run's folder now.

    The last request wins: one that comes during a change ends it, unless it is for the same run.
    What the store needs for the served model alone, `store_work` does before and after.

    Attributes
    ----------
    status : None, or what is being done, or how the last change failed.
    """

    def __init__(self, service: Service, store_work: StoreWork) -> None:
        self._service, self._store_work = service, store_work
        self._task: asyncio.Task[None] | None = None
        self._asked, self._stopped = threading.Event(), threading.Event()
        self._document: bytes | None = None
        self.status: Reload | None = None

    def begin(self) -> None:
        """Begin, at once or when what is going on has given way; called in the loop's thread."""
        self._asked.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Give up what is going on; its records stay, and the next start goes on with them."""
        self._stopped.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=PATIENCE)

    async def _run(self) -> None:
        await self._store_work.stop()
        while self._asked.is_set() and not self._stopped.is_set():
            self._asked.clear()
            await self._change()
        self._service.telemetry.reload_progress.set(-1)
        if not self._stopped.is_set():
            self._store_work.begin()

    async def _change(self) -> None:
        telemetry = self._service.telemetry
        access_log.write("swap: begins")
        try:
            stream = await in_thread(self._prepare)
        except GivenUp:
            access_log.write("swap: given up", logging.WARNING, stopping=self._stopped.is_set())
            telemetry.reloads.labels("given up").inc()
            return
        except Exception as error:
            words = words_of(error)
            self.status = Reload(state="failed", progress=0, error=words)
            telemetry.reloads.labels("failed").inc()
            access_log.log.error(
                "swap: failed, the old model stays",
                exc_info=error,
                extra={"fields": {"why": words}},
            )
            return
        if stream is None:
            access_log.write("swap: the same model, nothing to do")
        else:
            old = await self._service.replace(stream)
            digest = stream.artifact.state_digest
            access_log.write("swap: done", digest=digest, index=stream.index.name)
            telemetry.reloads.labels("done").inc()
            try:
                await in_thread(old.close)
            except Exception as error:
                access_log.log.warning("swap: the old model was not closed", exc_info=error)
        self.status = None

    def _prepare(self) -> Stream | None:
        """A stream of the new model with all its records; None where it is the one served."""
        settings, old = self._service.settings, self._service.current.stream
        self._document = _document(settings.run)
        self._report("loading", 0)
        artifact = load_run(settings.run)
        self._report("loading", 1)
        if artifact.answers_as == old.artifact.answers_as:
            return None
        stream = open_stream(
            settings,
            lambda done, total, *_: self._report("indexing", done / total),
            artifact,
        )
        try:
            self._report("rebuilding", 0)
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

    def _report(self, state: str, progress: float) -> None:
        """Tell how far the change is, and end it where it is not wanted any more."""
        if self._stopped.is_set():
            raise GivenUp
        if self._asked.is_set():
            self._asked.clear()
            if _document(self._service.settings.run) != self._document:
                self._asked.set()
                raise GivenUp
        self.status = Reload.model_validate({"state": state, "progress": round(progress, 4)})
        self._service.telemetry.reload_progress.set(progress)


def _document(run: Path) -> bytes | None:
    """What stands in a run's folder, which the document tells by its digests; None: nothing."""
    try:
        return (run / RECOMMENDER.document).read_bytes()
    except OSError:
        return None
