"""Records held against what the log itself gives: every event replayed into an empty record."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from longrec.artifact.artifact import Artifact
from longrec.serving.records.engine import Engine
from longrec.serving.stores.protocol import Store, StoredUser
from longrec.serving.stream.catch_up import bitmap, catch_up
from longrec.serving.stream.id_keys import ItemIndex

TOLERANCE = 1e-4
"""Of the standard deviation of a user's scores: what rounding in another order may change."""
SCORES_AT_ONCE = 1 << 22
NONE = np.zeros(0, np.int64)


class Replay:
    """A recommender's model, to replay logs with.

    Raises
    ------
    UsageError
        When the model cannot stream.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.engine, self.model = Engine(artifact), artifact.model
        self.items = ItemIndex(artifact.catalog)
        self.digest = self.engine.digest

    def compare(self, store: Store, users: Sequence[tuple[bytes, StoredUser]]) -> list[str]:
        """How each user's record, which can be read, stands to a replay up to the same event.

        Returns
        -------
        list of str
            "same"; "differing"; "bitmap" (of seen items, differing); "outdated": it skipped items
            that are known by now, which a rebuild takes in; "gone": the log was replaced meanwhile.
        """
        if not users:
            return []
        stored = self.engine.layout.load([stored_user.record for _, stored_user in users])
        fresh = self.engine.layout.load([None] * len(users))
        ends = stored["sequence"].tolist()
        asked = [
            stored_user._replace(last=end)
            for (_, stored_user), end in zip(users, ends, strict=True)
        ]
        names = [user for user, _ in users]
        replayed = catch_up(store, self.engine, self.items, names, asked, fresh)
        gone = fresh["sequence"] != stored["sequence"]
        outdated = stored["skipped"] > fresh["skipped"]
        same = self._same(stored, fresh)
        found = []
        for row, (_, stored_user) in enumerate(users):
            if gone[row] or outdated[row]:
                found.append("gone" if gone[row] else "outdated")
            elif not same[row]:
                found.append("differing")
            else:
                alike = bitmap(replayed.get(row, NONE)) == stored_user.seen.rstrip(b"\0")
                found.append("same" if alike else "bitmap")
        return found

    def _same(self, stored: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        """Per row whether counts are equal, and scores now and after one more event nearly so."""
        same = np.ones(len(stored), bool)
        for name in ("skipped", "late", *self.engine.layout.fields):
            # Counts and times; but of several whole numbers, such as slots of a memory, rounding
            # may choose others.
            if stored[name].ndim == 1 and stored[name].dtype.kind == "i":
                same &= stored[name] == fresh[name]
        if self.engine.window is not None:  # all that there is
            return same
        known = fresh["sequence"] > fresh["skipped"]
        if known.any():
            same[known] &= self._close(stored[known], fresh[known])
        # One event more, so that what the next scores are made of is held against it, too.
        probe = [[(1, max(0, int(time)))] for time in fresh["time"]]
        self.engine.advance(fresh, probe)
        try:
            self.engine.advance(stored, probe)
        except (IndexError, RuntimeError):  # a state with a place that there is not
            for row in range(len(stored)):
                same[row] &= self._advances(stored[row : row + 1], probe[row])
        same &= self._close(stored, fresh)
        return same

    def _advances(self, record: np.ndarray, events: list[tuple[int, int]]) -> bool:
        try:
            self.engine.advance(record, [events])
        except (IndexError, RuntimeError):
            return False
        return True

    @torch.inference_mode()
    def _close(self, stored: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        block = max(1, SCORES_AT_ONCE // (self.model.n_items + 1))
        found = []
        for start in range(0, len(stored), block):
            here = slice(start, start + block)
            theirs, ours = (
                self.model.score(self.engine.read(records[here]))[:, 1:].double()
                for records in (stored, fresh)
            )
            apart = (theirs - ours).abs().amax(1)
            found.append(apart <= TOLERANCE * ours.std(1, correction=0))  # NaN is not
        return torch.cat(found).cpu().numpy()
