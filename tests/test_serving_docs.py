"""The quick start of docs/serving.md runs as printed: its commands and its curl lines."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from cli.running import write_shop_log
from needs import missing
from serving.http.served import ServeProcess
from typer.testing import CliRunner

from longrec.cli.app import app

DOCS = Path(__file__).parents[1] / "docs"
BLOCKS = re.findall(r"```\n(.*?)```", (DOCS / "serving.md").read_text(encoding="utf-8"), re.S)
ADDRESS = "http://127.0.0.1:8000"


def need_curl() -> None:
    if shutil.which("curl") is None:
        missing("curl is not installed (Debian: apt-get install curl)", "LONGREC_REQUIRE_CURL")


def test_the_quick_start_works_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    need_curl()
    monkeypatch.chdir(tmp_path)
    write_shop_log(Path("log.parquet"))
    commands, calls = BLOCKS[:2]
    [serve] = [line for line in commands.splitlines() if line.startswith("longrec serve")]
    for line in commands.splitlines():
        arguments = shlex.split(line, comments=True)
        if arguments[0] != "longrec" or arguments[1] == "serve":
            continue
        if arguments[1] == "train":
            small = ("max_epochs=1", "dim=8", "ffn_dim=8", "layers=1", "experts=2")
            arguments += [word for setting in small for word in ("--set", setting)]
        result = CliRunner().invoke(app, arguments[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception}"
    run, _, store, *data = shlex.split(serve, comments=True)[2:]
    lines = calls.strip().splitlines()
    assert len(lines) >= 9
    answers = []
    with ServeProcess(Path(run), store, *data) as child:
        for line in lines:
            assert ADDRESS in line
            command = line.replace(ADDRESS, child.url).replace("curl ", "curl --fail-with-body ", 1)
            done = subprocess.run(
                ["bash", "-c", command], capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            answers.append(done.stdout)
        assert child.stop() == 0
    assert answers[0].startswith('{"accepted":1,"duplicates":0,"unknown":0,"model":"')
    assert len(json.loads(answers[1])["items"]) == 3
    assert "sku-9" not in [one["item"] for one in json.loads(answers[2])["items"]]
    both = json.loads(answers[3])["recommendations"]
    assert [one["user"] for one in both] == ["ann", "bob"]
    assert {item["item"] for item in both[1]["items"]} < {"sku-1", "sku-2", "sku-3", "sku-4"}
    assert len(json.loads(answers[4])["recommended"]["items"]) == 3
    assert len(json.loads(answers[5])["events"]) == 2
    assert json.loads(answers[6])["events"] == 2
    assert json.loads(answers[-1]) == {"forgotten": True}
