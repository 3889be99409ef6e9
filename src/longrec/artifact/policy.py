"""What a recommender does besides scoring by its model, and why, a line each.

What it does with items that a user has seen, and what it adds for what followed the last ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longrec.artifact.artifact import Artifact
from longrec.core.choices import ExcludeSeen


def seen_items_line(artifact: Artifact, exclude_seen: ExcludeSeen = "auto") -> str:
    """Whether seen items are left out, and why: printed by train, evaluate, recommend and serve.

    Parameters
    ----------
    artifact : Artifact
    exclude_seen : bool or "auto"
        What the caller asked for; "auto": what was decided when training ended.
    """
    hides = artifact.hides_seen(exclude_seen)
    if exclude_seen != "auto":
        own = f"by itself this recommender has them {_words(artifact.exclude_seen)}"
        return f"seen items: {_words(hides)} (as asked; {own})"
    return f"seen items: {policy_words(hides, artifact.provenance.get('policy'))}"


def transitions_line(artifact: Artifact) -> str | None:
    """What transitions were found to bring; None where they were not tried.

    Printed by train, evaluate and info.
    """
    about = artifact.provenance.get("transitions")
    return None if about is None else f"transitions: {transitions_words(about)}"


def transitions_words(about: Mapping[str, Any]) -> str:
    """The same of what a provenance has under "transitions"."""
    without, with_them = about["ndcg10_without"], about["ndcg10_with"]
    if not about["weight"]:
        return (
            f"none, since they serve the {about['targets']:,} validation targets no better: "
            f"NDCG@10 {without:.4f} without, {with_them:.4f} with the best weight"
        )
    return (
        f"what followed the last {about['last']} items, at weight {about['weight']:g}: on "
        f"validation NDCG@10 as served {without:.4f} without, {with_them:.4f} with them "
        f"({with_them - without:+.4f}, 95% interval {about['low']:+.4f} to {about['high']:+.4f})"
    )


def policy_words(exclude_seen: bool, policy: Mapping[str, Any] | None) -> str:
    """The policy of a recommender on seen items, and why; `policy`: what its provenance has."""
    return f"{_words(exclude_seen)} ({_reason(exclude_seen, policy)})"


def _reason(exclude_seen: bool, policy: Mapping[str, Any] | None) -> str:
    if policy is None or policy["exclude_seen"] != exclude_seen:
        return "the default: it was not decided on validation"
    if "repeats" not in policy:
        set_by_hand = policy["decided"] == "setting"
        return "as set for training" if set_by_hand else "the default: nothing was validated"
    decided = "decided" if policy["decided"] == "validation" else "as set for training;"
    return (
        f"{decided} on validation: {policy['repeats']:.1%} of {policy['targets']:,} targets are "
        f"repeats, NDCG@10 as served {policy['ndcg10_hiding']:.4f} with seen items left out, "
        f"{policy['ndcg10_showing']:.4f} with them recommended"
    )


def _words(hides_seen: bool) -> str:
    return "left out" if hides_seen else "recommended again"
