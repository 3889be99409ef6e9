"""Where a number comes from: code, machine, command, data and seed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

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
    name = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    return " ".join([name, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Versions of longrec, Python and torch."""
    try:
        own = version("longrec")
    except PackageNotFoundError:
        own = "source"
    return {"longrec": own, "python": platform.python_version(), "torch": torch.__version__}


def machine() -> dict[str, Any]:
    """The processor, its cores, the threads used, and a GPU if there is one."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(
                line.split(":")[1].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        pass
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


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
