"""Going on from a trained recommender on new logs, and what that gained.

Weights are kept; tables by item are moved row by row, by item id, into the new catalog. Users have
no weights: a user is a history, so that the new histories must hold the old events too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from longrec.artifact.artifact import Artifact
from longrec.artifact.folder import digest_of_weights
from longrec.core.arrays import places
from longrec.core.errors import DataError, LongrecError
from longrec.data.aligned import align, align_items
from longrec.data.catalog import Catalog
from longrec.data.histories import Histories
from longrec.data.splits import ALL, Split, Targets, make_split
from longrec.evaluation.rank_targets import rank_targets
from longrec.evaluation.summary import SERVED, as_served, compare_ranks, summarise_ranks
from longrec.models import Model, SequenceModel
from longrec.models.common.registry import load_grown
from longrec.models.common.scorer import Scorer
from longrec.recommender import Recommender, load

METRICS = (SERVED + "ndcg@10", SERVED + "hr@10")


def origin(old: Artifact) -> dict[str, Any]:
    """What identifies the recommender of a warm start, as plain values for the provenance."""
    return {
        "run": None if old.folder is None else str(old.folder.resolve()),
        "digest": digest_of_weights(old.model.state_dict(), catalog=old.catalog.digest),
        "fingerprint": old.provenance.get("data", {}).get("fingerprint"),
    }


def reopen(begun: Mapping[str, Any], named: str = "warm_start") -> Recommender:
    """Load a recommender again that a run was started from, or learns from, by its origin.

    Parameters
    ----------
    begun : what `origin` gave.
    named : what named it, for messages.

    Raises
    ------
    DataError
        When it is gone or has changed.
    """
    if begun["run"] is None:
        raise DataError(
            "the run was started from a recommender in memory: resume it with warm_start= that one"
        )
    try:
        old = load(begun["run"])
    except DataError as error:
        why = f"({named} has it, and the training needs its weights: put it back where it was.)"
        raise DataError(f"{error} {why}") from error
    if origin(old)["digest"] != begun["digest"]:
        raise DataError(
            f"{named} has {begun['run']}, which holds other weights than when the training began, "
            "which needs those: put them back, or train in a new folder."
        )
    return old


@torch.no_grad()
def inherit_weights(model: Model, catalog: Catalog, old: Recommender) -> None:
    """Give `model` over `catalog` the old weights; a counting model is counted anew instead.

    A new item starts at the mean of the old items, plus the model's own small random start. Its
    score is then the catalog's mean score whoever the user is: it is pressed on nobody before its
    events have trained it, and has no deficit to make up when they do, as an item near zero has
    once training has pushed the others about. As an event of a history it is no surprise either.
    """
    if not isinstance(model, SequenceModel):
        return
    rows = torch.from_numpy(align_items(catalog, old.catalog))
    state, fresh = old.model.state_dict(), model.state_dict()
    for name in model.item_tables():
        was, table = state[name], fresh[name].clone()
        known = (rows > 0).to(table.device)
        table[1:] += was[1:].mean(0).to(table)
        table[known] = was[rows[rows > 0].to(was.device)].to(table)
        state[name] = table
    load_grown(model, state)


@dataclass(frozen=True, eq=False)
class OldHistories:
    """What the old histories held of each user of the new ones.

    Attributes
    ----------
    lengths : (n_users,) events there; 0 for new users.
    trained : (n_users,) how many of them the old recommender was trained on.
    whole : (n_users,) bool, whether the new histories still have them all.
    known : (n_users,) bool, whether the user is there.
    """

    lengths: NDArray[np.int64]
    trained: NDArray[np.int64]
    whole: NDArray[np.bool_]
    known: NDArray[np.bool_]

    @classmethod
    def of(cls, old: Artifact, data: Histories) -> OldHistories | None:
        """Look at the histories that `old` was trained on; None where they are gone."""
        try:
            old_data = old.data()
        except LongrecError:
            return None
        rows = old_data.find_users(data.user_ids)
        known = rows >= 0
        begin, end = old_data.offsets[:-1][rows], old_data.offsets[1:][rows]
        config = old.train_config
        trained = make_split(config.protocol, old_data, config.cut).train_end[rows]
        lengths = np.where(known, end - begin, 0)
        if data.times is not None and old_data.times is not None:
            # Counted, since a late event may stand between them.
            earlier = np.concatenate([[0], (data.times <= old_data.times.max()).cumsum()])
            whole = np.diff(earlier[data.offsets]) >= lengths
        else:
            whole = _begins_with(data, old_data, begin, lengths)
        return cls(lengths, np.where(known, trained - begin, 0), whole, known)

    def trained_on(self, targets: Targets, data: Histories) -> NDArray[np.bool_]:
        """Which targets the old recommender was trained on, (n,)."""
        before = targets.lengths(data.offsets) < self.trained[targets.users]
        return np.asarray(before & self.whole[targets.users])


def _begins_with(
    data: Histories, old_data: Histories, begin: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether each history begins with the `lengths` events of `old_data` from `begin` on."""
    whole = data.lengths >= lengths
    compared = np.where(whole, lengths, 0)
    index = align_items(old_data.catalog, data.catalog)
    ours = data.items[places(data.offsets[:-1], compared)]
    theirs = index[old_data.items[places(begin, compared)]]
    owner = np.repeat(np.arange(data.n_users), compared)
    differing = np.bincount(owner[ours != theirs], minlength=data.n_users)
    return np.asarray(whole & (differing == 0))


def describe_start(
    old: Recommender, data: Histories, split: Split, old_data: OldHistories | None
) -> dict[str, Any]:
    """Count what is known, new and left out, for the provenance.

    Raises
    ------
    DataError
        When the new histories have none of the items.
    """
    known = int((align_items(data.catalog, old.catalog)[1:] > 0).sum())
    if not known:
        raise DataError(
            f"{data.path} has none of the {old.catalog.n_items:,} items that {name_of(old)} knows: "
            "a warm start needs item ids of the same kind; train without --warm-start otherwise"
        )
    counts: dict[str, Any] = {
        "known_items": known,
        "new_items": data.n_items - known,
        "left_out_items": old.catalog.n_items - known,
    }
    if old_data is None:  # who was known cannot be told any more
        return counts | dict.fromkeys(("known_users", "new_users", "users_lacking_events"))
    further_back = _trained_further_back(old, data)
    trained = {
        part: max(int(old_data.trained_on(targets, data).sum()), further_back.get(part, 0))
        for part, targets in (("validation", split.validation), ("test", split.test))
    }
    return counts | {
        "known_users": int(old_data.known.sum()),
        "new_users": int((~old_data.known).sum()),
        "users_lacking_events": int((~old_data.whole).sum()),
        "targets_trained_before": trained,
        "trained_further_back": further_back,
        "validation_targets": len(split.validation),
    }


def _trained_further_back(old: Recommender, data: Histories) -> dict[str, int]:
    """Targets that what `old` itself went on from was trained on, where they are these, by part."""
    if old.provenance.get("data", {}).get("fingerprint") != data.fingerprint:
        return {}  # of newer histories the targets are others
    before = old.provenance.get("warm_start", {}).get("targets_trained_before") or {}
    return {part: count for part, count in before.items() if count}


def without_trained(split: Split, data: Histories, old_data: OldHistories | None) -> Split:
    """The split with no validation target that the old recommender was trained on.

    Its old weights would be taken for better than all that follow them. Where it was trained on all
    of them there is nothing else to validate on, and they stay.
    """
    if old_data is None:
        return split
    fair = ~old_data.trained_on(split.validation, data)
    return replace(split, validation=split.validation.where(fair)) if fair.any() else split


def start_messages(about: Mapping[str, Any], old: Recommender, data: Histories) -> Iterator[str]:
    """What a person is told of what `describe_start` counted, and what to mend."""
    left = about["left_out_items"]
    yield (
        f"warm start from {name_of(old)}: {about['known_items']:,} items known, "
        f"{about['new_items']:,} new"
        + (f", {left:,} left out because {data.path} has no event of them" if left else "")
    )
    if about["known_users"] is None:
        yield (
            f"the histories of {name_of(old)} are gone or have changed: whether {data.path} holds "
            "the earlier events of the users that it knows cannot be told"
        )
        return
    yield f"{about['known_users']:,} users known, {about['new_users']:,} new"
    if about["users_lacking_events"]:
        yield (
            f"warning: {about['users_lacking_events']:,} known users lack earlier events in "
            f"{data.path}, and what a model knows of a user is the history. Put both together: "
            f"longrec prepare NEW_LOG --extend {old.provenance['data']['path']} --out BOTH"
        )
    for part, count in about["targets_trained_before"].items():
        if not count:
            continue
        further_back = part in about["trained_further_back"]
        who = f"what {name_of(old)} went on from" if further_back else name_of(old)
        fact = f"{who} was trained on {count:,} of the {part} targets"
        if part == "validation" and count < about["validation_targets"] and not further_back:
            yield f"{fact}, which are left out of the validation"
        else:
            yield f"warning: {fact}, so that the {part} flatters what comes of it"


def measure_gain(
    old: Recommender,
    new: Recommender,
    data: Histories,
    split: Split,
    old_data: OldHistories | None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Rank the test targets of the new period by the old and the new model.

    The new period is what lies after the last event that the old model could have seen: later in
    time, or, without times, behind the events that a user had. Both rank the whole of their own
    catalog; a target whose item the old model does not know is a miss of it.

    Returns
    -------
    dict
        `targets` and, unless that is 0 (`note` says why), `users`, `protocol`,
        `unknown_to_old` (share of targets) and for each metric `old`, `new`, `difference`,
        `interval` (95%, of the difference) and `p_value`; `of_known_items` the same for targets
        whose item the old model knows.
    """
    if split.protocol == ALL:
        note = "a run on all events keeps no test targets: the run that was measured has its gain"
        return {"targets": 0, "note": note}
    is_new = in_new_period(old, data, split.test, old_data)
    if is_new is None:
        note = (
            f"the histories of {name_of(old)} are gone or have changed and had no times, so that "
            "the new period cannot be told"
        )
        return {"targets": 0, "note": note}
    if not is_new.any():
        note = (
            f"no test target of the protocol {split.protocol} is newer than the data of "
            f"{name_of(old)}"
        )
        return {"targets": 0, "note": note}
    test = split.test
    targets = test.where(is_new)
    known_to_old, aligned = align(data, replace(split, test=targets), old.catalog, old.columns)
    old_parts = old.model, old.added
    if old.model.device != new.model.device:  # the caller's own stays where it is
        old_parts = copy.deepcopy(old_parts)
        for part in old_parts:
            if part is not None:
                part.to(new.model.device)
    contexts = old.train_config.context, new.train_config.context
    by_old = rank_targets(
        *(Scorer(*old_parts), known_to_old, aligned.test, contexts[0], progress),
        popular=old.catalog.popular,
    ).with_columns(position=pl.Series(targets.positions))  # as in `data`, and not as aligned
    by_new = rank_targets(new.scorer, data, targets, contexts[1], progress)
    by_old, by_new = as_served(by_old, old.exclude_seen), as_served(by_new, new.exclude_seen)
    known = align_items(data.catalog, old.catalog)[data.items[targets.positions]] > 0
    gain: dict[str, Any] = {
        "targets": len(targets),
        "users": len(np.unique(targets.users)),
        "protocol": split.protocol,
        "unknown_to_old": float((~known).mean()),
        **_compare(by_old, by_new),
    }
    if 0 < known.sum() < len(known):
        mask = pl.Series(known)
        of_known = _compare(by_old.filter(mask), by_new.filter(mask))
        gain["of_known_items"] = {"targets": int(known.sum()), **of_known}
    return gain


def in_new_period(
    old: Artifact, data: Histories, targets: Targets, old_data: OldHistories | None
) -> NDArray[np.bool_] | None:
    """Which targets the old model cannot have seen, (n,); None where that cannot be told."""
    last = old.provenance.get("data", {}).get("last_time")
    if data.times is not None and last is not None:
        return np.asarray(data.times[targets.positions] > last)
    if old_data is None:
        return None
    after = targets.lengths(data.offsets) >= old_data.lengths[targets.users]
    return np.asarray(after & old_data.whole[targets.users])


def _compare(old: pl.DataFrame, new: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """For each metric what both ranks give, and the paired difference, new minus old."""
    found = {}
    metrics = [summarise_ranks(ranks, "") for ranks in (old, new)]
    for name in METRICS:
        difference = compare_ranks(new, old, name)
        found[name] = {
            "old": metrics[0][name],
            "new": metrics[1][name],
            "difference": difference.mean,
            "interval": [difference.low, difference.high],
            "p_value": difference.p_value,
        }
    return found


def name_of(old: Artifact) -> str:
    """Its folder, for messages."""
    return "the recommender given" if old.folder is None else str(old.folder)
