"""What users' last items add to scores, as arrays in a file: counts of what followed each item.

    followers.npz
      starts     (n_items + 2,) what followed item a stands at starts[a] .. starts[a + 1] - 1 of
      followers  (pairs,) item indices, and of
      times      (pairs,) how often each followed, or how similar it is
      totals     (n_items + 1,) the sum of an item's times    } where the manifest's kind is "log"
      shares     (n_items + 1,) items' shares of all events   }
      weights    (n_items + 1, n_items + 1) instead of all these, where every pair of items has one:
                 row a is what item a adds to all items
      bias       (n_items + 1,) what is taken back where something was added, where it is "sum"

The kinds: "count" adds what is there, "sum" of each item once, as models/common/last_items.py has
it, and "log" as models/transitions.py.

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
from longrec.models.ease import EASE
from longrec.models.item_knn import ItemKNN
from longrec.models.transitions import Transitions, TransitionsScore

FILE = "followers.npz"
Counted = LastItem | TransitionsScore | ItemKNN | EASE


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
    names = ["weights"] if isinstance(counted, EASE) else ["starts", "followers", "times"]
    about: dict[str, Any] = {"file": FILE, "last": counted.reach, "kind": "count"}
    arrays = {name: getattr(counted, name).numpy() for name in names}
    if isinstance(counted, ItemKNN | EASE):
        about |= {"kind": "sum", "decay": counted.decay}
        arrays["bias"] = counted.bias().numpy()
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
        one = self._arrays.get("weights")
        self._width = len(self._arrays["starts"]) - 1 if one is None else len(one)

    def added(self, recent: Ints) -> np.ndarray:
        """What is added to all items' scores (n_items + 1,) of one user, float64.

        Parameters
        ----------
        recent : Ints
            The user's last known items, the latest first; 0 where there were none.
        """
        about, arrays = self._about, self._arrays
        added, left = np.zeros(self._width), 0.0
        for k, item in enumerate(recent[: about["last"]]):
            if about["kind"] == "count":
                self._add(added, item, 1.0)
            elif about["kind"] == "sum":
                if item and item not in recent[:k]:
                    self._add(added, item, about["decay"] ** k)
            elif item:
                weight = about["decay"] ** k / (arrays["totals"][item] + about["prior"])
                left += weight * about["prior"]
                self._add(added, item, weight)
        found = np.flatnonzero(added)
        if about["kind"] == "sum":
            said = added[found].astype(np.float32).astype(np.float64)
            added[found] = said - arrays["bias"][found]
        elif about["kind"] == "log":
            ratio = added[found] / (left * arrays["shares"][found])
            added[found] = about["weight"] * np.log1p(ratio)
        return added

    def _add(self, added: np.ndarray, item: int, weight: float) -> None:
        """Add what one item says, in the order of sums that serving has."""
        arrays = self._arrays
        if "weights" in arrays:
            added += weight * arrays["weights"][item].astype(np.float64)
            return
        here = slice(arrays["starts"][item], arrays["starts"][item + 1])
        added[arrays["followers"][here]] += weight * arrays["times"][here].astype(np.float64)
