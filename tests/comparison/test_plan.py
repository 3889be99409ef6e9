"""What is compared: everything is checked, and a folder goes on with its own plan alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from longrec.comparison.plan import (
    COMPARISON,
    Plan,
    folder_name,
    model_texts,
    read_plan,
    with_baselines,
)
from longrec.core.errors import DataError, UsageError


def plan(*models: str, **other) -> Plan:
    values = {"budget": 2.0, "settings": {}, "seeds": 1, "device": "auto", "threads": 1}
    return Plan(histories="h", fingerprint="f", models=models, **values | other)


def test_variants_have_their_own_settings_and_the_common_ones():
    common = plan("elastic", settings={"dim": "32"})
    texts = "elastic", "elastic:memory_slots=256:dim=16", "popularity"
    first, second, third = map(common.entry, texts)
    assert first.settings == {"dim": "32", "max_minutes": "2.0"}
    assert (second.name, second.model) == ("elastic:memory_slots=256:dim=16", "elastic")
    assert second.settings == {"dim": "16", "memory_slots": "256", "max_minutes": "2.0"}
    assert third.counted  # and has no width to set
    assert third.settings == {"max_minutes": "2.0"}
    taught = plan("popularity", settings={"teachers": "a,b", "teacher_share": "0.5"})
    assert taught.entry("popularity").settings == {"max_minutes": "2.0"}
    with pytest.raises(UsageError, match="bert4rec learns to fill in what is hidden"):
        taught.entry("bert4rec")


def test_seeds_are_runs_of_their_own_but_for_counted_models(tmp_path):
    jobs = plan("popularity", "hydrarec", seeds=2).jobs(tmp_path)
    assert [(job.entry.name, job.seed) for job in jobs] == [
        ("popularity", 0),
        ("hydrarec", 0),
        ("hydrarec", 1),
    ]
    assert [job.run.name for job in jobs] == ["popularity", "hydrarec", "hydrarec-seed1"]


def test_a_number_of_seeds_below_one_is_refused():
    with pytest.raises(UsageError, match="seeds is 0"):
        plan("elastic", seeds=0)


def test_a_plan_goes_on_with_more_models_or_seeds_and_nothing_else(tmp_path):
    begun = plan("elastic", "sasrec")
    begun.write(tmp_path)
    assert read_plan(tmp_path) == begun
    replace(begun, models=("sasrec", "hydrarec", "elastic"), seeds=3).check_continues(
        begun, tmp_path
    )
    for change, message in [
        ({"budget": 3.0}, "begun with a budget in minutes of 2.0, not 3.0"),
        ({"fingerprint": "g"}, "begun with histories with the fingerprint f, not g"),
        ({"settings": {"dim": "8"}}, r"the common settings \{\}, not \{'dim': '8'\}"),
        ({"device": "cpu"}, "the device auto, not cpu"),
        ({"threads": 2}, "CPU threads of 1, not 2"),
        ({"models": ("elastic",)}, "also compares sasrec"),
    ]:
        with pytest.raises(UsageError, match=message):
            replace(begun, **change).check_continues(begun, tmp_path)
    with pytest.raises(UsageError, match="begun with 3 seeds, not 1"):
        begun.check_continues(replace(begun, seeds=3), tmp_path)


def test_other_folders_are_left_alone(tmp_path):
    assert read_plan(tmp_path / "new") is None
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="holds other files"):
        read_plan(tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        read_plan(tmp_path / "mine.txt")
    plan("elastic").write(tmp_path)
    document = json.loads((tmp_path / COMPARISON.document).read_text())
    (tmp_path / COMPARISON.document).write_text(json.dumps(document | {"further": 1}))
    with pytest.raises(DataError, match="damaged"):
        read_plan(tmp_path)


def test_folder_names_are_safe_and_never_shared():
    texts = ["elastic", "elastic:dim=8", "elastic,dim=8", "elastic:a=../x", "elastic:a=..-x"]
    texts += [f"elastic:a={'9' * 200}", f"elastic:a={'9' * 201}", "elastic:a=é", "elastic:a=$(x)"]
    names = [folder_name(text) for text in texts]
    assert names[:2] == ["elastic", "elastic,dim=8"]
    assert len(set(names)) == len(names)
    for name in names:
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789,=.-_+")
        assert len(name) < 140


def test_models_are_a_list_or_one_text():
    assert (
        model_texts("elastic, sasrec,")
        == model_texts(["elastic", "sasrec"])
        == ("elastic", "sasrec")
    )


def test_baselines_are_compared_unless_they_are_named_already() -> None:
    assert with_baselines(()) == ()
    assert with_baselines(("elastic", "last-item")) == (
        *("elastic", "last-item", "popularity", "transitions"),
    )
    assert with_baselines(("transitions:last=10",)) == (
        *("transitions:last=10", "popularity", "last-item"),
    )
    plan = Plan("h", "f", ("transitions",), 1.0, {"dim": "8", "last": "3"}, 1, "cpu", 1)
    settings = plan.entry("transitions").settings
    assert settings == {"last": "3", "max_minutes": "1.0"}, "dim is others' setting"
