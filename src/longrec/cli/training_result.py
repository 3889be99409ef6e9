"""What `longrec train` and `longrec refit` print when they have ended."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longrec.cli.common import print_result
from longrec.core import console
from longrec.core.format import duration

if TYPE_CHECKING:
    from longrec.recommender import Recommender


def print_training(recommender: Recommender, out: Path, plugins: Sequence[str], json: bool) -> None:
    """How a training ended, what it serves, and what comes next."""
    from longrec.artifact.policy import seen_items_line, transitions_line

    about = recommender.provenance
    ending = about["training"]
    kept = (
        *("policy", "transitions", "baselines", "warm_start", "refit"),
        *("recipe", "chosen"),
    )
    more = {key: about[key] for key in kept if key in about}
    facts = {
        "model": recommender.name,
        "ended": _ended(ending),
        "epochs": ending["epochs"],
        "time": duration(ending["seconds"]),
        "left out by the context": f"{ending['dropped']:,} events",
    }
    if "refit" in about:
        facts["trained on"] = f"all {about['data']['events']:,} events, and so validated on none"
    document = {"run": str(out), "model": recommender.name} | ending | more
    print_result(json, document, str(out), facts)
    if json:
        return
    measured = about.get("refit", about | ending)
    _validation_table(recommender.name, measured["validation"], measured.get("baselines", {}))
    if "warm_start" in about:
        warm = about["warm_start"]
        _gain_table(warm | {"gain": measured.get("gain") or warm["gain"]})
    console.say(seen_items_line(recommender))
    if (line := transitions_line(recommender)) is not None:
        console.say(line)
    words = [str(out), *plugins]
    if "refit" not in about and not about["protocol"]["validation_targets"]:
        console.say(
            "warning: nothing was validated, since no user has such a target: the last weights are "
            "kept, and nothing says when to stop"
        )
    if "refit" not in about and not about["protocol"]["test_targets"]:
        console.say("there is no test target either: cut the log otherwise (protocol, cut)")
    elif "refit" not in about:
        console.say("next: " + shlex.join(["longrec", "evaluate", *words]))
        console.say(
            "to serve, train on all events: "
            + shlex.join(["longrec", "refit", *words, "--out", f"{out}-final"])
        )
    if "refit" not in about:
        return
    _say_of_refit(recommender, plugins)
    store = f"{out}-users"  # of this run, so that no other's records stand there
    serve = ["longrec", "serve", *words, "--store", store, "--data", about["data"]["path"]]
    console.say("next: " + shlex.join(serve))


def _say_of_refit(final: Recommender, plugins: Sequence[str]) -> None:
    """What a final run is not, and whose numbers speak for it."""
    from longrec.runs.final import measured_run

    refit, measured = final.provenance["refit"], measured_run(final)
    console.print_text(
        "A final run, not to be evaluated on these events: it saw them all. The numbers are those "
        f"of the run that was measured, {measured}."
    )
    if not refit["epochs"]:
        console.say(
            "warning: no epoch had made the weights better that the measured run started from, so "
            "that the final run has them as they were"
        )
    if refit["run"] is not None:
        console.say("to measure: " + shlex.join(["longrec", "evaluate", measured, *plugins]))


def _ended(training: Mapping[str, Any]) -> str:
    if training["stop"] == "refit":
        return "after the epochs found best" + (
            "" if training["converged"] else " (not converged: that run was still improving)"
        )
    converged = "" if training["converged"] else " (not converged: it was still improving)"
    return str(training["stop"] + converged)


def _validation_table(
    name: str, found: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]
) -> None:
    """The model's numbers on the validation targets, and beside them what counting reaches."""
    if not found:
        return
    keys = list(found)
    beside = {one: numbers for one, numbers in baselines.items() if one != name}
    rows = {name: found} | {f"{one} (baseline)": numbers for one, numbers in beside.items()}
    console.table(
        "validation, as served",
        ["", *(key.removeprefix("served/") for key in keys)],
        [[one, *(numbers[key] for key in keys)] for one, numbers in rows.items()],
    )
    best = max(beside, key=lambda one: beside[one][keys[0]], default=None)
    if best is not None and beside[best][keys[0]] > found[keys[0]]:
        console.say(f"warning: {best}, which counts alone, serves the validation targets better")


def _gain_table(warm: Mapping[str, Any]) -> None:
    """What a warm start gained over the run that it started from, on the new period."""
    gain = warm["gain"]
    if not gain["targets"]:
        console.print_text(f"gain: not measured, since {gain['note']}")
        return
    rows: list[list[object]] = []
    parts = [("all", gain), ("items that the old model knows", gain.get("of_known_items"))]
    for name, part in parts:
        for key in () if part is None else ("served/ndcg@10", "served/hr@10"):
            found = part[key]
            low, high = found["interval"]
            change = f"{found['difference']:+.4f} ({low:+.4f} to {high:+.4f})"
            rows.append([name, part["targets"], key, found["old"], found["new"], change])
    console.table(
        f"gain over {warm['run'] or 'the old model'} on the new period",
        ["targets", "number", "metric", "old", "new", "difference (95% interval)"],
        rows,
    )
    console.print_text(
        f"Test targets ({gain['protocol']}) newer than the old model's data, full ranking, each "
        f"model as it is served. The old model does not know the item of "
        f"{gain['unknown_to_old']:.1%} of them, which counts as a miss."
    )
