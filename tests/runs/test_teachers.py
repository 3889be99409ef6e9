"""Learning from trained recommenders: what they say, who may teach, and runs that go on."""

from __future__ import annotations

import shutil

import pytest
import torch

import longrec
from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.data.batches import TrainingData
from longrec.data.splits import leave_one_out
from longrec.mixers import Context
from longrec.simulator.simulate import SimulationConfig, simulate
from longrec.training.teachers import Teachers

TINY = {"dim": 8, "layers": 1, "heads": 1, "experts": 3, "ffn_dim": 8, "dropout": 0}
SMALL = {"dim": 8, "layers": 1, "dropout": 0}
QUICK = {"learning_rate": 0.01, "warmup_steps": 1, "average": 0.9, "transitions": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("teachers")


@pytest.fixture(scope="module")
def data(place):
    config = SimulationConfig(users=80, items=40, mean_length=20, evidence_distance=0, seed=4)
    return longrec.prepare(simulate(config).events, place / "histories")


@pytest.fixture(scope="module")
def teacher(data, place):
    return longrec.train(data, "elastic", place / "one", max_epochs=8, **TINY, **QUICK)


@pytest.fixture(scope="module")
def both(data, place, teacher):
    """The setting for two of them."""
    two = longrec.train(data, "lrurec", place / "two", max_epochs=2, **SMALL, **QUICK)
    return f"{teacher.folder},{two.folder}"


def weights(run):
    return run.model.state_dict()


def test_what_they_say_is_the_mean_in_log_probability_in_windows_as_in_whole(data, both):
    runs = [longrec.load(path) for path in both.split(",")]
    split = leave_one_out(data)

    def said(window):
        teachers = Teachers([run.model for run in runs], 0.5, torch.device("cpu"))
        found = []
        for batch in TrainingData(data, split.train_end, None, window, 400, 0).epoch(0).batches():
            real = batch.targets > 0
            taught = teachers.read(batch, real)
            scores = taught.users @ taught.items.t()
            scores = scores if taught.bias is None else scores + taught.bias
            found.append((scores[:, 1:].log_softmax(1), batch, real))
        return found

    whole = said(4096)
    for chances, batch, real in whole[:3]:
        mean = torch.zeros_like(chances)
        for run in runs:
            ctx = Context(lengths=batch.lengths, times=batch.times)
            with torch.no_grad():
                scores = run.model.score(run.model.hidden(batch.items, ctx)[real])
            mean += scores[:, 1:].log_softmax(1) / len(runs)
        torch.testing.assert_close(chances, mean.log_softmax(1), rtol=1e-4, atol=1e-5)
    inside = torch.cat([x for x, _, _ in said(7)]).double().sum(0)
    outside = torch.cat([x for x, _, _ in whole]).double().sum(0)
    torch.testing.assert_close(inside, outside, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def chances(run, data):
    """Log-probabilities at all events that are trained on (n, n_items)."""
    split, found = leave_one_out(data), []
    for batch in TrainingData(data, split.train_end, None, 4096, 400, 0).epoch(0).batches():
        ctx = Context(lengths=batch.lengths, times=batch.times)
        h = run.model.hidden(batch.items, ctx)[batch.targets > 0]
        found.append(run.model.score(h)[:, 1:].log_softmax(1))
    return torch.cat(found)


@pytest.mark.slow
def test_a_pupil_says_what_its_teacher_says(data, teacher):
    theirs, apart = chances(teacher, data), {}
    for share in (None, 1.0):
        taught = {} if share is None else {"teachers": f" {teacher.folder}", "teacher_share": share}
        pupil = longrec.train(data, "elastic", max_epochs=8, seed=3, **TINY, **QUICK, **taught)
        apart[share] = float((theirs.exp() * (theirs - chances(pupil, data))).sum(1).mean())
    assert apart[1.0] < 0.8 * apart[None]


@pytest.mark.slow
def test_a_run_that_goes_on_ends_as_one_that_was_never_stopped(data, place, both):
    taught = {**TINY, **QUICK, "teachers": both, "window": 7, "seed": 1}
    whole = longrec.train(data, "elastic", place / "whole", max_epochs=2, **taught)

    class Stop(Exception):
        pass

    def stop(progress):
        raise Stop

    with pytest.raises(Stop):
        longrec.train(
            data,
            "elastic",
            place / "cut",
            max_epochs=2,
            on_epoch=stop,
            checkpoint_minutes=1e-9,
            **taught,
        )
    gone_on = longrec.train(data, out=place / "cut", resume=True)
    assert all(torch.equal(x, weights(gone_on)[name]) for name, x in weights(whole).items())
    about = gone_on.provenance["teachers"]
    assert [one["run"] for one in about] == both.split(",")
    final = longrec.refit(gone_on, place / "final")
    assert final.provenance["teachers"] == about
    assert final.train_config.teachers == both


@pytest.mark.slow
def test_teachers_that_changed_or_are_gone_are_told(data, place, teacher):
    shutil.copytree(teacher.folder, place / "changed")
    taught = {**TINY, **QUICK, "teachers": str(place / "changed")}
    run = longrec.train(data, "elastic", place / "of changed", max_epochs=1, **taught)
    other = longrec.train(data, "elastic", max_epochs=1, seed=9, **TINY, **QUICK)
    other.save(place / "changed")
    with pytest.raises(DataError, match=r"teachers has .* holds other weights"):
        longrec.refit(run)
    shutil.rmtree(place / "changed")
    with pytest.raises(LongrecError, match="changed"):
        longrec.refit(run)
    # What starts from such a run's weights has other events, and learns from nobody.
    warm = longrec.train(data, warm_start=run, max_epochs=1)
    assert warm.train_config.teachers is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "bert4rec"}, "learns to fill in"),
        ({"model": "transitions"}, "is counted and learns from nobody"),
        ({"loss": "sampled"}, "teachers speak of all items"),
        ({"protocol": "global-time"}, "was trained on other events"),
        ({"teachers": None, "teacher_share": 0.5}, "there are no teachers"),
        ({"teachers": "a,,b"}, "teachers is 'a,,b'"),
        ({"teachers": "nowhere"}, "teachers is 'nowhere': give folders .* nowhere: no such folder"),
        ({"teacher_share": 0}, "teacher_share"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_trained(data, place, teacher, settings, message):
    taught = {"model": "elastic", "max_epochs": 1, "teachers": str(teacher.folder), **settings}
    with pytest.raises(LongrecError, match=message):
        longrec.train(data, **taught, out=place / "never")
    assert not (place / "never").exists()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sasrec", {"dim": 8, "layers": 1}, "streams exactly"),
        ("transitions", {}, "streams exactly"),
        ("limarec", {"dim": 8, "layers": 1}, r"the teacher .*limarec has 4 vectors of each user"),
    ],
)
def test_who_cannot_teach_is_told(data, place, name, settings, message):
    teacher = longrec.train(data, name, place / name, max_epochs=0, **settings)
    with pytest.raises(UsageError, match=message):
        longrec.train(data, "elastic", max_epochs=1, **TINY, teachers=str(teacher.folder))


def test_teachers_of_other_items_or_of_all_events_are_told(data, place, teacher):
    config = SimulationConfig(users=30, items=30, mean_length=20, evidence_distance=0, seed=5)
    other = longrec.prepare(simulate(config).events, place / "other")
    with pytest.raises(UsageError, match="knows other items"):
        longrec.train(other, "elastic", max_epochs=1, teachers=str(teacher.folder))
    final = longrec.refit(teacher, place / "of all")
    with pytest.raises(UsageError, match="it may know targets"):
        longrec.train(data, "elastic", max_epochs=1, teachers=str(final.folder))


def test_who_went_on_from_other_weights_is_told(data, place, teacher):
    """A warm start may go on from a run on all events, whose targets it would hand on."""
    longrec.train(data, out=place / "went on", warm_start=teacher, max_epochs=0)
    with pytest.raises(
        UsageError, match=r"went on from .*one \(warm start\), which may know targets"
    ):
        longrec.train(data, "elastic", max_epochs=1, teachers=str(place / "went on"))


def test_what_a_run_comes_from_is_not_replaced_by_it(data, teacher, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(teacher.folder, own)
    shutil.copytree(teacher.folder, own / "measured")
    files = sorted(own.rglob("*"))
    for folder in (own, own / "measured"):
        with pytest.raises(UsageError, match=r"teachers has .*, which this training replaces"):
            longrec.train(data, "elastic", own, overwrite=True, teachers=str(folder))
    taught = longrec.train(data, "elastic", max_epochs=1, teachers=str(own), **TINY, **QUICK)
    with pytest.raises(UsageError, match=r"teachers has .*, which this training replaces"):
        longrec.refit(taught, own, overwrite=True)
    with pytest.raises(UsageError, match=r"warm_start has .*measured, which this training rep"):
        longrec.train(data, out=own, warm_start=own / "measured", overwrite=True)
    with pytest.raises(UsageError, match=r"refit has .*measured, which this training replaces"):
        longrec.refit(own / "measured", own, overwrite=True)
    assert sorted(own.rglob("*")) == files
