"""A package of a user's own, with a mixer and a model, through every command that meets models."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forking import run_code, run_command
from serving.http.served import ServeProcess
from small_histories import tiny_histories, walks

MIXERS = '''
"""A mean over the past."""

from typing import NamedTuple

import torch
from torch import Tensor

from longrec.mixers import StreamingMixer, register_mixer
from longrec.mixers.base import EMPTY


class MeanState(NamedTuple):
    total: Tensor
    events: Tensor


@register_mixer("past-mean")
class PastMean(StreamingMixer):
    """The mean of the events so far, O(T D)."""

    linear = True
    cost = "O(T D)"

    def __init__(self, dim):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(dim))

    def initial_state(self, batch):
        return MeanState(self.gain.new_zeros(batch, len(self.gain)), self.gain.new_zeros(batch))

    def prefill(self, x, state, ctx=EMPTY):
        mask = ctx.mask(x)
        real = torch.ones_like(x[..., 0]) if mask is None else mask.to(x)
        total = state.total[:, None] + (x * real[..., None]).cumsum(1)
        events = state.events[:, None] + real.cumsum(1)
        y = self.gain * total / events.clamp_min(1)[..., None]
        if not x.shape[1]:
            return y, state
        return y, MeanState(total[:, -1], events[:, -1])

    def step(self, x, state, ctx=EMPTY):
        new = MeanState(state.total + x, state.events + 1)
        return self.gain * new.total / new.events[:, None], new
'''
MODELS = '''
"""A model of its own."""

from dataclasses import dataclass

from longrec.models import FeedForwardConfig, SequenceModel, register_model
from own_package.mixers import PastMean


@dataclass(frozen=True)
class MineConfig(FeedForwardConfig):
    """Settings of the model."""


@register_model("mine")
class Mine(SequenceModel):
    """A model of a user's own package."""

    streaming = "exact"
    config_class = MineConfig

    def __init__(self, config, n_items):
        super().__init__(config, n_items, [PastMean(config.dim) for _ in range(config.layers)])
'''
PLUGIN = ["--plugin", "own_package.models"]
TINY = ["--set=dim=8", "--set=layers=1", "--set=ffn_dim=8", "--set=max_epochs=1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with histories and the package."""
    folder = tmp_path_factory.mktemp("plugins")
    tiny_histories(folder / "histories", walks(40, 20, 3, 30), n_items=20)
    (folder / "own_package").mkdir()
    (folder / "own_package" / "__init__.py").write_text("")
    (folder / "own_package" / "mixers.py").write_text(MIXERS)
    (folder / "own_package" / "models.py").write_text(MODELS)
    return folder


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


@pytest.fixture(scope="module")
def run(place):
    """A trained run of the package's model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        _, err = longrec("train", "histories", "--model", "mine", "--out", "run", *PLUGIN, *TINY)
    assert "next: longrec evaluate run --plugin own_package.models" in err
    return place / "run"


def longrec(*words: object, status: int = 0) -> tuple[str, str]:
    """Run `longrec WORDS` in a process that has imported nothing of the package."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = run_command("--threads", 1, *words, forked_children=True, **pipes)
    out, err = process.communicate(120)
    assert process.returncode == status, err
    return out, err


def test_a_run_is_evaluated_and_asked(run) -> None:
    metrics = json.loads(longrec("evaluate", run, *PLUGIN, "--json")[0])
    assert metrics["ndcg@10"] > 0
    asked = longrec("recommend", run, *PLUGIN, "--user", "user00003", "-k", 3, "--format", "json")
    assert len(json.loads(asked[0])) == 3
    assert '"approximate"' not in longrec("index", run, *PLUGIN, "--json")[0]
    assert "mine" in longrec("models", *PLUGIN)[0]
    assert "ffn_dim" in longrec("models", "mine", *PLUGIN)[0]


def test_a_run_remembers_its_module_and_imports_nothing_by_itself(run) -> None:
    assert json.loads((run / "provenance.json").read_text())["plugin"] == "own_package.models"
    _, err = longrec("evaluate", run, status=2)
    assert f"{run}/config.json: there is no model 'mine'" in err
    assert "The module 'own_package.models' registers it: pass --plugin own_package.models" in err


def test_a_resumed_run_says_what_it_needs(place) -> None:
    begun = ["train", "histories", "--out", "begun"]
    more = ["--model", "mine", *PLUGIN, *TINY[:3], "--set=learning_rate=1e300"]
    longrec(*begun, *more, status=1)
    plan = json.loads((place / "run" / "provenance.json").read_text())
    (place / "begun").mkdir()
    (place / "begun" / "training.json").write_text(
        json.dumps({"model": "mine", "settings": {}, "provenance": plan})
    )
    assert "pass --plugin own_package.models" in longrec(*begun, "--resume", status=2)[1]


@pytest.mark.slow
def test_a_comparison_hands_it_to_its_processes(place) -> None:
    words = [
        "histories",
        "--models",
        "mine,popularity",
        "--budget",
        1,
        "--no-baselines",
        "--out",
        "compared",
    ]
    found = json.loads(longrec("compare", *words, *PLUGIN, *TINY, "--json")[0])
    assert {row["name"] for row in found["rows"]} == {"mine", "popularity"}
    assert not found["failures"]
    row = next(row for row in found["rows"] if row["name"] == "mine")
    assert "--plugin own_package.models" in row["runs"][0]["command"]
    assert row["cost"]["kept_bytes"] > 0


@pytest.mark.slow
def test_python_compares_a_model_of_an_imported_module_without_a_word(place) -> None:
    code = """
import forking, sys
sys.path.insert(0, "")
forking.fork_children()
import longrec, own_package.models
from longrec.core.errors import UsageError
tiny = dict(dim=8, layers=1, ffn_dim=8, max_epochs=1)
found = longrec.compare("histories", "mine", 1, "compared-python", settings=tiny, baselines=False)
assert [row.name for row in found.rows] == ["mine"] and not found.failures, found.failures

class Own(own_package.models.Mine):
    \"\"\"Defined here.\"\"\"

longrec.models.register_model("own")(Own)
try:
    longrec.compare("histories", "own", 1, "refused")
except UsageError as error:
    print(error)
"""
    process = run_code(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate(120)
    assert process.returncode == 0, err
    assert "model 'own' is defined in the program that runs" in out
    assert "define it in a module" in out
    assert not (place / "refused").exists()


def test_it_is_served(run, place) -> None:
    with ServeProcess(run, str(place / "users"), *PLUGIN) as server:
        event = {"user": "7", "item": 1003, "time": 1}
        assert server.client.post("/v1/events", json={"events": [event]}).status_code == 200
        answer = server.client.post("/v1/recommendations", json={"user": "7", "k": 3}).json()
        assert len(answer["items"]) == 3
        assert server.stop() == 0


@pytest.mark.slow
def test_a_newer_run_of_its_model_is_served_after_a_reload(run, place) -> None:
    newer = ["train", "histories", "--model", "mine", "--out", "newer", "--set=seed=9"]
    longrec(*newer, *PLUGIN, *TINY)
    link = place / "current"
    link.symlink_to(run)
    event, asked = {"user": "7", "item": 1003, "time": 1}, {"user": "7", "k": 3}

    def served(server: ServeProcess) -> tuple[str, str, list[object]]:
        model = server.client.get("/v1/model").json()
        answer = server.client.post("/v1/recommendations", json=asked).json()
        return model["name"], model["digest"], answer["items"]

    with ServeProcess(place / "newer", str(place / "of-newer"), *PLUGIN) as server:
        assert server.client.post("/v1/events", json={"events": [event]}).status_code == 200
        wanted = served(server)
    with ServeProcess(link, str(place / "reloaded"), *PLUGIN) as server:
        assert server.client.post("/v1/events", json={"events": [event]}).status_code == 200
        name, digest, _ = served(server)
        assert (name, digest == wanted[1]) == ("mine", False)
        link.unlink()
        link.symlink_to(place / "newer")
        server.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 60
        while not any("swap: done" in line for line in server.output):
            assert time.monotonic() < end, server.output
            time.sleep(0.05)
        assert served(server) == wanted
        assert server.client.get("/v1/model").json()["swap"] is None
        assert server.stop() == 0


@pytest.mark.slow
def test_a_bench_hands_it_to_its_processes(place) -> None:
    code = """
from longrec.core.registry import load_plugin
from longrec_bench.cost.worker import measure_in_process
load_plugin("own_package.models")
task = {"kind": "mixer", "name": "past-mean", "length": 8, "pass": "forward", "batch": 1}
task |= {"cores": [], "threads": 1, "seed": 0, "share": 0.0, "limit": 60.0}
print(measure_in_process(task | {"most": 1, "count": False}))
"""
    process = run_code(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate(120)
    assert process.returncode == 0, err
    assert "'seconds': [" in out


def test_an_installed_package_needs_no_word_and_a_broken_one_spoils_nothing(run, place) -> None:
    for package, module in (("own", "own_package.models"), ("broken", "not_there")):
        info = place / "site" / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[longrec.models]\nit = {module}\n")
    code = (
        "import sys; sys.path[:0] = ['', 'site']; sys.argv[0] = 'longrec';"
        "from longrec.cli.main import main; main()"
    )

    def installed(*words: object) -> tuple[int, str, str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = run_code(code, *words, **pipes)
        out, err = process.communicate(120)
        return process.returncode, out, err

    status, out, err = installed("evaluate", run, "--json")
    assert status == 0, err
    assert json.loads(out)["ndcg@10"] > 0
    status, out, err = installed("models")
    assert status == 0
    assert "mine" in out
    why = "warning: The package 'broken' could not be loaded: not_there: ModuleNotFoundError"
    assert why in err
    status, _, err = installed("train", "histories", "--model", "yours", "--out", "no")
    assert status == 2
    assert "The package 'broken' could not be loaded" in err


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import nothing_here", "ModuleNotFoundError: No module named 'nothing_here'"),
        (MODELS.replace('"mine"', '"elastic"'), "'elastic' is registered already, by longrec"),
        (
            MODELS.replace('settings of the model."""', "").replace(
                '"""Settings of the model."""', "window: int = 200"
            ),
            "settings that training has, too: window",
        ),
    ],
)
def test_a_plugin_that_is_wrong_is_refused_by_name(place, code, words) -> None:
    (place / "wrong_plugin.py").write_text(code)
    _, err = longrec("train", "histories", "--out", "no", "--plugin", "wrong_plugin", status=1)
    assert "plugin 'wrong_plugin' could not be loaded" in err
    assert words in err
    _, err = longrec("models", "--plugin", "not_a_plugin", status=2)
    assert "there is no module 'not_a_plugin'" in err
    assert sys.flags.safe_path or Path.cwd() == place
