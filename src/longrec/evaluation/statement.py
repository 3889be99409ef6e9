"""How a number was made, in sentences: which targets, which candidates, what was left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from longrec.core.cuts import moment

Notes = Mapping[str, int | float | str]

INFORMATION = "strict"
"""What a model may read: the events before the target and nothing else, its time of day neither."""
TIES = (
    "events of one time in the log's own order; of equal scores, as served the smaller item index "
    "first, else against the model"
)
_TEST_TARGETS = {
    "leave-one-out": (
        "Leave-one-out: each user's last event is the target and the events before it, the "
        "validation event included, are the input."
    ),
    "global-time": (
        "Global time: the target is each user's first event from the test cut ({test_cut} UTC) on; "
        "training ends at the validation cut ({validation_cut} UTC); an item "
        "unseen in training counts as a miss."
    ),
    "prequential": (
        "Prequential: every event of the last part ({last_share}) of histories of at least "
        "{min_length} events is scored from what came before it; an item unseen in training "
        "counts as a miss; intervals draw whole users."
    ),
}
_POLICY = {
    True: "without items that a user has seen, so that a repeat is a miss",
    False: "with items that a user has seen among the others",
    None: "each by its own policy on items that a user has seen",
}


def statement(
    protocol: str,
    split: str,
    counts: Mapping[str, int],
    notes: Notes,
    exclude_seen: bool | None,
    events: str,
) -> str:
    """Sentences about one evaluation.

    Parameters
    ----------
    protocol, split, counts, notes, exclude_seen, events
        As in `longrec.evaluation.summary.Metrics`.
    """
    if split == "validation":
        what = f"Validation targets of the protocol {protocol}."
    else:
        words = {k: moment(int(v)) if k.endswith("_cut") else v for k, v in notes.items()}
        what = _TEST_TARGETS[protocol].format_map(defaultdict(lambda: "?", words))
    sentences = [
        what,
        f"{counts['targets']:,} targets of {counts['users']:,} users, each ranked against the "
        "whole catalog.",
    ]
    if notes.get("users_without_input_at_test"):
        users = notes["users_without_input_at_test"]
        sentences.append(f"{users:,} users have no event before the cut and are left out.")
    if notes.get("users_too_short"):
        sentences.append(f"{notes['users_too_short']:,} users are too short to be evaluated.")
    sentences += [
        f"Headline: as served, {_POLICY[exclude_seen]}.",
        "Beside it the literature's readings: seen items filtered, the target never; and "
        "unfiltered; in both, ties count against the model.",
        f"Information: {INFORMATION}, the events before the target and nothing else.",
    ]
    order = f" (events {events[:12]})" if events else ""
    sentences.append(f"Events of one time stand in the log's own order{order}.")
    targets = max(counts["targets"], 1)
    unseen = notes.get(f"{split}_unseen_share", counts["unseen_misses"] / targets)
    sentences.append(
        f"Repeats: {counts['repeats'] / targets:.2%} of the targets; items unseen in training: "
        f"{float(unseen):.2%}."
    )
    sentences.append("Intervals: 95%, bootstrap over users.")
    return " ".join(sentences)
