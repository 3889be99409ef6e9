"""A progress bar of a notebook: one output of the cell, written anew in its place.

rich's own needs ipywidgets in the notebook and in the server, and warns where they are not. This
needs neither: text in a display that is updated, which every notebook and every converter shows.
"""

from __future__ import annotations

import io
import time
from html import escape
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID

PAUSE = 0.2
"""Seconds between two updates: each is a message to the notebook, and stays in its history."""
WIDTH = 110


class NotebookBar(Progress):
    """A `rich.progress.Progress` that is shown by the notebook that runs this process."""

    def start(self) -> None:
        """Show it from now on."""
        from IPython.display import display

        self._shown = time.monotonic()
        self._display = display(self._bundle(), raw=True, display_id=True)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change a task, and show that where the last change is a moment ago."""
        super().update(task_id, **changes)
        if time.monotonic() - self._shown >= PAUSE:
            self.refresh()

    def refresh(self) -> None:
        """Show it as it is now."""
        self._shown = time.monotonic()
        self._display.update(self._bundle(), raw=True)

    def stop(self) -> None:
        """Take it away, as in a terminal."""
        self._display.update({"text/plain": ""}, raw=True)

    def _bundle(self) -> dict[str, str]:
        """The bar as text, and as HTML in the notebook's own colours."""
        page = Console(file=io.StringIO(), width=WIDTH, color_system=None, force_jupyter=False)
        with page.capture() as captured:
            page.print(self.get_renderable(), soft_wrap=True)
        text = "\n".join(line.rstrip() for line in captured.get().splitlines())
        return {"text/plain": text, "text/html": f"<pre>{escape(text)}</pre>"}
