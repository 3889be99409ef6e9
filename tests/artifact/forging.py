"""Runs that somebody changed and sealed again: every digest of a file is right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from longrec.artifact.folder import ADDED, FILES
from longrec.core.files import digest_of_config, digest_of_file


def seal(run: Path, change: Callable[[dict[str, Any]], object] | None = None) -> None:
    """Put the digests of the files as they are now, and a change, into config.json."""
    path = run / "config.json"
    config = json.loads(path.read_text())
    del config["digest"]
    config["digests"] = {name: digest_of_file(run / name) for name in config["digests"]}
    if change is not None:
        change(config)
    config["digest"] = digest_of_config(config)
    path.write_text(json.dumps(config))


def change_json(run: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a document that config.json describes."""
    document = json.loads((run / name).read_text())
    change(document)
    (run / name).write_text(json.dumps(document))
    seal(run)


def change_tensors(
    run: Path, change: Callable[[dict[str, Tensor]], object], added: bool = False
) -> None:
    """Change the tensors of the model, or of its added score."""
    path = run / (ADDED if added else FILES[0])
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    seal(run)


def write(run: Path, name: str, content: bytes) -> None:
    """Put a file in place of one."""
    (run / name).write_bytes(content)
    seal(run)
