"""All checks of whatever a module registers, one after the other: what `longrec check-model` runs.

A check is a plain function; the lists say what each holds, and to whom it applies. Whatever else a
check raises is an error in the code that was checked, and fails it like any other.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from longrec.checks import mixers, reading, scoring, trained
from longrec.checks.compare import CheckFailed, NotApplicable, NotChecked
from longrec.checks.definitions import Make, examples_of
from longrec.checks.recorded import check_recorded_step
from longrec.checks.small_model import SmallModel
from longrec.checks.trained_model import TrainedModel
from longrec.core.errors import LongrecError, UsageError, first_line
from longrec.core.generators import generators_kept
from longrec.core.registry import Registry, load_plugin
from longrec.mixers import MIXERS
from longrec.models import MODELS

Result = Literal["passed", "failed", "not applicable", "not checked"]
PIECES = [[3, 0, 9], [0, 5, 1], [20, 2, 0]]
"""Events per row of the prefills that a history is split into."""


@dataclass(frozen=True)
class Outcome:
    """What one check found.

    subject : "model NAME" or "mixer NAME", with the example that was built; check : its name;
    result; reason : why it failed or does not apply, "" where there is nothing to say.
    """

    subject: str
    check: str
    result: Result
    reason: str = ""


def _definition(make: Make, kind: torch.dtype, split: bool = False) -> None:
    for length in mixers.LENGTHS[split:]:
        mixers.check_definition(make, length, kind, split)


def _extremes(make: Make) -> None:
    for name in mixers.EXTREMES:
        mixers.check_extremes(make, name)


Checks = Mapping[str, Callable[[Any], str | None]]
"""By name; each raises an error where it fails, and may give a remark where it does not."""

MIXER_CHECKS: Checks = {
    "equals its definition, float64": partial(_definition, kind=torch.float64),
    "equals its definition, float32": partial(_definition, kind=torch.float32),
    "equals its definition through a state": partial(_definition, kind=torch.float64, split=True),
    "causal: no output sees later events": mixers.check_causal,
    "not causal: every output sees every event": mixers.check_sees_all,
    "any split gives what the whole gives": partial(mixers.check_splits, pieces=PIECES, steps=5),
    "no events change nothing": mixers.check_no_events,
    "rows without events spoil nothing": mixers.check_empty_rows,
    "padding and neighbours, training": partial(mixers.check_neighbours, train=True),
    "padding and neighbours, evaluation": partial(mixers.check_neighbours, train=False),
    "extreme inputs give finite numbers": _extremes,
    "half precision miscounts nothing": partial(mixers.check_half_precision, length=301),
    "cost is linear": mixers.check_linear,
}
MODEL_CHECKS: Checks = {
    "settings": scoring.check_settings,
    "weights are whole in memory": scoring.check_weights,
    "parameter groups are complete": scoring.check_groups,
    "causal as declared": reading.check_causal,
    "times are read as declared": reading.check_times,
    "padding and neighbours change nothing": reading.check_padding,
    "masks hide what they stand for": reading.check_masks,
    "streaming: prefill and step give what encode gives": reading.check_streaming,
    "streaming: any prefills": reading.check_prefills,
    "no events change nothing": reading.check_no_events,
    "streaming: late events": reading.check_late_events,
    "streaming: the recorded step": check_recorded_step,
    "no streaming: states are refused": reading.check_refuses_states,
    "float32": partial(reading.check_float_type, kind=torch.float32),
    "bfloat16": partial(reading.check_float_type, kind=torch.bfloat16),
    "cost is linear": reading.check_cost,
    "scores": scoring.check_scores,
    "scores are products of vectors": scoring.check_vectors,
    "scores are those of pairs": scoring.check_pairs,
    "scores are a bias and rows by the last items": scoring.check_counts,
}
TRAINED_CHECKS: Checks = {
    "training lowers the loss": trained.check_training,
    "every parameter and interest is trained": trained.check_gradients,
    "evaluate ranks as recommend lists": trained.check_ranks,
    "save and load": trained.check_saving,
    "new items leave states alone": trained.check_new_items,
}


def check_module(module: str) -> Iterator[Outcome]:
    """Import a module as `--plugin` does, and check every mixer and model that it registers.

    Raises
    ------
    UsageError
        When there is no such module, or it registers nothing.
    """
    try:
        load_plugin(module)
    except UsageError:
        raise
    except LongrecError as error:
        yield Outcome(f"module {module}", "import and registration", "failed", str(error))
        return
    found = _names(MIXERS, module), _names(MODELS, module)
    if not any(found):
        raise UsageError(
            f"the module {module!r} registers no mixer and no model: put @register_mixer(NAME) or "
            "@register_model(NAME) on its classes, and import their files in it"
        )
    yield Outcome(f"module {module}", "import and registration", "passed")
    for name in found[0]:
        yield from check_mixer(name)
    for name in found[1]:
        yield from check_model(name)


def _names(registry: Registry[Any], module: str) -> list[str]:
    """Names that a module registers, or that one of its own modules does."""
    return [
        name
        for name, cls in registry.items()
        if registry.sources[name] == module or f"{cls.__module__}.".startswith(f"{module}.")
    ]


def check_mixer(name: str) -> Iterator[Outcome]:
    """Check a registered mixer in every example of it."""
    for example, make in examples_of(name).items():
        subject = f"mixer {name}" if example == "default" else f"mixer {name} ({example})"
        yield from run_all(subject, MIXER_CHECKS, make)


def check_model(name: str, **settings: Any) -> Iterator[Outcome]:
    """Check a registered model, made small, with these settings instead of its defaults."""
    small = SmallModel(name, settings)
    yield from run_all(f"model {name}", MODEL_CHECKS, small)
    with TrainedModel(small) as by_training:
        yield from run_all(f"model {name}", TRAINED_CHECKS, by_training)


def run_all(subject: str, checks: Checks, what: Any) -> Iterator[Outcome]:
    """Run checks on what they take: a constructor of mixers, a SmallModel or a TrainedModel."""
    for name, run in checks.items():
        result: Result = "passed"
        reason = ""
        try:
            with generators_kept():  # checks seed them, for numbers that come again
                reason = run(what) or ""
        except NotApplicable as why:
            result = "not checked" if isinstance(why, NotChecked) else "not applicable"
            reason = str(why)
        except CheckFailed as error:
            result, reason = "failed", str(error)
        except (Exception, SystemExit) as error:  # of the code that is checked, whatever it is
            result, reason = "failed", _told(error)
        yield Outcome(subject, name, result, reason)


def _told(error: BaseException) -> str:
    """An error's class and first line, and the line of the checked code that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = f"{os.sep}longrec{os.sep}"
    own = [f for f in frames if inside not in f.filename and "site-packages" not in f.filename]
    last = (own or frames)[-1]
    place = f"{os.path.basename(last.filename)}, line {last.lineno}"
    return f"{type(error).__name__}: {first_line(error)} ({place})"
