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
from forking import address_of_session
from serving.redis_server import free_port, need_redis
from test_serving_docs import need_curl

PAGE = (Path(__file__).parents[1] / "docs" / "operating.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.S | re.M)
SHORT = ("max_epochs=1", "dim=8", "ffn_dim=8", "layers=1", "experts=2")
LONGREC = """
import os, sys
os.umask(int(sys.argv.pop(1)))
sys.argv[0] = "longrec"
from longrec.cli.main import main
main()
"""
SHIM = f"""#!{sys.executable}
# longrec with trainings that are short, forked: it starts within milliseconds. Signals go on to it.
import contextlib, os, signal, sys
from forking import run_code

words = sys.argv[1:]
if words[0] == "train":
    words += {["--set", *SHORT]}
os.umask(mask := os.umask(0))
child = run_code({LONGREC!r}, mask, *words)

def go_on(number, _):
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, number)

for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, go_on)
sys.exit(child.wait())
"""


@pytest.mark.slow
def test_the_run_book_runs(tmp_path: Path) -> None:
    need_curl()
    need_redis()
    address_of_session()
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
