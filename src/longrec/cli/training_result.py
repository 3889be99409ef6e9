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
    from longrec.artifact.policy import seen_items_line

    about = recommender.provenance
    ending, kept = about["training"], ("policy", "warm_start", "refit")
    more = {key: about[key] for key in kept if key in about}
    facts = {
        "model": recommender.name,
        "ended": _ended(ending),
        "epochs": ending["epochs"],
        "time": duration(ending["seconds"]),
        "validation": _numbers(ending["validation"]),
        "left out by the context": f"{ending['dropped']:,} events",
    }
    if "refit" in about:
        facts["validation"] = f"none: trained on all {about['data']['events']:,} events"
    print_result(
        json, {"run": str(out), "model": recommender.name} | ending | more, str(out), facts
    )
    if json:
        return
    if "warm_start" in about and "refit" not in about:
        _gain_table(about["warm_start"])
    console.say(seen_items_line(recommender))
    words = [str(out), *plugins]
    if "refit" not in about:
        console.say("next: " + shlex.join(["longrec", "evaluate", *words]))
        console.say(
            "to serve, train on all events: "
            + shlex.join(["longrec", "refit", *words, "--out", f"{out}-final"])
        )
        return
    _say_of_refit(recommender, plugins)
    console.say("next: " + shlex.join(["longrec", "serve", *words, "--store", "STORE"]))


def _say_of_refit(final: Recommender, plugins: Sequence[str]) -> None:
    """What a final run is not, and whose numbers speak for it."""
    from longrec.runs.final import measured_run

    refit = final.provenance["refit"]
    found = _numbers(refit["validation"])
    console.print_text(
        f"A final run, not to be evaluated on these events: it saw them all. What was measured is "
        f"{measured_run(final)}" + (f" (validation: {found})" if found else "") + "."
    )
    if not refit["epochs"]:
        console.say(
            "warning: no epoch had made the weights better that the measured run started from, so "
            "that the final run has them as they were"
        )
    if refit["run"] is not None:
        console.say(
            "measure: " + shlex.join(["longrec", "evaluate", measured_run(final), *plugins])
        )


def _ended(training: Mapping[str, Any]) -> str:
    if training["stop"] == "refit":
        return "after the epochs found best" + (
            "" if training["converged"] else " (not converged: that run was still improving)"
        )
    converged = "" if training["converged"] else " (not converged: it was still improving)"
    return str(training["stop"] + converged)


def _numbers(validation: Mapping[str, float]) -> str:
    """As served, like "NDCG@10 0.1957, HR@10 0.3333, as served"; "" without any."""
    named = [f"{key.removeprefix('served/').upper()} {x:.4f}" for key, x in validation.items()]
    return ", ".join([*named, "as served"]) if named else ""


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
