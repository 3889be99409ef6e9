"""Refit: what `longrec.refit` does, for every caller."""

from __future__ import annotations

import tempfile
from pathlib import Path

from longrec.core.arguments import check_called, check_flag, check_path, check_shown
from longrec.core.errors import UsageError
from longrec.data.histories import Histories
from longrec.recommender import Recommender, load
from longrec.runs.carry_out import carry_out
from longrec.runs.final import plan_refit
from longrec.runs.folder import (
    check_apart,
    check_resumable,
    clear_run,
    describe_run,
    end_run,
    has_ended,
    locked_run,
    read_plan,
    write_plan,
)
from longrec.runs.together import dismiss, follow, lead
from longrec.runs.warm_start import name_of, origin, reopen
from longrec.training.meeting import joined
from longrec.training.processes import Processes
from longrec.training.progress import OnEpoch


@joined()
def refit(
    run: Recommender | str | Path,
    out: str | Path | None = None,
    histories: Histories | str | Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    progress: bool | None = None,
    on_epoch: OnEpoch | None = None,
) -> Recommender:
    """Train a measured run anew on all events, validation and test included, to be served.

    The model, its settings, the seed and the policy on seen items are the run's, and so is what it
    warm-started from; it trains for the epochs after which the run was best, with no validation.
    An epoch has more events than the run's had, and so more steps. What comes of it cannot be
    evaluated on these events: the run speaks for it.

    Several processes refit together as they train together (`longrec.train`); all read the run and
    its histories at the same paths.

    Parameters
    ----------
    run : Recommender or path
        A trained run, which stays as it is.
    out : path or None
        The folder of the final run; None keeps it in memory only.
    histories : Histories, path or None
        What to train on; what the run was trained on by default.
    resume : bool
        Go on with the refit in `out` that was interrupted.
    overwrite : bool
        Whether a run that stands in `out` may be replaced: its recommender stays until the new one
        has been trained.
    device : str
        "auto" (a GPU if torch sees one), "cpu", "cuda", "cuda:1", …
    progress : bool or None
        Whether to show a bar; None shows it in a terminal or a notebook.
    on_epoch : callable or None
        Called after every epoch with a `longrec.Progress`, such as a `longrec.TensorBoardLogger`.
        Where it returns True, training ends there with the best weights so far; what it raises
        ends the call, and leaves in `out` what `resume` goes on from.

    Returns
    -------
    Recommender
        Its provenance names the run and its numbers under "refit".

    Raises
    ------
    UsageError
        When the run is a final one itself, was never trained, or does not tell its best epoch; or
        for an `out` that may not be written to.
    DataError
        When histories or run are damaged, or the histories gone or changed.
    LongrecError
        When training cannot go on, or another of its processes has ended.
    """
    check_flag("resume", resume)
    check_flag("overwrite", overwrite)
    check_shown(progress)
    check_called("on_epoch", on_epoch, "each epoch ends, with a longrec.Progress")
    measured = run if isinstance(run, Recommender) else load(run)
    data = measured.data(histories)
    old = _started_from(measured)
    processes = Processes.here()
    digest = origin(measured)["digest"]
    processes.check_same({"run": digest, "resume": resume, "overwrite": overwrite})
    if processes.rank:
        return follow(data, old, device)
    about = describe_run(data, measured.name, measured.train_config.seed, old)
    plan = plan_refit(measured, about)
    if out is None:
        for word, wanted in (("resume", resume), ("overwrite", overwrite)):
            if wanted:
                raise UsageError(f"{word} needs the folder of the refit: pass out=")
        with tempfile.TemporaryDirectory(prefix="longrec-") as temporary:
            lead(plan, False)
            run = Path(temporary)
            final = carry_out(data, plan, old, run, False, device, progress, on_epoch)
        dismiss()
        return final
    folder = check_path("out", out)
    with locked_run(folder, resume, overwrite):
        begun = read_plan(folder) if resume else None
        if begun is None:
            if resume and has_ended(folder):
                raise UsageError(f"{folder} holds a trained recommender; it needs no --resume")
            check_apart(folder, plan)
            clear_run(folder)
            write_plan(folder, plan)
        else:
            if begun.refit is None or begun.refit["digest"] != digest:
                raise UsageError(
                    f"{folder} was not begun as a refit of {name_of(measured)}: resume it as it "
                    "was begun, or name another folder"
                )
            check_resumable(begun, data, folder, plan.model, plan.settings, old)
            plan = begun
        lead(plan, resume)
        final = carry_out(data, plan, old, folder, resume, device, progress, on_epoch)
        final.save(folder)
        end_run(folder, final)
    dismiss()
    return final


def _started_from(measured: Recommender) -> Recommender | None:
    """What a run warm-started from, None where it began anew."""
    begun = measured.provenance.get("warm_start")
    if begun is None:
        return None
    if begun["run"] is None:
        raise UsageError(
            f"{name_of(measured)} started from a recommender in memory, which is gone: save that "
            "one, and train with its folder as warm start"
        )
    return reopen(begun)
