"""Where a number comes from: code, machine, command, data and seed."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from longrec.core.machine import machine, versions
from longrec.data.histories import Histories


def provenance(histories: Histories, seed: int) -> dict[str, Any]:
    """What a quoted number must be quoted with, as plain JSON values."""
    return {
        "data": {
            "path": str(histories.path.resolve()),
            "fingerprint": histories.fingerprint,
            "source": histories.meta.source,
            "users": histories.n_users,
            "items": histories.n_items,
            "events": histories.n_events,
            "last_time": histories.meta.last_time,
            "names": histories.names,
        },
        "command": command(),
        "seed": seed,
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def command() -> str:
    """The command line of this process, without the path of the interpreter."""
    path = Path(sys.argv[0] if sys.argv and sys.argv[0] else "python")
    name = f"python -m {path.parent.name}" if path.name == "__main__.py" else path.name
    return " ".join([name, *sys.argv[1:]])


def commit() -> str | None:
    """The commit of a source checkout ("+" when it was changed since); None for an install."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
