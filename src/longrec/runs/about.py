"""What a person wants to know of a run, from its documents alone: no weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from longrec.artifact.folder import EVALUATION, RECOMMENDER, read_provenance
from longrec.artifact.policy import policy_words
from longrec.artifact.training_log import read_log
from longrec.config.border import changed_settings
from longrec.core.errors import DataError, UsageError
from longrec.core.sealed import read_json
from longrec.evaluation.summary import leading
from longrec.models.common.settings import check_model, parse_settings, stored_settings
from longrec.runs.evaluations import FOLDER
from longrec.runs.folder import BEGUN_RUN, MEASURED, has_ended, was_begun
from longrec.runs.sizes import sizes_of
from longrec.training.checkpoint import has_checkpoint

CURVE = ("epoch", "seconds", "loss", "ndcg10", "hr10")


def about_run(folder: Path) -> dict[str, Any]:
    """Model, settings, data, training, evaluations and sizes of a run, as plain values.

    A run that has not ended tells what it trains and its log so far. Where the model's package has
    not been imported, settings and sizes are left as they stand in the files (`problem` says so).

    Returns
    -------
    dict
        The keys are those of `longrec info RUN --json` (docs/cli.md).

    Raises
    ------
    DataError
        When a document is missing or damaged.
    """
    ended = has_ended(folder)
    if ended:
        config = RECOMMENDER.read_document(folder)
        about = read_provenance(folder / "provenance.json")
        model, items = config["model"], config["items"]
        settings = config["model_config"] | stored_settings(config["train_config"])
    else:
        config = BEGUN_RUN.read_document(folder)
        about, model, items = config["provenance"], config["model"], None
        settings = stored_settings(config["settings"])
    log = read_log(folder)
    found: dict[str, Any] = {
        "kind": "run",
        "path": str(folder),
        "state": "not ended" if not ended else "going on" if was_begun(folder) else "ended",
        "resumable": has_checkpoint(folder),
        "model": model,
        "plugin": about.get("plugin"),
        "final": "refit" in about or config.get("final") is True,
        "measured": _measured(folder, about),
        "warm_start": about.get("warm_start", {}).get("run"),
        "items": items,
        "data": about.get("data"),
        "protocol": about.get("protocol") or {"name": settings.get("protocol")},
        "training": about.get("training"),
        "seen_items": policy_words(config.get("exclude_seen", True), about.get("policy"))
        if ended
        else None,
        "added_score": config.get("added_score"),
        "transitions": about.get("transitions"),
        "baselines": about.get("baselines"),
        "recipe": about.get("recipe", "own"),
        "chosen": about.get("chosen"),
        "curve": log.select(CURVE).fill_nan(None).to_dicts(),
        "evaluations": _evaluations(folder),
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        **{key: about.get(key) for key in ("command", "seed", "commit", "versions", "started")},
    }
    try:
        check_model(model, about.get("plugin"))
        known: dict[str, Any] = {
            "settings": changed_settings(*parse_settings(model, settings)),
            "problem": None,
        }
        if ended:
            known |= sizes_of(config)
    except UsageError as error:
        known = {"settings": settings, "problem": str(error)}
    return found | known


def _measured(folder: Path, about: dict[str, Any]) -> str | None:
    """Where the run is that speaks for a final one."""
    if (folder / MEASURED).is_dir():
        return str(folder / MEASURED)
    run = about.get("refit", {}).get("run")
    return None if run is None else str(run)


def _evaluations(run: Path) -> list[dict[str, Any]]:
    """What was measured of a run, the latest first."""
    found = []
    for folder in sorted((run / FOLDER).glob("*/"), reverse=True):
        try:
            document = read_json(folder / EVALUATION.document, EVALUATION.mend)
            key = leading(document["ks"])
            found.append(
                {
                    "folder": str(folder),
                    "split": document["split"],
                    "protocol": document["protocol"],
                    "cut": document["cut"],
                    "events": document["events"],
                    "targets": document["counts"]["targets"],
                    "metric": key,
                    "value": document[key],
                    "interval": document["intervals"][key],
                    "warning": document["notes"].get("warning"),
                }
            )
        except (DataError, KeyError, TypeError):
            continue  # being written, or damaged: the others stand by themselves
    return found
