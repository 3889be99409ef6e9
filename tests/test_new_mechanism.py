"""docs/new-mechanism.md runs as printed, and the template is what it makes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from forking import run_code, run_command

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "new-mechanism.md").read_text(encoding="utf-8")
TEMPLATE = ROOT / "examples" / "my-longrec-model"
PACKAGE = "my_longrec_model"
BLOCK = re.compile(
    r"(?:\*\*(?P<file>[\w/.]+)\*\*(?:, continued)?\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.S
)
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


def files() -> dict[str, str]:
    """The files that the page prints, those in several pieces put together."""
    found: dict[str, str] = {}
    for block in BLOCK.finditer(PAGE):
        if name := block["file"]:
            found[name] = f"{found[name]}\n\n{block['text']}" if name in found else block["text"]
    return found


def test_the_template_holds_what_the_page_prints() -> None:
    def lines(text: str) -> list[str]:
        return [line for line in text.splitlines() if line]

    in_template = {
        str(path.relative_to(TEMPLATE)): path.read_text(encoding="utf-8")
        for path in (TEMPLATE / PACKAGE).glob("*.py")
    }
    printed = files()
    assert printed.keys() == in_template.keys()
    for name, text in printed.items():
        assert lines(text) == lines(in_template[name]), name


@pytest.mark.slow
def test_the_page_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in files().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    output = ""
    for block in BLOCK.finditer(PAGE):
        if block["file"]:
            continue
        if block["kind"] == "python":  # as `python -c`, in the current folder
            started = [run_code("import sys\nsys.path.insert(0, '')\n" + block["text"], **PIPES)]
        else:
            commands = [shlex.split(line) for line in block["text"].splitlines()]
            assert all(words[0] == "longrec" for words in commands)
            started = (run_command(*words[1:], **PIPES) for words in commands)
        for process in started:
            output += process.communicate(300)[0]
            assert process.returncode == 0, output
    assert "mixer linear-attention: cost is linear: passed" in output
    assert "model linear-attention: save and load: passed" in output
    assert "failed" not in output
    assert "personal" in output
    assert "cold" not in output  # the user that the page names is one of the simulated


@pytest.mark.slow  # its files are those of the page, which the test above checks
def test_the_template_is_a_package_of_longrecs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TEMPLATE)
    process = run_command("check-model", PACKAGE, "--json", **PIPES | {"stderr": None})
    document = json.loads(process.communicate(300)[0])
    assert process.returncode == 0
    assert (document["failed"], document["not_checked"]) == (0, 0)
    assert document["passed"] > 30
