"""Known answers: what a recommender scored for a few fixed histories when it was saved.

They are saved with it, for every kind of model and with what is added to its scores, and asked
again when it is loaded. So tensors that were renamed, dropped or exchanged, a bit that flipped
between memory and disk, and a longrec or a plugin that computes another model from the same tensors
are told, and serve nobody. The tensors and the items have digests of their own beside them, made
of what was in memory: a few histories do not read every number of a large model.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longrec.artifact.folder import (
    ANSWERS,
    FILES,
    RECOMMENDER,
    Saved,
    digest_of_catalog,
    digest_of_tensors,
)
from longrec.core.arrays import Ints
from longrec.core.errors import DataError, first_line
from longrec.data.event_columns import Column, Columns
from longrec.inference.encode import Events, encode_histories, last_items
from longrec.models.common.scorer import Scorer

LENGTHS = np.array([1, 4, 12, 30])
"""Events of the histories."""
ITEMS = 48
"""Items that are scored for each, besides its `BEST` best ones."""
BEST = 16
TOLERANCE, ROUNDING = 1e-3, 1e-5
"""By how much a score may differ: of the range of its history's scores, and of the largest one.
Processors, devices and versions of PyTorch sum in other orders, and a GPU may round what it
convolves to eleven bits. Over all models float32 is within 4e-7 of the range of float64's; scores
of other tensors differ by about the range itself."""

log = logging.getLogger("longrec.artifact")


def ask(scorer: Scorer, columns: Columns, limit: int | None) -> dict[str, Any]:
    """Histories and what is scored for them now, as a JSON document has them.

    Parameters
    ----------
    scorer : Scorer
        Of a model in eval mode.
    columns : further columns of events, as its training had them.
    limit : int or None
        Most events that are read of a history.

    Returns
    -------
    dict
        "items" (histories, 30), of which each history has the first `LENGTHS`, "times",
        "columns", "candidates" and "scores". Only "failed", why, where the model cannot be asked:
        it can be saved all the same.
    """
    random = np.random.default_rng(0)
    n_items, shape = scorer.n_items, (len(LENGTHS), int(LENGTHS.max()))
    asked: dict[str, Any] = {
        "items": random.integers(1, n_items + 1, shape).tolist(),
        "times": (1_700_000_000 + random.integers(0, 90_000, shape).cumsum(1)).tolist(),
        "columns": {
            name: columns.get(name, Column(())).some(shape, random).tolist()
            for name in scorer.model.reads_columns
        },
    }
    chosen = random.choice(n_items, min(ITEMS, n_items), replace=False) + 1
    candidates = np.tile(chosen, (len(LENGTHS), 1))
    try:
        if scorer.has_vectors:  # else all items would be scored one by one
            every = _scores(scorer, asked, columns, limit, None)
            best = every.topk(min(BEST, n_items)).indices.cpu().numpy()
            candidates = np.concatenate([candidates, best], 1)
        asked["candidates"] = candidates.tolist()
        scores = _scores(scorer, asked, columns, limit, candidates).double().cpu()
    except Exception as error:  # whatever a model of anybody's does
        return {"failed": f"{type(error).__name__}: {first_line(error)}"}
    if not bool(scores.isfinite().all()):
        return {"failed": "a score is not finite"}
    return asked | {"scores": scores.tolist()}


def problem(
    asked: Mapping[str, Any], scorer: Scorer, columns: Columns, limit: int | None
) -> str | None:
    """How what is scored now differs from what `ask` gave when it was saved; None: it does not.

    Raises
    ------
    ValueError, TypeError, KeyError, IndexError
        When the document is none of `ask`.
    """
    if "failed" in asked:
        return None
    wanted = np.array(asked["scores"], np.float64)
    candidates = np.array(asked["candidates"], np.int64)
    if wanted.shape != candidates.shape or wanted.ndim != 2 or not wanted.size:
        raise ValueError("scores and candidates are no tables of one size")
    for name in ("items", "candidates"):
        indices = np.array(asked[name], np.int64)
        if indices.min() < 1 or indices.max() > scorer.n_items:
            raise ValueError(f"{name} has an item that there is not")
    got = _scores(scorer, asked, columns, limit, candidates).double().cpu().numpy()
    largest, least = wanted.max(1, keepdims=True), wanted.min(1, keepdims=True)
    allowed = TOLERANCE * (largest - least) + ROUNDING * np.maximum(abs(largest), abs(least))
    wrong = ~(abs(got - wanted) <= allowed)  # NaN is not below anything
    if not wrong.any():
        return None
    at = tuple(np.argwhere(wrong)[0].tolist())
    return (
        f"{int(wrong.sum())} of {wrong.size} scores differ: item {candidates[at]} after history "
        f"{at[0]} has {got[at]:.6g}, and had {wanted[at]:.6g}"
    )


def check_answers(
    folder: Path, saved: Saved, scorer: Scorer, columns: Columns, limit: int | None
) -> None:
    """Raise DataError unless what was loaded scores as when it was saved, of the same tensors.

    Runs of earlier versions have no known answers: a line of the log says so.
    """
    answers, where = saved.answers, folder / ANSWERS
    if answers is None:
        log.warning(
            "%s was saved by an earlier longrec, without known answers: its files are as they were "
            "written, and what they score is not checked (save it again to have that)",
            folder,
        )
        return
    if answers.get("catalog") != digest_of_catalog(saved.catalog):
        raise DataError(
            f"{folder / FILES[1]} does not hold the items that were saved (catalog in "
            f"{where.name}): {RECOMMENDER.mend}."
        )
    if answers.get("tensors") != digest_of_tensors(saved.weights, saved.added or None):
        raise DataError(
            f"{folder / FILES[0]} does not hold the tensors that were saved, by their names and "
            f"numbers (tensors in {where.name}): {RECOMMENDER.mend}."
        )
    try:
        wrong = problem(answers, scorer, columns, limit)
    except Exception as error:  # a model of anybody's may raise anything
        raise DataError(
            f"{where}: its histories cannot be scored ({type(error).__name__}: "
            f"{first_line(error)}): {RECOMMENDER.mend}."
        ) from error
    if wrong is not None:
        raise DataError(
            f"{folder} does not score as when it was saved, by {where.name}: {wrong}. Its tensors "
            "are the same, so that longrec, PyTorch or a plugin computes another model of them: "
            "use the versions in provenance.json, or retrain."
        )


@torch.inference_mode()
def _scores(
    scorer: Scorer,
    asked: Mapping[str, Any],
    columns: Columns,
    limit: int | None,
    candidates: Ints | None,
) -> Tensor:
    """Scores of candidates (n, C), or of all items, of each history that is asked of."""
    device, ends = scorer.model.device, LENGTHS.cumsum()

    def flat(rows: Any, kind: Any) -> np.ndarray:
        table = np.array(rows, kind)
        return np.concatenate([row[:n] for row, n in zip(table, LENGTHS, strict=True)])

    events = Events(
        flat(asked["items"], np.int64),
        flat(asked["times"], np.int64),
        {
            name: flat(rows, columns.get(name, Column(())).dtype)
            for name, rows in asked["columns"].items()
        },
    )
    found: dict[int, Tensor] = {}

    def use(numbers: Ints, h: Tensor) -> None:
        found.update(zip(numbers.tolist(), h, strict=True))

    encode_histories(scorer.model, events, LENGTHS, limit, use)
    h = torch.stack([found[number] for number in range(len(LENGTHS))])
    items = None if candidates is None else torch.from_numpy(candidates).to(device)
    recent = None
    if scorer.reach:
        recent = last_items(events.items, ends - LENGTHS, ends, scorer.reach).to(device)
    return scorer.score(h, items, recent)
