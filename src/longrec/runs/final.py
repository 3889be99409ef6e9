"""Final runs: trained on all events, for as long as a run that kept some apart found best.

Nothing is left to measure such a run on, so that another speaks for it: the measured run, of the
same model and settings. Its provenance says which, under "refit".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrec.artifact.artifact import Artifact
from longrec.core.errors import UsageError
from longrec.data.histories import Histories
from longrec.data.splits import ALL, Targets
from longrec.models import CountingModel
from longrec.models.transitions import TransitionsScore
from longrec.runs.evaluations import read_evaluations
from longrec.runs.folder import MEASURED, Plan, has_ended
from longrec.runs.warm_start import OldHistories, in_new_period, name_of, origin

KEPT = ("recipe", "chosen", "teachers")
"""What tells of a measured run by which recipe its settings came about, and whom it learnt from: a
refit has the same."""


def plan_refit(measured: Artifact, about: Mapping[str, Any]) -> Plan:
    """Plan the final run of one that was measured; `about`: provenance of a run that begins.

    It has the same model, settings and seed, multiplies in the same precision, trains for the
    epochs after which the measured run was best, whatever time that takes, and serves by the policy
    that the measured run decided.

    Raises
    ------
    UsageError
        When the run is a final one itself, was never trained, or does not tell its best epoch.
    """
    name, training = name_of(measured), measured.provenance.get("training", {})
    if "refit" in measured.provenance:
        raise UsageError(
            f"{name} is a final run already; refit the run that was measured: "
            f"{measured_run(measured)}"
        )
    added = measured.added
    if not isinstance(added, TransitionsScore | None):
        raise UsageError(
            f"{name} has an added score, {added.name!r}, which a refit would lose: refit "
            "the run without it, and add it to what comes of it"
        )
    epochs = training.get("best_epoch")
    if epochs is None:
        raise UsageError(
            f"{name} does not tell after which epoch it was best, since an older longrec trained "
            "it: train it again, with --final (final=True)"
        )
    warm = measured.provenance.get("warm_start")
    if not epochs and warm is None:
        raise UsageError(f"{name} was trained for no epoch, and so would its refit be: train it")
    changed = {"protocol": ALL, "cut": None, "max_epochs": epochs, "max_minutes": None}
    if not isinstance(measured.model, CountingModel):
        changed["precision"] = training["precision"]
    settings = asdict(measured.train_config)
    refit = {
        **origin(measured),
        "settings": {key: settings[key] for key in changed},
        "epochs": epochs,
        **{key: training[key] for key in ("stop", "converged", "validation")},
        "baselines": measured.provenance.get("baselines", {}),
        "evaluation": _latest_test(measured),
        "added_score": None if added is None else asdict(added.config),
    }
    if warm is not None:
        refit["gain"] = warm.get("gain")
    chosen = {key: measured.provenance[key] for key in KEPT if key in measured.provenance}
    policy = measured.provenance.get("policy", {"decided": "default"})
    return Plan(
        measured.name,
        asdict(measured.model_config) | settings | changed,
        {
            **about,
            **chosen,
            "refit": refit,
            "policy": policy | {"exclude_seen": measured.exclude_seen},
        },
    )


def _latest_test(measured: Artifact) -> dict[str, Any] | None:
    """What the latest evaluation that a run keeps of its test targets measured; None without."""
    kept = () if measured.folder is None else read_evaluations(measured.folder)
    for found in kept:
        if found.get("split") == "test" and found.get("tensors") == measured.saved_tensors:
            numbers = {k: x for k, x in found.items() if isinstance(x, float) and "@" in k}
            about = {key: found[key] for key in ("protocol", "cut", "exclude_seen")}
            return about | {"when": found["provenance"]["started"], "metrics": numbers}
    return None


def measured_run(final: Artifact) -> str:
    """Where the run that speaks for a final one is, for messages."""
    if final.folder is not None and has_ended(final.folder / MEASURED):
        return str(final.folder / MEASURED)
    return final.provenance["refit"]["run"] or "the recommender that it was refitted from"


def untrained(final: Artifact, data: Histories, targets: Targets) -> NDArray[np.bool_]:
    """Which targets a final run was not trained on, (n,).

    Raises
    ------
    UsageError
        When there is none, or that cannot be told.
    """
    why, name = "", name_of(final)
    if final.provenance["data"]["fingerprint"] == data.fingerprint:
        why = "and these targets are among them"
    else:
        is_new = in_new_period(final, data, targets, OldHistories.of(final, data))
        if is_new is not None and is_new.any():
            return is_new
        why = f"and of {data.path} no target is newer than those"
        if is_new is None:
            why = f"which are gone or have changed: what of {data.path} is newer cannot be told"
    trained = final.provenance["data"]["path"]
    raise UsageError(
        f"{name} is a final run: it was trained on all events of {trained}, {why}. Evaluate the "
        f"run that was measured, {measured_run(final)}, or this one on histories with newer events "
        "(--data, histories=)"
    )
