"""A script played by several at once; all answers are held against the library's as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from congruence.parties import Answer, Library, Party
from congruence.scripts import Ask, Forget, Look, Observe, Step
from congruence.systems import FIRST, twins_of

from longrec.recommender import Recommender

OF_SPREAD, OF_SCORE = 1e-4, 1e-4
"""What scores by two ways to read a history may differ by."""


def play(steps: Sequence[Step], library: Library, parties: Mapping[str, Party]) -> None:
    """Play a script; AssertionError at the first answer that differs, with all that led to it."""
    for number, step in enumerate(steps):
        wanted = _play(step, library)
        for name, party in parties.items():
            found = _play(step, party)
            wrong = _difference(wanted, found) or _wrong_ties(library.rec, found)
            assert not wrong, f"step {number}, {step}: {name} gives {found}, {wrong} of {wanted}"


def _play(step: Step, party: Party) -> object:
    if isinstance(step, Observe):
        return party.observe(step.events)
    if isinstance(step, Forget):
        return party.forget(step.user)
    if isinstance(step, Ask):
        return party.ask(step)
    if isinstance(step, Look):
        return party.look(step.user)
    party.simply(step.what)
    return None


def _difference(wanted: object, found: object) -> str:
    """What is different in another's answer to the same question; "": nothing."""
    if isinstance(wanted, Answer):
        assert isinstance(found, Answer)
        if found.unknown not in (None, wanted.unknown):
            return "another number of unknown items than"
        return difference_of_lists(wanted, found)
    if isinstance(wanted, tuple):
        assert isinstance(found, tuple)
        pairs = zip(wanted, found, strict=True)
        return "" if all(b is None or a == b for a, b in pairs) else "other counts than"
    return "" if wanted == found else "not the same as"


def difference_of_lists(wanted: Answer, found: Answer) -> str:
    """The same for lists: equal but where scores of items of different vectors are equal to
    rounding."""
    if wanted.policy != found.policy or len(wanted.items) != len(found.items):
        return "another policy or length than"
    if len(set(found.items)) < len(found.items):
        return "an item twice, unlike one"
    if not wanted.items:
        return ""
    mine, theirs = np.array(wanted.scores), np.array(found.scores)
    if wanted.policy == "cold":
        same = wanted.items == found.items and (mine == theirs).all()
        return "" if same else "other popular items than those"
    near = OF_SPREAD * np.std(mine) + OF_SCORE * np.abs(mine).max()
    if (np.abs(mine - theirs) > near).any():
        return "other scores than those"
    order = dict(zip(wanted.items, wanted.scores, strict=True))
    least = mine.min()
    for item, score in zip(found.items, theirs, strict=True):
        if abs(order.get(item, least) - score) > 2 * near:
            return f"item {item} at another place than one"
    return ""


def _wrong_ties(rec: Recommender, answer: object) -> str:
    """What is wrong with the equal scores of a list."""
    if not isinstance(answer, Answer):
        return ""
    ordered = list(zip([-score for score in answer.scores], answer.items, strict=True))
    if answer.policy == "personal" and sorted(ordered) != ordered:
        return "equal scores in another order than the catalog's, unlike one"
    score = dict(zip(answer.items, answer.scores, strict=True))
    for pair in twins_of(rec):
        one, other = (score.get(FIRST + index - 1) for index in pair)
        if one is not None and other is not None and answer.policy == "personal" and one != other:
            return f"other scores for items {pair} of one vector, unlike one"
    return ""
