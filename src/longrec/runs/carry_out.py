"""Carry out a plan: from histories and settings to a trained recommender, in a run's folder."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch

from longrec.artifact.training_log import frame_of
from longrec.core import console
from longrec.core.arguments import described
from longrec.core.errors import UsageError
from longrec.core.generators import generators_kept, seed_generators
from longrec.data.catalog import Catalog
from longrec.data.event_columns import check_columns
from longrec.data.histories import Histories
from longrec.data.splits import Split, make_split, training_counts
from longrec.inference.encode import check_times
from longrec.models import SequenceModel, build_model
from longrec.models.common.settings import parse_settings
from longrec.recommender import Recommender
from longrec.runs.baselines import validate_baselines
from longrec.runs.folder import Plan
from longrec.runs.progress_display import TrainingProgress
from longrec.runs.warm_start import (
    OldHistories,
    describe_start,
    inherit_weights,
    measure_gain,
    reopen,
    start_messages,
    without_trained,
)
from longrec.training.fit import fit
from longrec.training.meeting import device_here
from longrec.training.processes import Processes
from longrec.training.progress import OnEpoch, Show
from longrec.training.recipe import chosen_lines
from longrec.training.teachers import check_teachers
from longrec.training.transitions import count_transitions, find_transitions
from longrec.training.validation import named, policy_of


def carry_out(
    data: Histories,
    plan: Plan,
    old: Recommender | None,
    run: Path,
    resume: bool,
    device: str,
    show: Show | bool | None,
    on_epoch: OnEpoch | None,
) -> Recommender:
    """Train what the plan says, from its last checkpoint in the folder `run` on if `resume`.

    `old` is what a warm start goes on from; `show` is called with reports, or True shows a bar,
    and None shows it where a person looks on.
    """
    model_config, config = parse_settings(plan.model, plan.settings)
    split = make_split(config.protocol, data, config.cut)
    with generators_kept():
        seed_generators(config.seed)
        place = find_device(device)
        model = build_model(plan.model, model_config, data.n_items)
    check_times(model, data.times, of_log=True)
    check_columns(plan.model, model.reads_columns, data.columns, data.path)
    columns = {name: data.columns[name] for name in model.reads_columns}
    if old is not None:  # words that the old model knows keep their codes
        check_columns(plan.model, columns, data.columns, data.path, old.columns)
        columns = {name: old.columns[name].extended(column) for name, column in columns.items()}
    data = data.in_words_of(columns)
    about, old_data = dict(plan.provenance), None
    show = console.is_interactive() if show is None else show
    if show is True and plan.refit is None and "chosen" in about:
        for line in chosen_lines(about["chosen"]):
            console.say(line)
    networks: list[SequenceModel] = []
    if "teachers" in about:
        teachers = [reopen(one, "teachers") for one in about["teachers"]]
        networks = check_teachers(teachers, data, config)
        if show is True:
            console.say(f"teachers: {len(teachers)}, for {config.teacher_share:g} of the loss")
    if old is not None:
        old_data = OldHistories.of(old, data)
        about["warm_start"] = about["warm_start"] | describe_start(old, data, split, old_data)
        split = without_trained(split, data, old_data)
        inherit_weights(model, data.catalog, old)
        if show is True:
            for line in start_messages(about["warm_start"], old, data):
                console.say(line)
    name = plan.model if plan.refit is None else f"{plan.model}, all events"
    with (
        TrainingProgress(name, config.max_epochs, config.max_minutes)
        if show is True
        else nullcontext(show or None)
    ) as report:
        started = old is not None
        result = fit(
            *(model, data, split, config, run, resume, report, started, on_epoch),
            device=place,
            teachers=networks,
        )
    data.check()
    training = asdict(result)
    del training["rows"]
    if plan.refit is not None and result.stop == "max_epochs":
        training |= {"stop": "refit", "converged": plan.refit["converged"]}
    if (number := Processes.here().number) > 1:
        training["processes"] = number
    decided, added = training.pop("policy"), None
    if plan.refit is not None:
        if (settings := plan.refit["added_score"]) is not None:
            added = count_transitions(data, split, **settings)
    else:
        with console.shown(show is True, "transitions") as report_tried:
            found = find_transitions(model, data, split, config, report_tried)
        if found is not None:
            about["transitions"], added = found.about, found.score
            training["validation"] = named(found.validated)
            decided = policy_of(found.validated, config)
    policy = about.setdefault("policy", decided)  # a final run's was decided by the measured one
    about |= {"training": training, "protocol": {"name": split.protocol} | split.notes}
    recommender = Recommender(
        *(plan.model, model, model_config, config, _counted(data, split), about),
        columns=columns,
        exclude_seen=policy["exclude_seen"],
        curve=frame_of(result.rows),
    ).with_added_score(added)
    about = recommender.provenance
    if show is True and len(split.validation):  # whoever looks on can tell what is weak
        with console.progress_bar("baselines") as report_counted:
            about["baselines"] = validate_baselines(data, split, config, report_counted)
    if old is not None:
        with console.shown(show is True, "the new period") as report_ranked:
            gain = measure_gain(old, recommender, data, split, old_data, report_ranked)
        about["warm_start"]["gain"] = gain
    return recommender


def _counted(data: Histories, split: Split) -> Catalog:
    """The catalog with the counts of training events: what is popular knows no target."""
    return Catalog(data.catalog.ids, training_counts(data, split.train_end)[1:])


def find_device(name: str) -> torch.device:
    """A device by its name, "auto" among them; UsageError where it cannot be used."""
    if not isinstance(name, str):
        raise UsageError(f"device is {described(name)}; give auto, cpu, cuda, cuda:1, …")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = device_here(torch.device(name))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0][:100]
        raise UsageError(
            f"device {name!r} cannot be used ({why}): give auto, cpu, cuda, cuda:1, …"
        ) from None
    return device
