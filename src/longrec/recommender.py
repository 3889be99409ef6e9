"""The facade: a trained recommender, asked for recommendations, explanations and streams."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from longrec.artifact.artifact import Artifact
from longrec.artifact.targets import targets_to_rank
from longrec.core.arguments import check_count, check_progress, described
from longrec.core.arrays import places
from longrec.core.choices import Durability, ExcludeSeen, SplitName
from longrec.core.errors import UsageError
from longrec.core.shown import Picture
from longrec.data.aligned import align_items
from longrec.data.catalog import as_ids
from longrec.data.event_columns import check_columns
from longrec.data.given_ids import check_id, check_ids, is_list
from longrec.data.histories import Histories
from longrec.data.unknown_ids import (
    likely_cause,
    unknown_events,
    unknown_items,
    unknown_users,
)
from longrec.evaluation.served_lists import SEEN_BYTES, ServedLists
from longrec.inference.encode import (
    Events,
    check_times,
    encode_histories,
    encode_targets,
    last_items,
    requests_of,
)
from longrec.inference.explain import (
    Explanation,
    check_explains,
    explain_given,
    explain_history,
    find_item,
)
from longrec.retrieval.exact import ExactIndex, similar
from longrec.retrieval.index import COLD, PERSONAL, Index, as_bits, row_bytes
from longrec.serving.stream.store_models import new_items
from longrec.serving.stream.stream import Stream


class Recommender(Artifact):
    """A trained model with its catalog, and what it can be asked."""

    @cached_property
    def index(self) -> ExactIndex:
        """Exact search over the catalog, for the scores as they are now."""
        return ExactIndex(self.scorer)

    def open_stream(
        self,
        url: str,
        durability: Durability = "power",
        beside: bool = False,
        index: Index | None = None,
    ) -> Stream:
        """Open a store of users, to observe events and recommend at once, on the CPU.

        A new store knows nobody: `stream.rebuild(histories)` brings in what is known of users.
        Where the catalog has grown since records were made, a warning says to call
        `stream.apply_new_items()`.

        Parameters
        ----------
        url : str
            `lmdb:///folder` (or a path) of a store embedded here, `redis://host/0` of one shared.
        durability : {"power", "process"}
            What acknowledged events survive.
        beside : bool
            Whether to open a store that serves another model, to build this one's records beside:
            `stream.rebuild()` then makes them and lets the store serve this one.
        index : Index or None
            How items are found, `longrec.retrieval.index_cache.open_index(self).index`; None:
            exactly.

        Raises
        ------
        UsageError
            When the model cannot stream (the message says which to train instead), or the call is
            wrong.
        DataError
            When the store serves another model, or cannot be read.
        LongrecError
            When another process writes to it, or it cannot be reached.
        """
        served = self.on_cpu()
        index = served.index if index is None else index
        stream = Stream.open(served, url, durability, beside, index)
        if not beside and (count := new_items(stream.store.meta(), served)):
            warnings.warn(
                f"{count:,} items of this catalog are newer than records in {stream.store.url}: "
                "events of them that were logged before do not count, nor as seen, until "
                "stream.apply_new_items() has been called once",
                UserWarning,
                stacklevel=2,
            )
        return stream

    def similar(self, item: Any, k: int = 10) -> pl.DataFrame:
        """The k items whose vectors point most nearly an item's way, by cosine.

        Parameters
        ----------
        item : id
        k : int
            Items wanted.

        Returns
        -------
        polars.DataFrame
            Columns rank (from 1), item, score.

        Raises
        ------
        UsageError
            When the item is unknown, or the model has no item vectors (biases are none).
        """
        k, index = check_count("k", k), find_item(self.catalog, item)
        items, scores = similar(self.item_vectors(), index, k)
        return pl.DataFrame(
            {
                "rank": np.arange(1, len(items) + 1),
                "item": self.catalog.take(items.numpy()),
                "score": scores.numpy(),
            }
        )

    def plot_curve(self) -> Picture:
        """The training's loss and validation NDCG@10 as served against its seconds.

        Raises
        ------
        UsageError
            When nothing was validated or logged: `curve` has no rows.
        """
        from longrec.evaluation.report.contents import ReportRow
        from longrec.evaluation.report.drawing import with_own_ids
        from longrec.evaluation.report.figures import training_curves

        log = self.curve.with_columns(validation=pl.col("ndcg10").fill_nan(None))
        svg = training_curves([ReportRow(self.name, "model", {}, log=log)])
        if svg is None:
            raise UsageError(f"this {self.name} has no log of its training, so no curve to plot")
        about = f"training of {self.name}, {len(log):,} validations"
        return Picture(about, with_own_ids(svg, f"curve-{zlib.crc32(svg.encode()):x}"))

    def recommend(
        self,
        users: Sequence[Any] | pl.Series | None = None,
        data: Histories | str | Path | None = None,
        histories: Sequence[Sequence[Any]] | None = None,
        k: int = 10,
        exclude_seen: ExcludeSeen = "auto",
        progress: Callable[[int, int], None] | None = None,
        *,
        split: SplitName | None = None,
        protocol: str | None = None,
        cut: str | None = None,
    ) -> pl.DataFrame:
        """The k best items for users of some data, or for histories given as item ids.

        Parameters
        ----------
        users : sequence of ids, or None
            None: all users of the data.
        data : Histories, path or None
            Where the users' events are; the recommender's own training data by default.
        histories : sequence of sequences of item ids, or None
            Instead of users; oldest event first. Users are then numbered from 0.
        k : int
            Items per user.
        exclude_seen : bool or "auto"
            Whether to leave out what stands in the history; "auto": as `exclude_seen` of the
            recommender says.
        progress : callable or None
            Called with (events read, events in all).
        split : "test", "validation" or None
            Instead of users: the lists of the targets that `longrec.evaluate` ranks, each for the
            events before its target.
        protocol, cut : str or None
            How the log is cut then; as the recommender was trained if left out.

        Returns
        -------
        polars.DataFrame
            Columns user, rank (from 1), item, score, policy; of a split also position, the target's
            event in the data, and target, its item. An unknown user or a history without
            known items gets popular items, scored by their events, and `policy` says "cold"
            instead of "personal". There are fewer than k rows where the items run out. `user` has
            the type of the data's users: an id that cannot be of that type stands as null.

        Raises
        ------
        UsageError
            When the call is wrong, or the model reads times and there are none.
        DataError
            When the training data is wanted and is gone or has changed.

        Warns
        -----
        UserWarning
            How many users and items of histories nobody knows, with examples and the likely cause,
            and for which users no item was left, since they have seen all.
        """
        k, hides_seen = check_count("k", k), self.hides_seen(exclude_seen)
        check_progress(progress)
        told = list[str]()
        if split is not None:
            if users is not None or histories is not None:
                raise UsageError("give users, histories or split, one of them")
            data = self.data(data)
            found, told = self._for_targets(data, split, protocol, cut, k, hides_seen, progress)
            for line in told:
                warnings.warn(line, UserWarning, stacklevel=2)
            return found
        if protocol is not None or cut is not None:
            raise UsageError("protocol and cut go with split, test or validation: give that too")
        if histories is None:
            given = None if users is None else check_ids("users", users, "a list of user ids")
            data = self.data(data)
            if given is None:
                rows, ids = np.arange(data.n_users), data.user_ids
            else:
                rows, ids = data.find_users(given), as_ids(given, data.user_ids.dtype, "user")
                told += unknown_users(given, rows, data.user_ids, str(data.path))
            events, lengths = self._events_of(data, rows)
            told += unknown_events(events.items, data.catalog, self.catalog)
        else:
            if users is not None or data is not None:
                raise UsageError("give either users (with data) or histories, not both")
            _check_histories(histories)
            ids = pl.Series(np.arange(len(histories)))
            lengths = np.array([len(history) for history in histories], np.int64)
            if self.model.reads_columns:
                raise UsageError(
                    f"{self.name} reads {' and '.join(self.model.reads_columns)} of each event, "
                    "which these histories do not have: give users with data=, or open a stream"
                )
            flat = [item for history in histories for item in history]
            events = Events(self.catalog.find(flat) if flat else np.zeros(0, np.int64), None)
            told += unknown_items(flat, events.items, self.catalog)
        found = self._top_k(ids, events, lengths, k, hides_seen, progress)
        served = found.get_column("user").unique()
        told += _without_items(ids.filter(~ids.is_in(served.implode(), nulls_equal=True)), len(ids))
        for line in told:
            warnings.warn(line, UserWarning, stacklevel=2)
        return found

    def explain(
        self,
        item: Any,
        user: Any = None,
        data: Histories | str | Path | None = None,
        history: Sequence[Any] | None = None,
        times: Sequence[int] | np.ndarray | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Explanation:
        """What the model read of a history for an item: attention by past event, not cause.

        It reads the whole history, twice: O(T).

        Parameters
        ----------
        item : id
            Recommended or not.
        user : id
            A user of the data.
        data : Histories, path or None
            Where the user's events are; the recommender's own training data by default.
        history : sequence of item ids, or None
            Instead of a user; oldest event first.
        times : sequence of ints, or None
            Of the history's events, seconds since 1970; needed where the model reads times.
        progress : callable or None
            Called with (events read, events to read).

        Raises
        ------
        UsageError
            When the model's attention is not known (only elastic's is), the call is wrong, the item
            or the user is unknown, or no event is of a known item.
        DataError
            When the training data is wanted and is gone or has changed.
        """
        if (user is None) == (history is None):
            raise UsageError("give either user (with data) or history (with times)")
        check_progress(progress)
        model, catalog = self.model, self.catalog
        if history is not None:
            if data is not None:
                raise UsageError("a history brings its own events: leave data out")
            given = check_ids("history", history, "a list of item ids")
            found = explain_given(self.scorer, catalog, item, given, times, self.limit, progress)
            for line in unknown_items(given, catalog.find(given), catalog):
                warnings.warn(line, UserWarning, stacklevel=2)
            return found
        if times is not None:
            raise UsageError("times go with a history: a user's events have their own")
        check_explains(model)
        check_id("user", user)
        index = find_item(catalog, item)
        data = self.data(data)
        row = data.find_users([user])
        if row[0] < 0:
            cause = likely_cause([user], data.user_ids)
            raise UsageError(
                f"user {user!r} is not in {data.path}: give one that is"
                + (f" (likely cause: {cause})" if cause else "")
            )
        events, _ = self._events_of(data, row)
        check_times(model, events.times)
        return explain_history(self.scorer, catalog, index, events, self.limit, progress)

    def _events_of(self, data: Histories, rows: np.ndarray) -> tuple[Events, np.ndarray]:
        """The events of some users in this catalog's item indices, and how many are whose.

        Row -1 is a user without events; item 0 is an item that the catalog does not have. Text of
        columns that the model reads is in the codes that it was trained with.
        """
        check_columns(self.name, self.columns, data.columns, data.path, self.columns)
        lengths = np.where(rows >= 0, data.lengths[rows], 0)
        where = places(np.where(rows >= 0, data.offsets[:-1][rows], 0), lengths)
        items = align_items(data.catalog, self.catalog)[data.items[where]]
        times = None if data.times is None else data.times[where]
        return Events(items, times, data.read_columns(self.columns, where)), lengths

    def _for_targets(
        self,
        data: Histories,
        split: SplitName,
        protocol: str | None,
        cut: str | None,
        k: int,
        exclude_seen: bool,
        progress: Callable[[int, int], None] | None,
    ) -> tuple[pl.DataFrame, list[str]]:
        """The frame of `recommend` for the targets of a split, and what to tell."""
        if "refit" in self.provenance:
            raise UsageError(
                "this is a final run, trained on all events, so that lists for its targets would "
                "flatter it: ask the run that was measured, or recommend to users"
            )
        asked = targets_to_rank(self, data, split, protocol, cut)
        known, targets, wanted = asked.histories, asked.targets, asked.wanted
        popular, counts = self.catalog.popular, self.catalog.counts
        lists = ServedLists(
            *(self.scorer, self.index, known, targets, k, exclude_seen, popular, counts)
        )
        requests = requests_of(known, targets, self.limit, self.model.causal)
        encode_targets(self.model, known, requests, lists.use, progress)
        n, width = lists.items.shape
        row = np.repeat(np.arange(n), width)
        found = pl.DataFrame(
            {
                "user": data.user_ids.gather(wanted.users[row]),
                "position": wanted.positions[row],
                "target": data.catalog.take(data.items[wanted.positions]).gather(row),
                "rank": np.tile(np.arange(1, width + 1), n),
                "item": self.catalog.take(lists.items.ravel()),
                "score": lists.scores.ravel(),
                "policy": np.where(lists.cold, COLD, PERSONAL)[row],
            }
        )
        told = unknown_events(
            align_items(data.catalog, self.catalog)[data.items], data.catalog, self.catalog
        )
        told += _without_items(data.user_ids.gather(wanted.users[lists.items[:, 0] == 0]), n)
        return found.filter(pl.Series(lists.items.ravel() > 0)), told

    def _top_k(
        self,
        users: pl.Series,
        events: Events,
        lengths: np.ndarray,
        k: int,
        exclude_seen: bool,
        progress: Callable[[int, int], None] | None,
    ) -> pl.DataFrame:
        """The frame of `recommend` for users with so many events each, one user after the other."""
        check_times(self.model, events.times)
        n_users, n_items = len(lengths), self.catalog.n_items
        known = events.items > 0
        owner = np.repeat(np.arange(n_users), lengths)[known]
        events = events.where(known)
        items = events.items
        lengths = np.bincount(owner, minlength=n_users)
        ends = lengths.cumsum()
        width = min(k, n_items)
        scores = torch.full((n_users, width), -torch.inf)
        best = torch.zeros((n_users, width), dtype=torch.int64)
        users_at_once = max(1, SEEN_BYTES // row_bytes(n_items))
        reach = self.scorer.reach

        def search(rows: np.ndarray, h: torch.Tensor) -> None:
            h = h[torch.from_numpy(np.argsort(rows)).to(h.device)]
            rows = np.sort(rows)
            for start in range(0, len(rows), users_at_once):
                part = rows[start : start + users_at_once]
                seen = None
                if exclude_seen:
                    histories = [items[ends[row] - lengths[row] : ends[row]] for row in part]
                    seen = np.stack([as_bits(history, n_items) for history in histories])
                recent = last_items(items, ends[part] - lengths[part], ends[part], reach)
                found = self.index.search(h[start : start + users_at_once], k, seen, recent)
                scores[part], best[part] = found.scores.float(), found.items

        events = events._replace(items=items.astype(np.int32))
        encode_histories(self.model, events, lengths, self.limit, search, progress)
        cold = np.flatnonzero(lengths == 0)
        if len(cold):
            popular = self.catalog.popular[:width]
            best[cold] = torch.from_numpy(popular)
            scores[cold] = torch.from_numpy(self.catalog.counts[popular - 1]).float()
        index = best.flatten().numpy()
        found = pl.DataFrame(
            {
                "user": users.gather(np.repeat(np.arange(n_users), width)),
                "rank": np.tile(np.arange(1, width + 1), n_users),
                "item": self.catalog.take(index),
                "score": scores.flatten().numpy(),
                "policy": np.repeat(np.where(lengths > 0, PERSONAL, COLD), width),
            }
        )
        return found.filter(pl.Series(index > 0))  # 0: the items ran out


def load(folder: str | Path) -> Recommender:
    """Read a recommender that `save` or `longrec train` wrote.

    Raises
    ------
    DataError
        When the folder is not a whole recommender of this format: missing, unfinished, truncated,
        edited, or of a newer version. The message says which file and what to do.
    """
    return Recommender.load(folder)


def _check_histories(histories: object) -> None:
    """Histories as they are given: a list of lists of item ids."""
    wanted = "a list of histories, each a list of item ids"
    if not is_list(histories):
        raise UsageError(f"histories is {described(histories)}; give {wanted}")
    for number, history in enumerate(histories):  # type: ignore[arg-type, var-annotated]
        check_ids(f"histories.{number}", history, wanted)


def _without_items(left: pl.Series, asked: int) -> list[str]:
    """What to tell of users for whom no item was left, of so many lists."""
    if not len(left):
        return []
    some = ", ".join(map(repr, left.head(3).to_list())) + (", …" if len(left) > 3 else "")
    return [
        f"{len(left):,} of {asked:,} users have seen every item, so that none is left to "
        f"recommend: {some}. exclude_seen=False (--exclude-seen no) recommends seen items, too"
    ]
