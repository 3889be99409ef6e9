"""The README's commands and code run as printed, on a small log."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from forking import start_child
from typer.testing import CliRunner

from longrec.cli.main import app

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
RUNNER = CliRunner()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the logs that the README speaks of."""
    random = np.random.default_rng(0)
    events = 600
    log = pl.DataFrame(
        {
            "user_id": random.integers(30, 60, events),
            "item_id": [f"sku-{n}" for n in random.integers(0, 100, events)],
            "timestamp": 1_700_000_000 + np.arange(events),
        }
    )
    (tmp_path / "clicks").mkdir()
    log[:300].write_parquet(tmp_path / "clicks" / "a.parquet")
    log[300:].write_parquet(tmp_path / "clicks" / "b.parquet")
    log.write_parquet(tmp_path / "log.parquet")
    today = log.with_columns(pl.col("timestamp") + 86_400, pl.col("item_id") + "-new")
    pl.concat([log[-50:], today[:50]]).write_parquet(tmp_path / "today.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("longrec.comparison.process.start_child", start_child)
    return tmp_path


@pytest.mark.slow
def test_commands_of_the_readme_run(here: Path) -> None:
    block = next(b for b in re.findall(r"```\n(.*?)```", README, re.S) if "longrec prepare" in b)
    lines = [line for line in block.splitlines() if line.startswith("longrec ")]
    assert len(lines) >= 8
    for line in lines:
        arguments = shlex.split(line)[1:]
        if arguments[0] in ("train", "compare"):
            arguments += ["--set", "max_epochs=1", "--set", "dim=8", "--set", "ffn_dim=8"]
        result = RUNNER.invoke(app, arguments)
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception}"


def test_python_of_the_readme_runs(here: Path) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.S)
    assert code is not None
    short = code[1].replace('out="run/",', 'out="run/", max_epochs=1, ffn_dim=8,')
    assert short != code[1]
    names: dict[str, object] = {}
    exec(compile(short, "README.md", "exec"), names)
    frame = names["frame"]
    assert list(frame.columns) == ["user", "rank", "item", "score", "policy"]  # type: ignore[attr-defined]


def test_links_of_the_readme_lead_somewhere() -> None:
    root = Path(__file__).parents[1]
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (root / target).exists(), target
