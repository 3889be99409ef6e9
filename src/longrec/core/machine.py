"""The machine and the software that a figure was measured with, as plain values and in words.

psutil is imported where it is asked, so that training does not need what it needs of the system.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from longrec.core.version import version


def machine() -> dict[str, Any]:
    """The processor, its cores, the threads used, and a GPU if there is one."""
    import torch

    processor = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8") as file:
        processor = next(
            line.split(":")[1].strip() for line in file if line.startswith("model name")
        )
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def machine_text(machine: Mapping[str, Any]) -> str:
    """A machine in words: "AMD EPYC, 8 cores", and its GPU if it has one."""
    gpu = "" if machine.get("gpu") is None else f", {machine['gpu']}"
    return f"{machine['processor']}, {machine['cores']} cores{gpu}"


def versions(*packages: str) -> dict[str, str]:
    """Versions of longrec, Python and torch, and of further packages."""
    import torch

    found = {"longrec": version(), "python": platform.python_version(), "torch": torch.__version__}
    for name in packages:
        try:
            found[name] = installed(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def versions_text(versions: Mapping[str, str]) -> str:
    """Versions in words: "longrec 0.1.0, python 3.13.1"."""
    return ", ".join(f"{name} {text}" for name, text in versions.items())


def load_average() -> float | None:
    """Processes that wanted to run in the last minute, on average; None if the system is silent."""
    import psutil

    try:
        return round(psutil.getloadavg()[0], 2)
    except OSError:
        return None


def file_system(folder: Path) -> str:
    """The type of the file system that a folder lies on: "ext4", …; "unknown" if not told."""
    import psutil

    path = folder.resolve()
    with suppress(OSError):
        mounts = {
            Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)
        }
        for parent in (path, *path.parents):
            if parent in mounts:
                return mounts[parent]
    return "unknown"
