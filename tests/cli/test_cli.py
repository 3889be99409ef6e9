"""The command line: `main` in this process, and forked where a process is the point."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from cli.running import TINY, longrec, make_run
from forking import run_command

from longrec.cli import main as cli
from longrec.cli.app import app
from longrec.data.catalog import Catalog
from longrec.data.write import write_histories

VERBS = [
    "prepare",
    "train",
    "refit",
    "evaluate",
    "recommend",
    "similar",
    "models",
    "info",
    "explain",
    "index",
    "export",
    "serve",
    "consume",
    "compare",
    "tune",
    "demo",
    "store info",
    "store backup",
    "store restore",
    "store rebuild",
    "store verify",
    "store compact",
    "bench stream",
    "bench serve",
    "data list",
    "data get",
]
NASTY = ["[red]x[/red]", 'say "hi", you', "=1+1", ":smile:", "two\nlines", "\x1b[31mred", "é"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def made(place):
    return make_run(place)


@pytest.fixture
def log(made):
    return made.log


@pytest.fixture
def histories(made):
    return made.histories


@pytest.fixture
def run(made):
    return made.run


@pytest.fixture(scope="module")
def nasty(place):
    """A run whose user and item ids are out to break what shows them."""
    folder = write_histories(
        place / "nasty [bold]",
        user_ids=pl.Series(sorted(NASTY)),
        offsets=np.arange(len(NASTY) + 1) * 3,
        items=np.array([1 + (a + b) % len(NASTY) for a in range(len(NASTY)) for b in range(3)]),
        times=None,
        catalog=Catalog(pl.Series(sorted(NASTY)), np.full(len(NASTY), 3)),
        source="test",
        time_unit=None,
    ).path
    out = place / "run [red]x[/red]"
    assert longrec("train", folder, "--model", "popularity", "--out", out) == 0
    return out


# ---- help


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help_with_an_example_of_itself(capsys, verb):
    assert longrec(*verb.split(), "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"Example: longrec {verb}" in text


def test_help_names_every_verb(capsys):
    assert longrec("--help") == 0
    text = capsys.readouterr().out
    for verb in VERBS:
        assert re.search(rf"^\W*{verb.split()[0]} ", text, re.M), verb


def test_version_and_no_command(capsys):
    assert longrec("--version") == 0
    assert capsys.readouterr().out.startswith("longrec")
    assert longrec() == 2
    assert longrec("--threads", "1") == 2


def test_import_and_help_are_cheap():
    check = (
        "import sys\n"
        "import longrec\n"
        "assert not {'torch', 'polars', 'numpy'} & set(sys.modules), 'import longrec'\n"
        "from longrec.cli import main as cli\n"
        "sys.argv = ['longrec', '--help']\n"
        "try:\n    cli.main()\n"
        "except SystemExit:\n    pass\n"
        "assert not {'torch', 'polars', 'numpy'} & set(sys.modules), 'longrec --help'\n"
    )
    source = str(Path(cli.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", check],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# ---- what programs read


def json_of(capsys, *argv):
    capsys.readouterr()
    assert longrec(*argv) == 0
    return json.loads(capsys.readouterr().out)


def test_prepare_json(capsys, log, tmp_path):
    found = json_of(capsys, "prepare", log, "--out", tmp_path / "h", "--k-core", 2, "--json")
    assert found["path"] == str(tmp_path / "h")
    assert found["n_events"] + found["dropped"].get("k_core_events", 0) == 600
    assert {"n_users", "n_items", "fingerprint", "first_time"} <= set(found)


def test_a_training_says_how_many_threads_compute_and_why(capsys, histories, tmp_path):
    for words, told in (((), "1 (OMP_NUM_THREADS)"), (("--threads", 2), "2 (--threads)")):
        argv = ("train", histories, "--model", "popularity", "--out", tmp_path / told)
        assert longrec(*words, *argv) == 0
        assert f"\nthreads: {told}\n" in capsys.readouterr().err
        assert longrec(*words, *argv, "--overwrite", "--quiet") == 0
        assert "threads" not in capsys.readouterr().err


def test_train_and_evaluate_json(capsys, histories, tmp_path):
    out = tmp_path / "run"
    argv = ["--set", "max_epochs=1", "--context", 5, "--json"]
    found = json_of(capsys, "train", histories, "--out", out, *TINY, *argv)
    assert found["run"] == str(out)
    assert found["model"] == "elastic"
    assert found["epochs"] == 1
    assert found["dropped"] > 0
    assert set(found["validation"]) == {"served/ndcg@10", "served/hr@10"}
    measured = json_of(capsys, "evaluate", out, "--json")
    kept = json.loads((out / "metrics.json").read_text())
    for key in ("served/ndcg@10", "ndcg@10", "hr@20", "mrr@50", "unfiltered/ndcg@10"):
        assert measured[key] == kept[key]
    assert measured["detail"]["protocol"] == "leave-one-out"
    validation = json_of(capsys, "evaluate", out, "--split", "validation", "--json")
    assert validation["detail"]["split"] == "validation"


def test_new_items_and_todays_data_as_the_page_has_it(capsys, log, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "recommender.md").read_text()
    section = re.search(r"^## New items.*?^## ", page, re.M | re.S)
    assert section is not None
    commands, code = re.search(r"```bash\n(.*?)```\n```python\n(.*?)```", section[0], re.S).groups()
    events = pl.read_csv(log)
    monkeypatch.chdir(tmp_path)
    events[:400].filter(pl.col("item_id") < "i20").write_parquet("log.parquet")
    events[380:].write_parquet("today.parquet")  # exports overlap
    for line in commands.splitlines():
        argv = line.split()[1:]
        if argv[0] == "train":
            argv += [] if "--warm-start" in argv else TINY
            argv += ["--set", "max_epochs=1", "--json"]
        capsys.readouterr()
        assert longrec(*argv) == 0, line
    told = capsys.readouterr()
    warm = json.loads(told.out)["warm_start"]
    assert (warm["known_items"], warm["new_items"]) == (20, 5)
    assert warm["gain"]["targets"] > 10
    assert 0 < warm["gain"]["unknown_to_old"] < 1
    assert set(warm["gain"]["served/ndcg@10"]) >= {"old", "new", "difference", "interval"}
    assert "20 items known, 5 new" in " ".join(told.err.split())
    shutil.rmtree("run2")
    found = {"longrec": importlib.import_module("longrec")}
    exec(code.replace('warm_start="run/"', 'warm_start="run/", max_epochs=1'), found)
    assert found["rec"].provenance["warm_start"]["gain"] == warm["gain"]
    shutil.rmtree("run2")
    assert longrec("train", "histories2", "--warm-start", "run", "--out", "run2") == 0
    assert "gain over" in capsys.readouterr().out


def test_models_and_data_json(capsys):
    names = [row["model"] for row in json_of(capsys, "models", "--json")]
    assert {"elastic", "hydrarec", "sasrec", "popularity", "last-item"} <= set(names)
    keys = [row["key"] for row in json_of(capsys, "models", "elastic", "--json")["model_settings"]]
    assert "experts" in keys
    entries = json_of(capsys, "data", "list", "--json")
    assert "ml-1m" in [entry["name"] for entry in entries]
    assert all({"url", "digest", "terms"} <= set(entry) for entry in entries)


def test_tables_for_people(capsys, run):
    for argv, words in [
        (["models"], "streaming"),
        (["models", "sasrec"], "max_length"),
        (["data", "list"], "ml-1m"),
        (["evaluate", run], "95% interval (as served)"),
        (["recommend", run, "--user", "100", "-k", "2"], "personal"),
    ]:
        assert longrec(*argv) == 0
        assert words in capsys.readouterr().out


def test_another_protocol_is_warned_about(capsys, run):
    assert longrec("evaluate", run, "--protocol", "global-time") == 0
    assert "warning: trained under leave-one-out" in capsys.readouterr().err


# ---- recommend


def test_users_and_their_order(capsys, run):
    rows = json_of(capsys, "recommend", run, "--user", 101, 100, 9999, "-k", 2, "--format", "json")
    assert [row["user"] for row in rows] == [101, 101, 100, 100, 9999, 9999]
    assert [row["rank"] for row in rows] == [1, 2] * 3
    assert [row["policy"] for row in rows] == ["personal"] * 4 + ["cold"] * 2
    assert set(rows[0]) == {"user", "rank", "item", "score", "policy"}


def test_history(capsys, run):
    argv = ["recommend", run, "--format", "json", "-k", 30]
    rows = json_of(capsys, *argv, "--history", "i01", "i02")
    assert {row["item"] for row in rows} == {f"i{n:02d}" for n in range(25)} - {"i01", "i02"}
    rows = json_of(capsys, *argv, "--history", "i01", "i02", "--exclude-seen", "no")
    assert len(rows) == 25


def test_the_policy_on_seen_items_and_why_is_said(capsys, run):
    argv = ["recommend", run, "--user", 100, "-k", 1, "--format", "json"]
    capsys.readouterr()
    assert longrec(*argv) == 0
    assert re.match(
        r"seen items: (left out|recommended again) \(decided on validation: \d+\.\d% of \d+ "
        r"targets are repeats, NDCG@10 as served 0\.\d+ with",
        capsys.readouterr().err,
    )
    assert longrec(*argv, "--exclude-seen", "no") == 0
    assert "seen items: recommended again (as asked; by itself" in capsys.readouterr().err


def test_ids_that_match_nobody_are_counted_with_the_likely_cause(capsys, run):
    argv = ["recommend", run, "-k", 1, "--format", "json"]
    rows = json_of(capsys, *argv, "--user", "100,101", "102.0", 101)
    assert [(row["user"], row["policy"]) for row in rows] == [
        (None, "cold"),
        (None, "cold"),
        (101, "personal"),
    ]
    for user, cause in [("100,101", "looks like 2 ids in one"), ("102.0", "a decimal number")]:
        assert longrec(*argv, "--user", user) == 0
        line = capsys.readouterr().err
        assert f"warning: 1 of 1 users is unknown to {run.parent}" in line
        assert cause in line
    assert longrec(*argv, "--history", "i01,i02") == 0
    assert "'i01,i02' looks like 2 ids in one, such as 'i01'" in capsys.readouterr().err


def test_a_user_who_has_seen_everything_is_told_and_listed(capsys, run):
    everything = [f"i{n:02d}" for n in range(25)]
    argv = ["recommend", run, "--format", "json", "--exclude-seen", "yes", "--history", *everything]
    capsys.readouterr()
    assert longrec(*argv) == 0
    printed = capsys.readouterr()
    assert "warning: 1 of 1 users gets no item, since they have seen all others: 0" in printed.err
    assert json.loads(printed.out) == [
        {"user": 0, "rank": None, "item": None, "score": None, "policy": "personal"}
    ]


def read_as(form, content):
    if form == "json":
        return pl.DataFrame(json.loads(content))
    if form == "csv":
        return pl.read_csv(io.BytesIO(content))
    return pl.read_parquet(io.BytesIO(content))


@pytest.mark.parametrize("form", ["json", "csv", "parquet"])
def test_every_format_brings_back_all_users_from_stdout_and_file(
    capsysbinary, run, histories, tmp_path, form
):
    argv = ["recommend", run, "--all", "-k", 3]
    capsysbinary.readouterr()
    assert longrec(*argv, "--format", form) == 0
    shown = read_as(form, capsysbinary.readouterr().out)
    assert longrec(*argv, "--data", histories, "--out", tmp_path / f"found.{form}") == 0
    kept = read_as(form, (tmp_path / f"found.{form}").read_bytes())
    assert capsysbinary.readouterr().out == b"", "progress and notes go to standard error"
    assert shown.equals(kept)
    assert len(shown) == 3 * 40
    assert shown.columns == ["user", "rank", "item", "score", "policy"]
    assert [p.name for p in tmp_path.iterdir()] == [f"found.{form}"]


def test_a_format_overrides_the_ending(run, tmp_path):
    argv = ["recommend", run, "--user", 100, "--format", "csv", "--out", tmp_path / "a.txt"]
    assert longrec(*argv) == 0
    assert len(pl.read_csv(tmp_path / "a.txt")) == 10


def test_ids_are_shown_as_they_are(capsys, nasty):
    capsys.readouterr()
    assert longrec("recommend", nasty, "--all", "--exclude-seen", "no", "-k", 20) == 0
    table = capsys.readouterr().out
    for shown in ("[red]x[/red]", 'say "hi", you', ":smile:", r"two\nlines", r"\x1b[31mred", "é"):
        assert shown in table
    assert "\x1b" not in table, "an id may not steer the terminal"
    assert longrec("evaluate", nasty) == 0
    assert "run [red]x[/red]" in "".join(capsys.readouterr().out.split("\n"))
    assert longrec("evaluate", nasty / "[/bold]\x1b[2J") == 1
    assert r"[/bold]\x1b[2J" in capsys.readouterr().err


def test_cells_of_a_csv_are_quoted(capsys, nasty):
    capsys.readouterr()
    assert (
        longrec("recommend", nasty, "--all", "--exclude-seen", "no", "-k", 20, "--format", "csv")
        == 0
    )
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    assert {row["item"] for row in rows} == set(NASTY)
    assert {row["user"] for row in rows} == set(NASTY)


FORMULAS = ["=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1"]


def test_formulas_in_a_csv_are_escaped_on_request(capsys, tmp_path):
    ids = [*FORMULAS, "good", "a=b", "'=1"]
    write_histories(
        tmp_path / "h",
        user_ids=pl.Series(FORMULAS),
        offsets=np.arange(0, 3 * len(FORMULAS) + 1, 3),
        items=np.resize(np.arange(1, len(ids) + 1), 3 * len(FORMULAS)),
        times=None,
        catalog=Catalog(pl.Series(ids), np.ones(len(ids), np.int64)),
        source="test",
        time_unit=None,
    )
    run = tmp_path / "run"
    assert longrec("train", tmp_path / "h", "--model", "popularity", "--out", run) == 0

    def rows(*argv: object) -> list[dict[str, str]]:
        out = tmp_path / "found.csv"
        assert longrec(*argv, "-k", 20, "--out", out) == 0
        return list(csv.DictReader(io.StringIO(out.read_bytes().decode(), newline="")))

    everybody = ["recommend", run, "--all", "--exclude-seen", "no"]
    plain, escaped = rows(*everybody), rows(*everybody, "--escape-formulas")
    assert {row["item"] for row in plain} == set(ids)
    assert {row["user"] for row in escaped} == {f"'{name}" for name in FORMULAS}
    assert {row["item"] for row in escaped} == {*(f"'{name}" for name in FORMULAS), *ids[-3:]}
    assert [row["score"] for row in escaped] == [row["score"] for row in plain]  # -1.5 is a number
    capsys.readouterr()
    for form in ("json", "parquet", "table"):
        assert longrec(*everybody, "--format", form, "--escape-formulas") == 2
        assert f"written as {form}" in capsys.readouterr().err
    log = tmp_path / "log.csv"
    log.write_text("user,item,time\n=cmd(),a,1,more\nann,a,1\nann,b,2\n")
    for argv, wanted in (((), "=cmd(),a,1,more"), (("--escape-formulas",), "'=cmd(),a,1,more")):
        out = tmp_path / f"histories{len(argv)}"
        assert longrec("prepare", log, "--out", out, "--skip-bad-rows", *argv) == 0
        assert pl.read_csv(out / "bad_rows.csv")["text"].to_list() == [wanted]


def test_ids_that_a_format_cannot_hold(capsys, tmp_path):
    write_histories(
        tmp_path / "h",
        user_ids=pl.Series([b"a", b"\xff"]),
        offsets=np.array([0, 2, 4]),
        items=np.array([1, 2, 2, 1]),
        times=None,
        catalog=Catalog(pl.Series([b"x", b"\xfe"]), np.array([2, 2])),
        source="test",
        time_unit=None,
    )
    run = tmp_path / "run"
    assert longrec("train", tmp_path / "h", "--model", "popularity", "--out", run) == 0
    assert longrec("recommend", run, "--all", "--exclude-seen", "no", "--format", "csv") == 2
    assert "try parquet" in capsys.readouterr().err
    out = tmp_path / "found.parquet"
    assert (
        longrec("recommend", run, "--user", "a", "--exclude-seen", "no", "-k", 1, "--out", out) == 0
    )
    assert pl.read_parquet(out)["item"].to_list() in ([b"x"], [b"\xfe"])


# ---- recommend and similar, with files and standard input


def rows_of(capsys, *argv, stdin=None, monkeypatch=None):
    if stdin is not None:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    capsys.readouterr()
    assert longrec(*argv) == 0
    return json.loads(capsys.readouterr().out)


def test_users_and_items_come_from_files_and_standard_input(capsys, run, tmp_path, monkeypatch):
    (tmp_path / "users.csv").write_text("user_id\n101\n100\n")
    (tmp_path / "items.csv").write_text(
        "item,kind\n" + "".join(f"i{n:02d},{'ab'[n % 2]}\n" for n in range(25))
    )
    argv = ["recommend", run, "--json", "--exclude-seen", "no"]
    four = [*argv, "-k", 4]
    plain = rows_of(capsys, *four, "--user", 101, 100)
    assert rows_of(capsys, *four, "--user-file", tmp_path / "users.csv") == plain
    found = rows_of(capsys, *four, "--user-file", "-", stdin="101\n100\n", monkeypatch=monkeypatch)
    assert found == plain
    top = plain[0]["item"]
    found = rows_of(capsys, *four, "--exclude", top, "i99", "--user", 101)
    assert [row["item"] for row in found][:3] == [row["item"] for row in plain[1:4]]
    among = ["--among-file", "-", "--user", 101, "--top", 2]
    found = rows_of(capsys, *argv, *among, stdin="i03\ni04\ni05\n", monkeypatch=monkeypatch)
    assert len(found) == 2
    assert {row["item"] for row in found} < {"i03", "i04", "i05"}
    ruled = ["--items", tmp_path / "items.csv", "--where", "kind = 'b'", "-k", 30]
    found = rows_of(capsys, *argv, "--user", 101, *ruled)
    assert sorted(row["item"] for row in found) == [f"i{n:02d}" for n in range(1, 25, 2)]
    found = rows_of(capsys, *argv, "--user", 101, 999, *ruled, "--exclude", "i01", "--among", "i01")
    left = {"rank": None, "item": None, "score": None, "policy": None}
    assert found == [{"user": 101} | left, {"user": 999} | left]


def test_histories_come_from_files(capsys, run, tmp_path, monkeypatch):
    argv = ["recommend", run, "-k", 3, "--json"]
    plain = rows_of(capsys, *argv, "--history", "i01", "i02")
    lines = '["i01", "i02"]\n["i03"]\n'
    found = rows_of(capsys, *argv, "--history-file", "-", stdin=lines, monkeypatch=monkeypatch)
    assert [row["item"] for row in found[:3]] == [row["item"] for row in plain]
    assert [row["user"] for row in found] == [0] * 3 + [1] * 3
    (tmp_path / "h.csv").write_text("user,item\nann,i01\nann,i02\n")
    out = tmp_path / "out.csv"
    assert longrec(*argv[:-1], "--history-file", tmp_path / "h.csv", "--out", out) == 0
    written = pl.read_csv(out)
    assert written["user"].to_list() == ["ann"] * 3
    assert written["item"].to_list() == [row["item"] for row in plain]


def test_similar(capsys, run, monkeypatch):
    found = rows_of(capsys, "similar", run, "--item", "i01", "i02", "-k", 3, "--json")
    assert [(row["similar_to"], row["rank"]) for row in found] == [
        (item, rank) for item in ("i01", "i02") for rank in (1, 2, 3)
    ]
    argv = ["similar", run, "--item-file", "-", "-k", 3, "--json"]
    assert rows_of(capsys, *argv, stdin="i01\ni02\n", monkeypatch=monkeypatch) == found
    fewer = rows_of(capsys, "similar", run, "--item", "i01", "-k", 2, "--exclude", found[0]["item"],
                    "--json")  # fmt: skip
    assert [row["item"] for row in fewer] == [row["item"] for row in found[1:3]]


# ---- failures


def test_a_damaged_run(capsys, run, histories, tmp_path):
    assert longrec("train", histories, "--model", "popularity", "--out", tmp_path / "run") == 0
    weights = tmp_path / "run" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    capsys.readouterr()
    for argv in (["evaluate", tmp_path / "run"], ["recommend", tmp_path / "run", "--all"]):
        assert longrec(*argv) == 1
        assert "model.safetensors is not what was saved" in capsys.readouterr().err


def test_a_bug_is_not_hidden(monkeypatch, run):
    def broken(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr("longrec.recommender.load", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        longrec("evaluate", run)


def test_parquet_is_not_for_a_terminal(run):
    ours, theirs = pty.openpty()
    try:
        process = run_command(
            "recommend",
            run,
            "--all",
            "--format",
            "parquet",
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
        )
        told = process.communicate()[1]
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 2
    assert "not for a terminal" in told
    assert "Traceback" not in told


# ---- pipes and interrupts


@pytest.mark.parametrize("users", ["--all", "--user=100"])
def test_a_reader_that_stops_early_is_no_error_to_see(run, users):
    process = run_command(
        "recommend",
        run,
        users,
        "--format",
        "csv",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()  # before anything is written, as `| head -0`
    told = process.stderr.read()
    process.wait(60)
    assert "Traceback" not in told
    assert "BrokenPipe" not in told
    assert "Broken pipe" not in told


def test_an_interrupted_training_says_how_to_go_on_and_does(histories, tmp_path):
    out = tmp_path / "my run"
    settings = [*TINY, "--set=max_epochs=100000", "--set=patience=100000"]
    often = "--set=checkpoint_minutes=0.00001"
    process = run_command(
        "train", histories, "--out", out, *settings, often, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("checkpoint-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "Traceback" not in told
    last = told.strip().splitlines()[-1]
    assert last.startswith("error: interrupted; go on with: longrec train ")
    assert last.endswith(f"--out '{out}' --resume")
    assert list(out.glob("checkpoint-*"))

    # The run wants 100,000 epochs; its plan is shortened so that the rest of it is seconds.
    plan = json.loads((out / "training.json").read_text())
    plan["settings"]["max_epochs"] = 1
    (out / "training.json").write_text(json.dumps(plan))
    assert longrec("train", histories, "--out", out) == 2
    assert longrec("train", histories, "--out", out, "--model", "sasrec", "--resume") == 2
    assert longrec("train", histories, "--out", out, "--resume") == 0
    assert longrec("evaluate", out) == 0


# ---- docs/cli.md


def test_the_page_names_every_option_and_nothing_else():
    import typer.main

    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    sections = dict(re.findall(r"^## ([\w-]+)\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    shared = {"--help", "-h", "--plugin", "--quiet"}  # said once, above all commands
    assert "`--plugin MODULE`" in page.partition("## ")[0]
    group = typer.main.get_command(app)
    assert set(sections) == set(group.commands)
    for verb, text in sections.items():
        own = group.commands[verb]
        commands = getattr(own, "commands", {verb: own}).values()
        params = [p for c in commands for p in c.params]
        names = {o for p in params for o in [*p.opts, *p.secondary_opts]}
        options = {o for o in names if o.startswith("-")}
        written = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))
        assert written <= options | shared | {"--json"}, verb
        assert options - shared <= written, verb
