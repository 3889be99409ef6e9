"""The README's tour runs as printed, without a network, and prints what the README says."""

from __future__ import annotations

import re
import shlex
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from serving.http.served import ServeProcess
from typer.testing import CliRunner

from longrec.cli.app import app

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
TOUR, _, AFTER = README.partition("## A tour")[2].partition("\n## ")
LOG = re.search(r"python - <<'END'\n(.*?)\nEND\n", TOUR, re.S)
RUNNER = CliRunner()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the log that the tour begins with."""
    monkeypatch.chdir(tmp_path)
    assert LOG is not None
    exec(compile(LOG[1], "README.md", "exec"), {})
    return tmp_path


def blocks(kind: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", TOUR, re.S | re.M)
    return [text for name, text in found if name == kind]


def run(line: str) -> str:
    """What a command of the README prints, by short trainings."""
    arguments = shlex.split(line)[1:]
    if arguments[0] == "train":
        arguments += ["--epochs", "1"]
        arguments += [] if "--warm-start" in arguments else ["--set", "dim=8", "ffn_dim=8"]
    result = RUNNER.invoke(app, arguments)
    assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception}"
    return result.output


def test_the_log_is_read_as_the_readme_shows(here: Path) -> None:
    lines = next(one for one in blocks("bash") if "longrec prepare loans.txt" in one).splitlines()
    found = "".join(run(line) for line in lines)
    shown = next(one for one in blocks("") if one.startswith("loans.txt: ")).splitlines()
    assert len(shown) > 10
    for line in shown:
        assert line == "…" or line in found, line
    assert (here / "histories" / "bad_rows.csv").is_file()
    missing = str(RUNNER.invoke(app, ["prepare", "loans.txt", "--out", "other"]).exception)
    assert all(option in missing for option in ("--user", "--item", "--time"))


@pytest.mark.slow
def test_the_whole_tour_runs(here: Path) -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    answers = []
    with ExitStack() as stack:
        for line in lines:
            if line.startswith("longrec serve"):
                _, _, served, _, store, *data = shlex.split(line)
                child = stack.enter_context(ServeProcess(Path(served), store, *data))
            elif line.startswith("longrec "):
                run(line)
            elif line.startswith("printf "):
                subprocess.run(["bash", "-c", line], check=True)
            elif line.startswith("curl "):
                _, url, _, header, _, body = shlex.split(line)[1:]
                head, value = header.split(": ")
                path = url.removeprefix("http://127.0.0.1:8000")
                answers.append(child.client.post(path, content=body, headers={head: value}).json())
    assert answers[0].pop("model") == answers[1]["model"]
    assert answers[0] == {"accepted": 1, "duplicates": 0, "unknown": 0}
    assert len(answers[1]["items"]) == 3
    assert "<html" in (here / "report.html").read_text(encoding="utf-8")
    assert (here / "run2" / "config.json").is_file()


def test_python_of_the_readme_runs(here: Path) -> None:
    code = re.search(r"```python\n(.*?)```", AFTER, re.S)
    assert code is not None
    short = code[1].replace("max_minutes=2", "max_epochs=1, dim=8, ffn_dim=8")
    assert short != code[1]
    names: dict[str, object] = {}
    exec(compile(short, "README.md", "exec"), names)
    frame = names["frame"]
    assert list(frame.columns) == ["user", "rank", "item", "score", "policy"]  # type: ignore[attr-defined]


def test_links_of_the_readme_lead_somewhere() -> None:
    root = Path(__file__).parents[1]
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (root / target).exists(), target
