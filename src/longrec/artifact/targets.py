"""The targets by which a recommender is measured, as it reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from longrec.artifact.artifact import Artifact
from longrec.core.arguments import check_text
from longrec.core.choices import SplitName, check_choice
from longrec.core.errors import DataError, LongrecError
from longrec.data.aligned import align
from longrec.data.event_columns import check_columns
from longrec.data.histories import Histories
from longrec.data.splits import Split, Targets, make_split
from longrec.inference.encode import check_times


@dataclass(frozen=True, eq=False)
class TargetsToRank:
    """Targets of some histories, and what a recommender knows of both.

    Attributes
    ----------
    histories, targets : in the recommender's item indices, events of unknown items left out.
    wanted : the same targets as the data has them.
    whole : the split of the data.
    notes : what a table must say.
    under : protocol and cut.
    """

    histories: Histories
    targets: Targets
    wanted: Targets
    whole: Split
    notes: dict[str, int | float | str]
    under: tuple[str, str | None]


def targets_to_rank(
    artifact: Artifact,
    data: Histories,
    split: SplitName,
    protocol: str | None = None,
    cut: str | None = None,
    narrowed: Callable[[Targets], Targets] | None = None,
) -> TargetsToRank:
    """The targets of a split of some histories, cut by a protocol or as the training was.

    Parameters
    ----------
    artifact : Artifact
    data : Histories
    split : {"test", "validation"}
    protocol, cut : str or None
        None: as it was trained, or measured where it is a final run.
    narrowed : callable or None
        Which of the targets, as the data has them, are wanted.

    Raises
    ------
    UsageError
        When split, protocol or cut are none that there are, or the model reads what the histories
        lack.
    DataError
        When nothing of the histories is known to the recommender.
    LongrecError
        When there are no targets.
    """
    check_choice("split", split, SplitName)
    check_text("protocol", protocol)
    check_text("cut", cut)
    under = artifact.cut_by(protocol, cut)
    whole = make_split(under[0], data, under[1])
    if not len(getattr(whole, split)):
        raise LongrecError(f"{data.path}: the protocol {under[0]!r} has no {split} targets")
    if narrowed is not None:
        if split == "test":
            whole = replace(whole, test=narrowed(whole.test))
        else:
            whole = replace(whole, validation=narrowed(whole.validation))
    check_columns(artifact.name, artifact.columns, data.columns, data.path, artifact.columns)
    check_times(artifact.model, data.times, of_log=True)
    known, aligned = align(data, whole, artifact.catalog, artifact.columns)
    if not len(known.items):
        raise DataError(
            f"{data.path}: the recommender knows none of its items; give histories with item ids "
            "of the kind that it was trained on"
        )
    targets, wanted = getattr(aligned, split), getattr(whole, split)
    return TargetsToRank(known, targets, wanted, whole, dict(aligned.notes), under)
