"""What is said of a recommender's policy on items that a user has seen."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from longrec.artifact.policy import seen_items_line

MEASURED = {"targets": 1_083, "repeats": 0.724, "ndcg10_hiding": 0.0211, "ndcg10_showing": 0.40123}


@pytest.mark.parametrize(
    ("hides", "policy", "asked", "words"),
    [
        (
            False,
            {"decided": "validation"} | MEASURED,
            "auto",
            "seen items: recommended again (decided on validation: 72.4% of 1,083 targets are "
            "repeats, NDCG@10 as served 0.0211 with seen items left out, 0.4012 with them "
            "recommended)",
        ),
        (True, {"decided": "setting"} | MEASURED, "auto", "left out (as set for training; on val"),
        (True, {"decided": "setting"}, "auto", "left out (as set for training)"),
        (True, {"decided": "default"}, "auto", "left out (the default: nothing was validated)"),
        (True, None, "auto", "left out (the default: it was not decided on validation)"),
        (True, None, False, "recommended again (as asked; by itself this recommender has them le"),
    ],
)
def test_the_line_says_what_and_why(hides, policy, asked, words):
    artifact = SimpleNamespace(
        exclude_seen=hides,
        provenance={} if policy is None else {"policy": {"exclude_seen": hides} | policy},
        hides_seen=lambda given: hides if given == "auto" else given,
    )
    assert words in seen_items_line(artifact, asked)
