"""All blocks of docs/operating.md run in one shell, in their order and as they stand."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from serving.redis_server import free_port, need_redis
from test_serving_docs import need_curl

PAGE = (Path(__file__).parents[1] / "docs" / "operating.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.S | re.M)
SHORT = ("max_epochs=1", "dim=8", "ffn_dim=8", "layers=1", "experts=2")
SHIM = f"""#!/bin/bash
# longrec, with trainings that are short.
more=()
[ "$1" != train ] || more=(--set {" ".join(SHORT)})
exec {sys.executable} -m longrec "$@" "${{more[@]}}"
"""


@pytest.mark.slow
def test_the_run_book_runs(tmp_path: Path) -> None:
    need_curl()
    need_redis()
    random = np.random.default_rng(0)
    pl.DataFrame(
        {
            "user_id": [f"u{n}" for n in random.integers(0, 30, 400)],
            "item_id": [f"sku-{n}" for n in random.integers(0, 40, 400)],
            "timestamp": 1_700_000_000 + np.arange(400),
        }
    ).write_parquet(tmp_path / "log.parquet")
    script = "set -euo pipefail\n" + "\n".join(BLOCKS)
    for port in ("8000", "8001", "8002", "6379"):
        assert port in script
        script = script.replace(port, str(free_port()))
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "longrec").write_text(SHIM)
    (programs / "longrec").chmod(0o755)
    (programs / "python").symlink_to(shutil.which("python3") or sys.executable)
    with (tmp_path / "output").open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{programs}:{os.environ['PATH']}",
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = shell.wait(1500)
        finally:
            with suppress(ProcessLookupError):  # what is left of it where it failed
                os.killpg(shell.pid, signal.SIGTERM)
    told = (tmp_path / "output").read_text()
    log = (tmp_path / "serve.log").read_text() if (tmp_path / "serve.log").exists() else ""
    assert status == 0, f"{told[-3000:]}\n{log[-3000:]}"
    assert "Traceback" not in told + log
    assert '"level": "error"' not in log
    assert not (tmp_path / "users.broken").exists()
