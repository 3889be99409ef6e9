"""What the shell completes is what there is, and is found without PyTorch; what `--quiet` keeps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli.running import longrec, make_run

from longrec.cli import main as cli
from longrec.cli.completion import complete_models, complete_setting
from longrec.cli.known_names import model_names, settings_of
from longrec.config.peers_words import _BY_WORD
from longrec.config.training import TrainConfig
from longrec.models import MODELS
from longrec.models.common.registry import config_keys

OURS = {name: cls for name, cls in MODELS.items() if MODELS.is_own(name)}


class Call:
    """What of a command line has been read already."""

    params: dict[str, object] = {"model": "ease"}  # noqa: RUF012


def test_names_read_from_the_sources_are_those_of_the_registry():
    assert set(model_names()) == set(OURS)
    assert all(model_names().values())
    for name, cls in OURS.items():
        assert settings_of(name).keys() == {
            *config_keys(cls.config_class),
            *config_keys(TrainConfig),
        }


def test_words_of_others_stand_for_keys_that_there_are():
    of_models = {key for cls in OURS.values() for key in config_keys(cls.config_class)}
    known = of_models | set(config_keys(TrainConfig))
    assert {key for meaning in _BY_WORD.values() for key in meaning.ours} <= known
    assert not known & set(_BY_WORD)


def test_what_completes_a_word():
    assert [word for word, _ in complete_models("sasrec,elas")] == [
        "sasrec,elastic",
        "sasrec,elastic-paper",
    ]
    assert [word for word, _ in complete_setting(Call, "l")] == [
        "last=",
        "l2=",
        "learning_rate=",
        "loss=",
    ]
    assert [word for word, _ in complete_setting(Call, "loss=g")] == ["loss=gbce"]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("longrec train h --model sasrec-r", "sasrec-rotary"),
        ("longrec evaluate r --protocol g", "global-time"),
    ],
)
def test_a_shell_completes_without_waiting_for_pytorch(line, word):
    code = (
        "import sys\nsys.argv = ['longrec']\nfrom longrec.cli.main import main\n"
        "try:\n    main()\nfinally:\n    assert not {'torch', 'polars'} & set(sys.modules)\n"
    )
    env = {
        **os.environ,
        "PYTHONPATH": str(Path(cli.__file__).parents[2]),
        "_LONGREC_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert (done.stdout.split(), "Error" in done.stderr) == ([word], False)


def test_quiet_keeps_results_and_warnings(tmp_path, capsys):
    made = make_run(tmp_path)
    capsys.readouterr()
    assert (
        longrec("train", made.histories, "--model=popularity", "--out", tmp_path / "r", "--quiet")
        == 0
    )
    shown = capsys.readouterr()
    assert "popularity" in shown.out
    assert all(line.startswith("warning: ") for line in shown.err.splitlines())
    assert longrec("recommend", made.run, "--user", 100, "--quiet") == 0
    assert capsys.readouterr().err == ""
    assert longrec("recommend", made.run, "--user", 100) == 0
    assert "seen items" in capsys.readouterr().err, "quiet is of one call"
