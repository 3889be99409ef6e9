"""A search's files: best.toml, results.json and report.html."""

from __future__ import annotations

import json
from collections.abc import Mapping

from longrec.config.toml_file import write_config_file
from longrec.core.files import write_file
from longrec.core.format import duration
from longrec.core.templates import page_template
from longrec.evaluation.report.page import on_page
from longrec.tuning.pictures import pictures
from longrec.tuning.plan import RESULTS
from longrec.tuning.results import Tuning, statement, trials_table
from longrec.tuning.values import shown


def write_results(tuning: Tuning, facts: Mapping[str, str]) -> None:
    """Write what a search has found, each file whole or not at all.

    Parameters
    ----------
    tuning
    facts
        How it was made, for the page and for results.json: command, machine, ….
    """
    write_best(tuning)
    document = {"made": dict(facts)} | tuning.to_dict()
    text = json.dumps(document, indent=1, allow_nan=False)
    write_file(tuning.folder / RESULTS, text)
    plan = tuning.plan
    searched = {
        f"searched of {model}": shown({k: str(v) for k, v in space.searched.items()})
        for model, space in tuning.spaces.items()
    }
    about = {
        **facts,
        "histories": "\n".join(plan.histories),
        "budget": f"{plan.budget:g} minutes, at most {plan.trial_minutes:g} for a trial",
        **searched,
        "fixed": shown(plan.fixed) or "nothing",
        "begins with": shown(plan.chosen | plan.given) or "the defaults",
        "device": plan.device,
    }
    head, rows = trials_table(tuning)
    page = page_template("longrec.evaluation", "report", "tuning.html").render(
        title=f"Search for settings on {', '.join(plan.names)}",
        lines=statement(tuning),
        model=tuning.model,
        settings=tuning.settings,
        head=head,
        rows=[[f"{c:.4f}" if isinstance(c, float) else c for c in row] for row in rows],
        figures=list(on_page(pictures(tuning.trials, tuning.spaces, plan.names, tuning.first))),
        failures={
            f"trial {trial.number}": f"{shown(tuning.spaces[trial.model].changed(trial.settings))}"
            f"\n{trial.error}"
            for trial in tuning.trials
            if trial.error
        },
        facts=about,
    )
    write_file(tuning.report, page)


def write_best(tuning: Tuning) -> None:
    """Write best.toml, which `longrec train --config` takes."""
    gains = [
        f"{log}: validation NDCG@10 {gain.first:.4f} -> {gain.best:.4f}"
        for log, gain in tuning.gains.items()
    ]
    trials = sum(tuning.counts().values())
    write_config_file(
        tuning.config,
        tuning.model,
        tuning.settings,
        [
            f"Found by longrec tune: trial {tuning.best.number} of {trials} in "
            f"{duration(60 * tuning.minutes)}.",
            *gains,
        ],
    )
