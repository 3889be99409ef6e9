"""Which model and settings a log and some minutes of training ask for: recipe="auto".

Every choice is a function of `LogStatistics`, of the minutes and of what the caller has set, and of
nothing else: of no log's name, and not of how fast this machine is or how busy, so that the same
call chooses the same anywhere. What fits in the minutes is told by what a step costs on one core
(`microseconds`), as it was measured once. The rules are at the end, in the order in which they are
asked; what each rests on stands in docs/training.md and docs/decisions/0052, the numbers in
benchmarks/recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from longrec.config.training import TrainConfig
from longrec.models import MODELS, CountingModel
from longrec.models.common.registry import config_keys
from longrec.models.common.sequence import scores_pairs
from longrec.models.common.settings import go_together
from longrec.training.log_statistics import WIDTH, LogStatistics, microseconds

MODELS_OF_CHOICE = ("elastic", "lrurec")
"""Their cost is linear in the history and their streams are exact. The second has no setting that
the first has not."""
MINUTES = 60.0
"""For which it is chosen where no minutes are set: training then ends by its patience."""
SHORT = 20
"""Events of a middling user below which histories are short."""
SPARSE = 30
"""Training events per item below which a log is sparse."""
FULL_EPOCHS = 8
"""Epochs that fit from which the loss over the whole catalog pays for its time."""
NEGATIVES = 2_048
"""Of a batch, for a loss that draws them."""
WIDER, WIDTH_EPOCHS = (128, 256), 10
"""Widths above the defaults', and the epochs that must fit for one."""
LARGEST = 1 << 26
"""Numbers of the item table above which no network is made wider: with what the optimiser and the
average of weights keep of each, a gigabyte."""
LEARNING_RATES = ((15_000, 3e-3), (30_000, 2e-3))
"""Steps that fit at most, and the learning rate for them; 1e-3 for more."""


@dataclass(frozen=True)
class Choice:
    """A setting, or the "model", its value and why; `given`: it is the caller's."""

    key: str
    value: Any
    why: str
    given: bool = False


@dataclass(frozen=True)
class Chosen:
    """All that was chosen for a log.

    Attributes
    ----------
    statistics : what it was chosen by.
    minutes : that it was chosen for; `minutes_given`: the caller set them.
    choices : in the order in which they were made.
    """

    statistics: LogStatistics
    minutes: float
    minutes_given: bool
    choices: tuple[Choice, ...]

    @property
    def model(self) -> str:
        """Which model is trained."""
        return str(self.choices[0].value)

    @property
    def settings(self) -> dict[str, Any]:
        """What is set beside what the caller gave."""
        return {one.key: one.value for one in self.choices[1:] if not one.given}

    def about(self) -> dict[str, Any]:
        """For the provenance: plain values."""
        return asdict(self) | {"choices": [asdict(one) for one in self.choices]}


def chosen_lines(about: Mapping[str, Any]) -> list[str]:
    """What a provenance has under "chosen", in words: the log and the minutes, then each choice."""
    minutes = f"{about['minutes']:g} minutes of one core"
    given = minutes if about["minutes_given"] else f"no limit of time, as for {minutes}"
    head = f"chosen for {given}, and a log of {LogStatistics(**about['statistics']).words}"
    return [head, *(f"{one['key']} {one['value']}: {one['why']}" for one in about["choices"])]


def choose(statistics: LogStatistics, model: str | None, given: Mapping[str, Any]) -> Chosen:
    """Choose a model, unless it is given, and the settings that are not.

    Parameters
    ----------
    statistics : LogStatistics
    model : its name in the registry; None: one of `MODELS_OF_CHOICE`.
    given : settings of the caller, checked: of the model's config and of TrainConfig.
    """
    minutes = given.get("max_minutes")
    name, why = (model, GIVEN) if model is not None else _model(statistics, given)
    choices = [Choice("model", name, why, given=model is not None)]
    asked = _Asked(name, statistics, minutes or MINUTES, _defaults(name) | dict(given))
    for key, rule in () if issubclass(MODELS[name], CountingModel) else RULES:
        if key in given:
            choices.append(Choice(key, given[key], GIVEN, given=True))
        elif key in asked.known and (found := rule(asked)) is not None:
            asked.known[key] = found[0]
            choices.append(Choice(key, *found))
    return Chosen(statistics, asked.minutes, minutes is not None, tuple(choices))


@dataclass(frozen=True)
class _Asked:
    """What a rule may look at: the log, the minutes, and all settings as they are so far."""

    model: str
    log: LogStatistics
    minutes: float
    known: dict[str, Any]

    @property
    def dim(self) -> int:
        return int(self.known.get("dim", WIDTH))

    def epochs(self, loss: str | None = None, dim: int | None = None) -> float:
        """How many fit, each with its validation."""
        loss, dim = loss or self.known["loss"], dim or self.dim
        training = self.log.targets * microseconds(self.log, loss, dim)
        ranked = min(self.log.validated, self.known["validation_users"])
        validation = ranked * self.log.items * 0.025 * dim / WIDTH
        found = 6e7 * self.minutes / max(training + validation, 1.0)
        return float(min(found, self.known["max_epochs"]))

    def steps(self) -> float:
        """How many updates fit: some fifth of a batch is padding."""
        return float(self.epochs() * self.log.targets / (0.8 * self.known["batch_tokens"]))

    def grown(self, key: str) -> int:
        """A setting that grows with the width."""
        return int(max(1, self.known[key] * self.dim // WIDTH))


def _defaults(model: str) -> dict[str, Any]:
    return config_keys(MODELS[model].config_class) | config_keys(TrainConfig)


def _many(epochs: float) -> str:
    return f"{epochs:.0f}" if epochs >= 10 else f"{epochs:.1g}"


GIVEN = "as set"


# ---- the rules: each gives a value and the reason in words, or None where nothing is to be chosen


def _model(log: LogStatistics, given: Mapping[str, Any]) -> tuple[str, str]:
    elastic, lrurec = MODELS_OF_CHOICE
    fits = given.keys() <= _defaults(lrurec).keys()
    if fits and given.get("transitions") == 0 and log.middling < SHORT:
        return lrurec, (
            f"histories are short, half of the users have {log.middling} or fewer, and no "
            "transitions are to be added"
        )
    return elastic, "no other has more with transitions beside it, whose cost is linear"


def _loss(asked: _Asked) -> tuple[str, str]:
    if asked.known["teachers"] is not None:
        return "full", "teachers speak of all items"
    if scores_pairs(MODELS[asked.model]):
        return "sampled", f"{asked.model} scores each pair of a history and an item by a network"
    full, sampled = (microseconds(asked.log, loss, WIDTH) for loss in ("full", "sampled"))
    epochs = asked.epochs("full", WIDTH)
    if epochs < FULL_EPOCHS and full > 2 * sampled:
        return "sampled", (
            f"over {asked.log.items:,} items it is {full / sampled:.0f} times as fast, and only "
            f"{_many(epochs)} epochs of the full one fit"
        )
    return "full", f"{_many(epochs)} epochs of it fit, over all {asked.log.items:,} items"


def _negatives(asked: _Asked) -> tuple[int, str] | None:
    if asked.known["loss"] == "full":
        return None
    return NEGATIVES, "a batch shares them, so that they cost little"


def _width(asked: _Asked) -> tuple[int, str]:
    sparse = asked.log.per_item < SPARSE
    fit = {dim: asked.epochs(dim=dim) for dim in (WIDTH, *(WIDER if sparse else WIDER[:1]))}
    small = {dim for dim in fit if dim == WIDTH or dim * asked.log.items <= LARGEST}
    dim = max(dim for dim in small if dim == WIDTH or fit[dim] >= WIDTH_EPOCHS)
    why = f"about {_many(fit[dim])} epochs fit"
    if dim < max(small):
        return dim, f"{why}, and a wider network has to have {WIDTH_EPOCHS}"
    if small < fit.keys():
        return dim, f"a wider table of {asked.log.items:,} items would be large"
    return dim, f"{why}, enough for it" + ("" if sparse else "; more helps on sparse logs alone")


def _ffn_dim(asked: _Asked) -> tuple[int, str]:
    return asked.grown("ffn_dim"), "it grows with the width"


def _heads(asked: _Asked) -> tuple[int, str]:
    grown = asked.grown("heads")
    if not go_together(asked.model, {**asked.known, "heads": grown}):
        return asked.known["heads"], f"{asked.model} of width {asked.dim} cannot have {grown}"
    return grown, "they grow with the width"


def _dropout(asked: _Asked) -> tuple[float, str]:
    each, epochs = asked.log.per_item, asked.epochs()
    if each < SPARSE and epochs >= WIDTH_EPOCHS:
        return 0.5, f"an item has {each:.3g} events, under {SPARSE}, and epochs are enough"
    if asked.dim > WIDTH and epochs >= WIDTH_EPOCHS:
        return 0.3, f"an item has {each:.3g} events, and the network is wide"
    return 0.2, (
        f"an item has {each:.3g} events"
        if each >= SPARSE
        else f"few epochs fit ({_many(epochs)}), and more of it makes them slower"
    )


def _learning_rate(asked: _Asked) -> tuple[float, str]:
    steps = asked.steps()
    for most, rate in LEARNING_RATES:
        if steps <= most:
            return rate, f"about {steps:,.0f} steps fit: few, so each one has to go further"
    return 1e-3, f"about {steps:,.0f} steps fit"


def _context(asked: _Asked) -> tuple[None, str]:
    if MODELS[asked.model].streaming == "exact":
        return None, "whole histories: their cost is linear, and a stream reads them whole"
    return None, f"all that {asked.model} reads"


def _transitions(asked: _Asked) -> tuple[str, str]:
    return "auto", "tried when training ends, and kept where they serve validation better"


RULES: tuple[tuple[str, Callable[[_Asked], tuple[Any, str] | None]], ...] = (
    ("loss", _loss),
    ("negatives", _negatives),
    ("dim", _width),
    ("ffn_dim", _ffn_dim),
    ("heads", _heads),
    ("dropout", _dropout),
    ("learning_rate", _learning_rate),
    ("context", _context),
    ("transitions", _transitions),
)
