"""Options of several values are written alike in every command, and so are -k and --json."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cli.running import COMMAND

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
