"""`longrec bench zoo` on tiny histories: its cells, tests and page, and what it refuses.

The processes of runs are forked from one that has imported everything already.
"""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench.command import longrec_bench
from forking import run_code
from small_histories import tiny_histories, walks

from longrec.core.errors import LongrecError, UsageError
from longrec.data.histories import Histories
from longrec.evaluation.summary import LEADING
from longrec_bench.zoo import run
from longrec_bench.zoo.bench import linear_models
from longrec_bench.zoo.cells import pairs_of, read_cells, write_failure
from longrec_bench.zoo.logs import Log, check_names, open_log
from longrec_bench.zoo.report import QUOTED, as_markdown, marks, rows_of
from longrec_bench.zoo.run import Job, ZooPlan, run_jobs

TINY = {"dim": "8", "layers": "1", "ffn_dim": "8", "max_epochs": "2", "batch_tokens": "400"}
MODELS = ["popularity", "hydrarec", "elastic"]


def start_child(module: str, arguments: list[str], *, stdout: Any, stderr: Any) -> Any:
    """A comparison's process, forked, which forks those of its runs, with pages without figures."""
    code = (
        "import forking\nfrom longrec.evaluation.report import page\n"
        "page._figures = lambda *_: []\nforking.fork_children()\n"
        f"from {module} import main; main()"
    )
    return run_code(code, *arguments, stdin=-1, stdout=stdout, stderr=stderr)


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> Histories:
    place = tmp_path_factory.mktemp("zoo") / "histories"
    return tiny_histories(place, walks(40, 30, 3, 30), n_items=30)


def zoo(
    histories: Histories, place: Path, *more: object, models: list[str] = MODELS, **settings: str
) -> Any:
    chosen = [f"--set={key}={value}" for key, value in (TINY | settings).items()]
    where = ["--work", place / "work", "--out", place / "out", "--logs", f"tiny={histories.path}"]
    names = ["--models", ",".join(models), "--jobs", "2"]
    return longrec_bench("zoo", *where, *names, *chosen, *more)


@pytest.fixture(scope="module")
def place(histories: Histories, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a whole zoo has run once."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("longrec.comparison.process.start_child", start_child)
        done = zoo(histories, folder)
    assert done.exit_code == 0, done.output
    return folder


def test_a_cell_holds_what_a_number_is_quoted_with_and_no_path(histories, place) -> None:
    cells = {cell["model"]: cell for cell in read_cells(place / "out")["tiny"]}
    assert sorted(cells) == sorted(MODELS)
    cell = cells["hydrarec"]
    own = place / "work" / "tiny-4" / "hydrarec" / "runs" / "hydrarec"
    metrics = json.loads((own / "metrics.json").read_text())
    for key in (LEADING, *QUOTED):
        assert cell["metrics"][key] == metrics[key]
    assert cell["intervals"][LEADING] == metrics["intervals"][LEADING]
    assert (cell["recipe"], cell["seed"], cell["minutes"]) == ("own", 0, 4.0)
    assert (cell["config"]["dim"], cell["config"]["seed"]) == (8, 0)
    assert (cell["converged"], cell["ended"], cell["epochs"]) == (False, "max_epochs", 2)
    assert cell["command"].startswith("longrec --threads 1 train tiny --model hydrarec --set ")
    assert {"commit", "machine", "versions", "started", "statement"} <= set(cell)
    assert cells["popularity"]["converged"]
    for path in (place / "out").rglob("*.json"):
        assert str(histories.path.parent) not in path.read_text()
        assert str(place) not in path.read_text()
    assert {path.name for path in (place / "out").iterdir()} == {
        *("tiny", "README.md", "accuracy.png")
    }


def test_tests_and_page_are_of_the_cells(place) -> None:
    page = (place / "out" / "README.md").read_text()
    [tests] = [json.loads(path.read_text()) for path in (place / "out").rglob("pairs-own.json")]
    found = {(pair["a"], pair["b"]): pair for pair in tests["pairs"]}
    assert set(found) == {("hydrarec", "elastic"), ("elastic", "popularity")}
    assert all(pair["low"] <= pair["mean"] <= pair["high"] for pair in found.values())
    assert all(pair["p_holm"] is None for pair in found.values())  # all but one still improve
    cells = {cell["model"]: cell["metrics"][LEADING] for cell in read_cells(place / "out")["tiny"]}
    gain = cells["hydrarec"] - cells["elastic"]
    assert found["hydrarec", "elastic"]["mean"] == pytest.approx(gain)
    assert page.count("| still improving") == 2
    assert "| 1 | `hydrarec` |" in page, "whoever is ahead, still improving or not"
    assert "at most 4 minutes of training on one thread" in page


def test_what_is_finished_is_skipped_and_a_lost_cell_is_read_again(
    histories, place, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("longrec.comparison.process.start_child", start_child)
    shutil.copytree(place, tmp_path / "again")
    path = tmp_path / "again" / "out" / "tiny" / "elastic-own-0.json"
    before = json.loads(path.read_text())
    path.unlink()
    done = zoo(histories, tmp_path / "again")
    assert "3 cells, 2 of them finished" in done.stderr
    assert json.loads(path.read_text()) == before
    monkeypatch.setattr(run, "run_process", lambda *_: pytest.fail("nothing is to be run"))
    assert "3 of them finished" in zoo(histories, tmp_path / "again").stderr
    with pytest.raises(UsageError, match=r"was made with minutes 4\.0, not 5\.0"):
        zoo(histories, tmp_path / "again", "--minutes", 5)
    with pytest.raises(
        UsageError, match=r"made with settings dim=8 .*, not dim=16 .*: a table has"
    ):
        zoo(histories, tmp_path / "again", models=["gru4rec"], dim="16")  # of which none is there
    about = tmp_path / "again" / "out" / "tiny" / "log.json"
    assert json.loads(about.read_text())["settings"] == TINY
    path.write_text(json.dumps(before | {"model": "of-a-plugin"}))
    with pytest.raises(UsageError, match=r"'of-a-plugin', and .* by --plugin, or remove the cell"):
        zoo(histories, tmp_path / "again")


def test_a_seed_that_failed_leaves_the_numbers_of_others(histories, place, tmp_path) -> None:
    shutil.copytree(place / "out", tmp_path / "out")
    [job] = ZooPlan(["elastic"], seeds=3).jobs_on(Log("tiny", histories, {}), tmp_path)
    write_failure(job, "the loss is nan", tmp_path / "out")
    cells = [c for c in read_cells(tmp_path / "out")["tiny"] if c["model"] == "elastic"]
    assert [(cell["seed"], cell.get("failed")) for cell in cells] == [
        (0, None),
        (1, "the loss is nan"),
    ]


def test_a_failure_is_a_cell_that_says_why_and_is_tried_again(
    histories, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("longrec.comparison.process.start_child", start_child)
    names = ["hydrarec"]
    with pytest.raises(LongrecError, match=r"1 cells have no number: .*the loss is"):
        zoo(histories, tmp_path, models=names, learning_rate="1e300")
    [cell] = read_cells(tmp_path / "out")["tiny"]
    assert "the loss is" in cell["failed"]
    assert str(tmp_path) not in json.dumps(cell)
    assert "Without a number:\n\n- `hydrarec` (own): " in (tmp_path / "out/README.md").read_text()
    shutil.rmtree(tmp_path / "work")
    assert "1 cells, 0 of them finished" in zoo(histories, tmp_path, models=names).stderr
    assert "failed" not in read_cells(tmp_path / "out")["tiny"][0]


def test_ranks_stay_out_of_a_checkout(histories, tmp_path) -> None:
    (tmp_path / ".git").mkdir()
    with pytest.raises(UsageError, match="name a folder outside of it"):
        zoo(histories, tmp_path)
    assert not (tmp_path / "work").exists()


def test_unknown_logs_models_and_recipes_are_refused_before_anything(tmp_path) -> None:
    with pytest.raises(UsageError, match="choose near, far, beauty"):
        open_log("nowhere", tmp_path, tmp_path)
    with pytest.raises(UsageError, match=r"s3rec_beauty\.parquet is not there: name the folder"):
        open_log("beauty", tmp_path, tmp_path)
    with pytest.raises(UsageError, match="there is no model 'hydra'"):
        ZooPlan(["hydra"])
    with pytest.raises(UsageError, match="the model 'popularity' is named twice"):
        ZooPlan(["popularity", "sasrec", "popularity"])
    with pytest.raises(UsageError, match="no model has a recipe 'paper'"):
        ZooPlan(["popularity"], "paper")
    with pytest.raises(UsageError, match="clock is processor in every zoo: leave it out"):
        ZooPlan(["popularity"], settings=["clock=wall"])
    assert ZooPlan(["popularity", "sasrec"], "paper").names() == ["sasrec"]


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b"])
def test_a_log_has_a_name_of_its_own_of_which_a_folder_can_be_made(name) -> None:
    with pytest.raises(UsageError, match=f"has the name '{name}', which folders are named by"):
        check_names([f"{name}=histories"])
    with pytest.raises(UsageError, match="two logs have the name 'near': give each a name"):
        check_names(["near", "far", "near=histories"])
    check_names(["near", "far", "mine_2=histories"])


@pytest.mark.parametrize(
    ("model", "text", "error"),
    [
        ("elastic", "seed=3", "seed is set by the number of seeds"),
        ("linrec", "memory_slots=4", "model 'linrec' has no setting 'memory_slots'"),
        ("dfar", "negatives=5", None),
        ("dfar", "loss=sampled", None),
    ],
)
def test_settings_are_checked_with_what_a_model_needs(
    histories, tmp_path, model, text, error
) -> None:
    [job] = ZooPlan([model], settings=[text]).jobs_on(Log("x", histories, {}), tmp_path)
    if error is not None:
        with pytest.raises(UsageError, match=error):
            job.check()
        return
    job.check()
    assert text.partition("=")[0] not in job.text  # what is set for all stays
    assert job.command(0).count(f"--set {text.partition('=')[0]}=") == 1


def test_a_model_gets_what_it_needs_to_be_trained_on_a_log(histories, tmp_path) -> None:
    log = Log("x", histories, {})  # without times
    found = {job.model: job for job in ZooPlan(["hstu", "dfar", "elastic"]).jobs_on(log, tmp_path)}
    assert found["hstu"].text == "hstu:time_bias=false"
    assert found["dfar"].text == "dfar:loss=bce:negatives=9"
    assert found["elastic"].text == "elastic"
    settings = "--set time_bias=false --set clock=processor --set transitions=0"
    assert settings in found["hstu"].command(0)
    timed = tiny_histories(tmp_path / "timed", [[1, 2, 1]], [[1, 2, 3]])
    [job] = ZooPlan(["hstu"]).jobs_on(Log("y", timed, {}), tmp_path)
    assert job.text == "hstu"


# ---- without running anything


def cell(model: str, value: float, **more: Any) -> dict[str, Any]:
    metrics = dict.fromkeys((LEADING, *QUOTED), value)
    about = {"model": model, "recipe": "own", "seed": 0, "metrics": metrics, "ended": "patience"}
    about |= {"intervals": {LEADING: [value - 0.01, value + 0.01]}, "converged": True}
    about |= {"epochs": 3.0, "seconds": 60.0, "parameters": 9}
    return about | {"kept_bytes": None, "keeps": "the whole history"} | more


def test_rows_are_ordered_by_what_leads_and_marked(tmp_path) -> None:
    rows = rows_of(
        [
            cell("a", 0.1),
            cell("b", 0.3, converged=False),
            cell("c", 0.2, ended="counted"),
            cell("d", 0.0, recipe="paper"),
            {"model": "e", "recipe": "own", "failed": "no times"},
        ]
    )
    assert [(row["name"], marks(row)) for row in rows] == [
        ("b", "still improving"),
        *(("c", ""), ("a", ""), ("d (paper)", "")),
    ]


def test_seeds_are_averaged_and_their_range_stands_for_an_interval() -> None:
    [row] = rows_of([cell("a", 0.1), cell("a", 0.3, seed=1, converged=False)])
    assert row["metrics"][LEADING] == pytest.approx(0.2)
    assert (row["interval"], row["seeds"], row["improving"]) == ([0.1, 0.3], 2, True)


def test_pairs_are_those_of_both_claims() -> None:
    names = ["bert4rec", "elastic", "hydrarec", "popularity", "sasrec"]
    assert list(pairs_of(names, ["elastic", "hydrarec"])) == [
        *(("hydrarec", "bert4rec"), ("hydrarec", "elastic")),
        *(("elastic", name) for name in ("bert4rec", "popularity", "sasrec")),
    ]
    assert {"elastic", "hydrarec"} <= set(linear_models())
    assert not {"sasrec", "popularity"} & set(linear_models())


def test_an_empty_page_says_so_much(tmp_path) -> None:
    assert "accuracy.png" not in as_markdown(tmp_path, {})


def test_jobs_run_some_at_a_time_and_an_error_stops_the_others(tmp_path, monkeypatch) -> None:
    plan, log = ZooPlan(["popularity"], jobs=2), Log("x", None, {})  # type: ignore[arg-type]
    jobs = [Job(plan, log, "popularity", tmp_path / str(number)) for number in range(6)]
    monkeypatch.setattr(Job, "arguments", lambda job: [job.folder.name])
    together, most, begun = threading.Semaphore(2), [], []

    def run_process(arguments: list[str], log: Path, memory: Path, tick: Any) -> None:
        most.append(together.acquire(blocking=False))
        begun.append(arguments[0])
        if arguments[0] == "3":
            while True:
                tick()
        together.release()

    monkeypatch.setattr(run, "run_process", run_process)
    ended: list[str] = []

    def done(job: Job, error: str | None) -> None:
        ended.append(job.folder.name)
        if len(ended) == 3:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        run_jobs(jobs, 2, done)
    assert all(most)
    assert "3" not in ended
    assert replace(plan, jobs=1).jobs == 1
