"""Records compared with what the log gives: every event replayed into an empty record."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from longrec.artifact.artifact import Artifact
from longrec.serving.records.engine import Engine, Moment
from longrec.serving.records.record import RECENT
from longrec.serving.stores.protocol import Event, Store, StoredUser
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
        artifact = artifact.on_cpu()
        self.engine, self.scorer = Engine(artifact), artifact.scorer
        self.items = ItemIndex(artifact.catalog)
        self.digest = self.engine.digest

    def compare(self, store: Store, users: Sequence[tuple[bytes, StoredUser]]) -> list[str]:
        """How each user's record, which can be read, stands to a replay up to the same event.

        Returns
        -------
        list of str
            "same"; "differing"; "bitmap" (of seen items, differing); "outdated": it skipped items
            that are known by now, which a rebuild takes in; "replaced": the log was, meanwhile.
        """
        if not users:
            return []
        names, read = zip(*users, strict=True)
        stored = self.engine.layout.load([user.record for user in read])
        fresh = self.engine.layout.load([None] * len(users))
        ends = stored["sequence"].tolist()
        asked = [user._replace(last=end) for user, end in zip(read, ends, strict=True)]
        replayed = catch_up(store, self.engine, self.items, names, asked, fresh)
        replaced = fresh["sequence"] != stored["sequence"]
        outdated = stored["skipped"] > fresh["skipped"]
        other_items = [
            bitmap(replayed.get(row, NONE)) != user.seen.rstrip(b"\0")
            for row, user in enumerate(read)
        ]
        kinds = np.select(
            [replaced, outdated, ~self._same(stored, fresh), other_items],
            ["replaced", "outdated", "differing", "bitmap"],
            "same",
        )
        return [str(kind) for kind in kinds]

    def _same(self, stored: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        """Per row whether counts are equal, and scores now and after one more event nearly so."""
        same = np.ones(len(stored), bool)
        for name in ("skipped", "late", *self.engine.layout.fields):
            # Counts and times; but of several whole numbers, such as slots of a memory, rounding
            # may choose others.
            if stored[name].ndim == 1 and stored[name].dtype.kind == "i":
                same &= stored[name] == fresh[name]
        if self.engine.reach:
            same &= (stored[RECENT] == fresh[RECENT]).all(1)
        if self.engine.window is not None:  # all that there is
            return same
        known = fresh["sequence"] > fresh["skipped"]
        if known.any():
            same[known] &= self._close(stored[known], fresh[known])
        # One event more, so that what the next scores are made of is compared, too.
        next_events = [Event(max(0, int(time)), b"", None) for time in fresh["time"]]
        probe = [self.engine.moments([1], [event]) for event in next_events]
        self.engine.advance(fresh, probe)
        try:
            self.engine.advance(stored, probe)
        except (IndexError, RuntimeError):  # a state with a place that there is not
            for row in range(len(stored)):
                same[row] &= self._advances(stored[row : row + 1], probe[row])
        same &= self._close(stored, fresh)
        return same

    def _advances(self, record: np.ndarray, events: list[Moment]) -> bool:
        try:
            self.engine.advance(record, [events])
        except (IndexError, RuntimeError):
            return False
        return True

    def _scores(self, records: np.ndarray) -> Tensor:
        h, recent = self.engine.read(records), self.engine.recent(records)
        return self.scorer.score(h, recent=recent)[:, 1:].double()

    @torch.inference_mode()
    def _close(self, stored: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        """Per row whether scores are nearly equal."""
        at_once = max(1, SCORES_AT_ONCE // (self.scorer.n_items + 1))
        close = []
        for start in range(0, len(stored), at_once):
            rows = slice(start, start + at_once)
            theirs, ours = (self._scores(records[rows]) for records in (stored, fresh))
            difference = (theirs - ours).abs().amax(1)
            close.append(difference <= TOLERANCE * ours.std(1, correction=0))  # NaN is not
        return torch.cat(close).cpu().numpy()
