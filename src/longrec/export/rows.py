"""What users' last items add to scores, as arrays in a file: counts of what followed each item.

    followers.npz
      starts     (n_items + 2,) what followed item a stands at starts[a] .. starts[a + 1] - 1 of
      followers  (pairs,) item indices, and of
      times      (pairs,) how often each followed
      totals     (n_items + 1,) the sum of an item's times    } where the manifest's kind is "log"
      shares     (n_items + 1,) items' shares of all events   }

A reader adds them up with NumPy alone, in the order of serving, so that ties stay ties.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from longrec.core.arrays import Ints
from longrec.core.errors import UsageError
from longrec.models import CountingModel
from longrec.models.baselines import LastItem
from longrec.models.common.scorer import Scorer
from longrec.models.transitions import Transitions, TransitionsScore

FILE = "followers.npz"
Counted = LastItem | TransitionsScore


def counted_rows(scorer: Scorer) -> Counted | None:
    """The counts that are added by users' last items; None where nothing is.

    Raises
    ------
    UsageError
        When they are of a kind that has no form in files, or both the model and its added score
        have some.
    """
    model, added = scorer.model, scorer.added
    parts: list[Any] = [model] if isinstance(model, CountingModel) and model.reach else []
    parts += [added] if added is not None and added.reach else []
    parts = [part.counted if isinstance(part, Transitions) else part for part in parts]
    if len(parts) == 1 and isinstance(parts[0], Counted):
        return parts[0]
    if not parts:
        return None
    if added is None or not added.reach:
        raise UsageError(
            f"{model.name} adds to scores by users' last {parts[0].reach} items, in a way that an "
            "export has no form for: serve it with `longrec serve`"
        )
    raise UsageError(
        f"{model.name} has the added score {added.name!r}, which reads each user's last "
        f"{added.reach} items, and "
        + (
            "so does the model itself; an export has room for one of the two"
            if len(parts) == 2
            else "an export has a form for `transitions` alone"
        )
        + ": export the recommender without it (with_added_score(None)), or serve it with `longrec "
        "serve`"
    )


def write_rows(counted: Counted, folder: Path) -> dict[str, Any]:
    """Write the counts into a folder; -> what the manifest says of them."""
    names = ["starts", "followers", "times"]
    about: dict[str, Any] = {"file": FILE, "last": counted.reach, "kind": "count"}
    arrays = {name: getattr(counted, name).numpy() for name in names}
    if isinstance(counted, TransitionsScore):
        config = counted.config
        about |= {"kind": "log", "decay": config.decay, "prior": config.prior}
        about["weight"] = config.weight
        arrays |= {"totals": counted.totals.double().numpy(), "shares": counted.shares().numpy()}
    np.savez(folder / FILE, **arrays)
    return about


class Rows:
    """The counts of an export, read back.

    Parameters
    ----------
    folder : Path
        With the file.
    about : dict
        What the manifest says of it.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self._about = about
        with np.load(folder / FILE, allow_pickle=False) as file:
            self._arrays = {name: file[name] for name in file.files}

    def added(self, recent: Ints) -> np.ndarray:
        """What is added to all items' scores (n_items + 1,) of one user, float64.

        Parameters
        ----------
        recent : Ints
            The user's last known items, the latest first; 0 where there were none.
        """
        about, arrays = self._about, self._arrays
        starts, followers, times = (arrays[name] for name in ("starts", "followers", "times"))
        added, left = np.zeros(len(starts) - 1), 0.0
        for k, item in enumerate(recent[: about["last"]]):
            here = slice(starts[item], starts[item + 1])
            if about["kind"] == "count":
                added[followers[here]] += times[here]
            elif item:
                weight = about["decay"] ** k / (arrays["totals"][item] + about["prior"])
                left += weight * about["prior"]
                added[followers[here]] += weight * times[here].astype(np.float64)
        if about["kind"] == "log":
            found = np.flatnonzero(added)
            ratio = added[found] / (left * arrays["shares"][found])
            added[found] = about["weight"] * np.log1p(ratio)
        return added
