"""Options of several values are written alike in every command, and so are -k and --json."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import polars as pl
import pytest
from cli.running import COMMAND, longrec, make_run

from longrec.cli.lists import _each_with_its_option as spread
from longrec.cli.lists import numbers, words
from longrec.core.errors import UsageError

WITHOUT_JSON = {"serve"}
"""What gives no result: it serves until it is stopped."""


def commands(group=COMMAND, path=()) -> Iterator[tuple[str, object]]:
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from commands(one, (*path, name))
        else:
            yield " ".join((*path, name)), one


ALL = dict(commands())
LISTS = [
    (verb, param.opts[-1])
    for verb, command in ALL.items()
    for param in command.params
    if getattr(param, "multiple", False)
]


def test_there_are_lists_in_many_commands():
    assert len({verb for verb, _ in LISTS}) > 12
    assert {"--user", "--ks", "--models", "--set", "--exclude", "--plugin", "--cut"} <= {
        option for _, option in LISTS
    }


@pytest.mark.parametrize("verb", ALL)
def test_options_are_alike(verb):
    for param in ALL[verb].params:
        shown = param.metavar or ""
        if getattr(param, "multiple", False):
            assert shown.endswith("..."), (verb, param.opts, "a list shows that it is one")
        elif param.param_type_name == "option":
            assert "," not in shown, (verb, param.opts, "a list is an option of several values")
            assert "..." not in shown, (verb, param.opts)
        if {"-k", "--top"} & {*param.opts}:
            assert param.opts == ["-k", "--top"], verb
    if verb not in WITHOUT_JSON:
        assert "--json" in [name for param in ALL[verb].params for name in param.opts]


@pytest.mark.parametrize(("verb", "option"), LISTS)
def test_values_one_after_the_other_are_the_option_again(verb, option):
    command = ALL[verb]
    argued = [p for p in command.params if p.param_type_name == "argument" and p.required]
    before = ["x"] * len(argued)
    wanted = [*before, option, "a", f"{option}=b", f"{option}=-3", "--json"]
    assert spread(command, [*before, option, "a", "b", "-3", "--json"]) == wanted
    assert spread(command, wanted) == wanted
    behind = [option, "a", f"{option}=b", *before]
    assert spread(command, [option, "a", "b", *before]) == behind, "RUN may come last"


def test_what_stands_behind_two_dashes():
    recommend, prepare = ALL["recommend"], ALL["prepare"]
    assert spread(recommend, ["run", "--user", "7", "--", "-a", "--json"]) == [
        *("run", "--user", "7", "--user=-a", "--user=--json"),
    ]
    assert spread(prepare, ["--out", "o", "--", "-log.csv"]) == ["--out", "o", "--", "-log.csv"]
    assert spread(recommend, ["run", "--user=1", "2", "-k", "5", "--all"]) == [
        *("run", "--user=1", "--user=2", "-k", "5", "--all")
    ]


def test_names_and_numbers_may_have_commas_between():
    assert words(["a,b", "c"]) == words(["a", "b", "c"]) == words(None, "a,b,c") == ["a", "b", "c"]
    assert numbers("--ks", ["5,10", "20"]) == (5, 10, 20)
    for wrong in ("5.0", "x", "1_0", "0x1"):
        with pytest.raises(UsageError, match=f"--ks has '{wrong}'; give whole numbers"):
            numbers("--ks", [wrong])


# ---- recommend and similar, with files and standard input


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("lists")).run


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
    argv = ["recommend", run, "-k", 4, "--json", "--exclude-seen", "no"]
    plain = rows_of(capsys, *argv, "--user", 101, 100)
    assert rows_of(capsys, *argv, "--user-file", tmp_path / "users.csv") == plain
    found = rows_of(capsys, *argv, "--user-file", "-", stdin="101\n100\n", monkeypatch=monkeypatch)
    assert found == plain
    top = plain[0]["item"]
    found = rows_of(capsys, *argv, "--exclude", top, "i99", "--user", 101)
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
