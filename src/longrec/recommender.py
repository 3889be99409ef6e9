"""The facade: a trained recommender, asked for recommendations, explanations and streams."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl

from longrec.artifact.artifact import Artifact
from longrec.artifact.targets import targets_to_rank
from longrec.core.arguments import check_count, check_flag, check_progress
from longrec.core.choices import Durability, ExcludeSeen, SplitName
from longrec.core.errors import LongrecError, UsageError
from longrec.core.shown import Picture
from longrec.data.aligned import align_events
from longrec.data.catalog import as_ids
from longrec.data.given_histories import as_given_histories
from longrec.data.given_ids import check_id, check_ids, is_list
from longrec.data.given_rows import is_file, read_ids
from longrec.data.histories import Histories
from longrec.data.item_table import ItemTable, as_item_table
from longrec.data.kept_items import kept_table
from longrec.data.unknown_ids import (
    likely_cause,
    unknown_events,
    unknown_items,
    unknown_users,
)
from longrec.evaluation.served_lists import ServedLists
from longrec.inference.encode import (
    Events,
    check_times,
    encode_targets,
    requests_of,
)
from longrec.inference.explain import (
    Explanation,
    check_explains,
    explain_given,
    explain_history,
    find_item,
)
from longrec.retrieval.best_items import best_items
from longrec.retrieval.exact import ExactIndex, similar
from longrec.retrieval.index import COLD, PERSONAL, Index
from longrec.retrieval.restriction import Restriction, restriction, short_lists
from longrec.retrieval.users_lists import Asked, UserWorkers, best_of_users, events_of
from longrec.serving.stream.store_models import new_items
from longrec.serving.stream.stream import Stream

_WHY = {
    (True, False): "they have seen all others",
    (True, True): "all others are seen, excluded, or not among those that may be recommended",
    (False, True): "all others are excluded, or not among those that may be recommended",
    (False, False): "the catalog has no more",
}
"""Why no more items are left, by whether seen items are left out, and others."""
_SEEN_TOO = ". exclude_seen=False (--exclude-seen no) recommends seen items, too"


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
        items: Any = None,
        fresh_counts: float | None = 60.0,
        max_ahead: float | None = 86_400.0,
        another_catalog: bool = False,
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
        items : frame, path or None
            The item table for rules, `stream.recommend(…, where=…)`, as `recommend` takes it; None:
            the one that the histories of training keep, if they do.
        fresh_counts : float or None
            Where `added` is transitions: seconds between two countings of the store's log in the
            background, whose counts serve once they are of more events than training's. None:
            training's serve always.
        max_ahead : float or None
            Seconds that an event's time may be ahead of this machine's clock; later ones are
            refused: all that comes after an event of the future would be late. None: any time.
        another_catalog : bool
            With `beside`, whether this catalog may be another one than that of the model which the
            store serves: events of ids that both have then count as events of this catalog's items.
            A catalog that begins with the old one needs no leave, nor does a run that was trained
            on from the old one's (`warm_start`).

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
        check_flag("beside", beside)
        check_flag("another_catalog", another_catalog)
        served = self.on_cpu()
        index = served.index if index is None else index
        given = None if items is None else as_item_table(items, self.names.get("item"))
        stream = Stream.open(
            *(served, url, durability, beside, index),
            partial(self.item_table, given),
            fresh_counts,
            max_ahead,
            another_catalog,
        )
        if not beside and (count := new_items(stream.store.meta(), served)):
            warnings.warn(
                f"{count:,} items of this catalog are newer than records in {stream.store.url}: "
                "events of them that were logged before do not count, nor as seen, until "
                "stream.apply_new_items() has been called once",
                UserWarning,
                stacklevel=2,
            )
        return stream

    def similar(
        self,
        item: Any,
        k: int = 10,
        *,
        exclude: Any = None,
        among: Any = None,
        where: Any = None,
        items: Any = None,
    ) -> pl.DataFrame:
        """The k items whose vectors point most nearly an item's way, by cosine.

        Parameters
        ----------
        item : id, a list of ids, path or open file
            One item, or several; a file as `recommend` takes it.
        k : int
            Items wanted, of each.
        exclude, among, where, items
            As of `recommend`: which items may be given.

        Returns
        -------
        polars.DataFrame
            Columns rank (from 1), item, score; of several items first similar_to, their ids. There
            are fewer than k rows where the items run out.

        Raises
        ------
        UsageError
            When the item, or all of several, is unknown, or the model has no item vectors (biases
            are none).
        DataError
            When a file cannot be read.

        Warns
        -----
        UserWarning
            Of several items how many are unknown, which have no rows.
        """
        k, vectors = check_count("k", k), self.item_vectors()
        several = is_list(item) or is_file(item)
        if several:
            given = read_ids(item, "item", self.names.get("item")) if is_file(item) else item
            given = check_ids("item", given, "an item id, or a list of them")
            index = self.catalog.find(given) if len(given) else np.zeros(0, np.int64)
            told = unknown_items(given, index, self.catalog, "items", "They have no rows")
            if len(index) and not index.any():
                raise UsageError(f"{told[0].removesuffix('. They have no rows')}: give known ones")
        else:
            index, told = np.array([find_item(self.catalog, item)]), []
        index = index[index > 0]
        limits, more = self._restriction(len(index), exclude, among, where, items)
        found = similar(vectors, index, k, limits)
        n, width = found.items.shape
        rows = found.items.numpy().ravel()
        frame = pl.DataFrame(
            {
                "similar_to": self.catalog.take(np.repeat(index, width)),
                "rank": np.tile(np.arange(1, width + 1), n),
                "item": self.catalog.take(rows),
                "score": found.scores.numpy().ravel(),
            }
        ).filter(pl.Series(rows > 0))
        counts = np.count_nonzero(rows.reshape(n, width), axis=1)
        told += more + short_lists(self.catalog.take(index), counts, k, "items", "no more are left")
        for line in told:
            warnings.warn(line, UserWarning, stacklevel=2)
        return frame if several else frame.drop("similar_to")

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
        from longrec.evaluation.summary import LEADING

        log = self.curve.with_columns(validation=pl.col("ndcg10").fill_nan(None))
        svg = training_curves([ReportRow(self.name, "model", {}, log=log)], LEADING)
        if svg is None:
            raise UsageError(f"this {self.name} has no log of its training, so no curve to plot")
        about = f"training of {self.name}, {len(log):,} validations"
        return Picture(about, with_own_ids(svg, f"curve-{zlib.crc32(svg.encode()):x}"))

    def recommend(
        self,
        users: Sequence[Any] | pl.Series | Path | IO[str] | None = None,
        data: Histories | str | Path | None = None,
        histories: Any = None,
        k: int = 10,
        exclude_seen: ExcludeSeen = "auto",
        progress: Callable[[int, int], None] | None = None,
        *,
        exclude: Any = None,
        among: Any = None,
        where: str | Sequence[str | None] | None = None,
        items: Any = None,
        split: SplitName | None = None,
        protocol: str | None = None,
        cut: str | None = None,
        workers: UserWorkers | None = None,
    ) -> pl.DataFrame:
        """The k best items for users of some data, or for histories given as item ids.

        Parameters
        ----------
        users : sequence of ids, path, open file, or None
            Of a file: an id per line, the column user of a CSV, or JSON lines. None: all users of
            the data.
        data : Histories, path or None
            Where the users' events are; the recommender's own training data by default.
        histories : sequence of sequences, frame of events, path, open file, or None
            Instead of users; oldest event first. An event is an item id, or {"item": …, "time": …,
            "columns": {…}}. A frame, or a CSV, has a row per event with the columns user and item,
            in their order or with a column time; a file of JSON lines has such rows, or lists of
            items, or {"user": …, "history": […]}. Users without a name are numbered from 0.
        k : int
            Items per user.
        exclude_seen : bool or "auto"
            Whether to leave out what stands in the history; "auto": as `exclude_seen` of the
            recommender says.
        progress : callable or None
            Called with (events read, events in all).
        exclude, among : ids, a list of ids for each user, path, open file, or None
            Items that are not to be recommended, and those that alone are. What stands in both, or
            is left out as seen, is not recommended.
        where : str, a list with one for each user, or None
            A rule that the items must fit, by the columns of `items`: what stands behind WHERE in
            SQL, such as "category = 'shoes' AND price < 50".
        items : frame, path or None
            The item table: polars, pandas, Arrow, CSV, JSON lines or Parquet, with a column item;
            or what `item_table` made of one. None: the one that the data's histories keep, or those
            of training.
        split : "test", "validation" or None
            Instead of users: the lists of the targets that `longrec.evaluate` ranks, each for the
            events before its target.
        protocol, cut : str or None
            How the log is cut then; as the recommender was trained if left out.
        workers : UserWorkers or None
            Processes, perhaps of several machines, that recommend to users of the data
            (`longrec.cluster.scoring`). The rows are the same.

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
            How many users, items of histories and items to be left out or chosen from nobody knows,
            with examples and the likely cause, and for which users fewer than k items were left.
        """
        k, hides_seen = check_count("k", k), self.hides_seen(exclude_seen)
        check_progress(progress)
        told = list[str]()
        if split is not None:
            if users is not None or histories is not None:
                raise UsageError("give users, histories or split, one of them")
            if any(one is not None for one in (exclude, among, where, workers)):
                raise UsageError(
                    "a split gives the lists that evaluate ranks: leave exclude, among, where and "
                    "workers out"
                )
            data = self.data(data)
            found, told = self._for_targets(data, split, protocol, cut, k, hides_seen, progress)
            for line in told:
                warnings.warn(line, UserWarning, stacklevel=2)
            return found
        if protocol is not None or cut is not None:
            raise UsageError("protocol and cut go with split, test or validation: give that too")
        if histories is None:
            data = self.data(data)
            ids, rows, told = self._rows_of(users, data)
            limits, more = self._restriction(len(ids), exclude, among, where, items, data)
            asked = Asked(k, hides_seen, limits)
            best, count = best_of_users(self, self.index, data, rows, asked, progress, workers)
            read = int(data.lengths[rows[rows >= 0]].sum())
            told += unknown_events(count, read, data.catalog, self.catalog)
        else:
            if users is not None or data is not None:
                raise UsageError("give either users (with data) or histories, not both")
            if workers is not None:
                raise UsageError("workers read users' histories from data: leave them out")
            given = as_given_histories(histories, self.names)
            ids, lengths = given.users, given.lengths
            columns = given.read_columns(self.name, self.columns) if self.columns else {}
            indices = given.find_items(self.catalog)
            events = Events(indices, given.times, columns)
            told = unknown_items(given.items, indices, self.catalog)
            limits, more = self._restriction(len(ids), exclude, among, where, items)
            best = best_items(self, self.index, events, lengths, k, hides_seen, limits, progress)
        counts = np.count_nonzero(best.items, axis=1)
        restricted = limits.common is not None or limits.own is not None
        why = _WHY[hides_seen, restricted]
        told += more + short_lists(ids, counts, k, "users", why, _SEEN_TOO if hides_seen else "")
        for line in told:
            warnings.warn(line, UserWarning, stacklevel=2)
        n, width = best.items.shape
        index, place = best.items.ravel(), np.repeat(np.arange(n), width)
        found = pl.DataFrame(
            {
                "user": ids.gather(place),
                "rank": np.tile(np.arange(1, width + 1), n),
                "item": self.catalog.take(index),
                "score": best.scores.ravel(),
                "policy": best.policy[place],
            }
        )
        return found.filter(pl.Series(index > 0))  # 0: the items ran out

    def item_table(
        self, given: Any = None, data: Histories | str | Path | None = None
    ) -> ItemTable:
        """The table of items by whose columns rules are: a frame or a file that is given, or else
        what histories keep of items (`prepare(…, items=)`), `data` or those of training.

        Raises
        ------
        UsageError
            When there is none, or no column of it looks like the item ids.
        DataError
            When a file cannot be read.
        """
        if given is not None:
            return as_item_table(given, self.names.get("item"))
        mend = "give it as items= (--items FILE), or prepare the log with items= (--items FILE)"
        found = None if data is None else kept_table(self.data(data))
        if found is None:
            try:
                trained_on = self.data()
            except LongrecError as error:  # the histories of training are gone, or not known
                raise type(error)(f"where is a rule by an item table: {mend}. {error}") from error
            found = kept_table(trained_on)
            if found is None:
                raise UsageError(
                    f"where is a rule by an item table, and {trained_on.path} keeps none: {mend}"
                )
        return found

    def _restriction(
        self, users: int, exclude: Any, among: Any, where: Any, items: Any, data: Any = None
    ) -> tuple[Restriction, list[str]]:
        """What may be recommended to so many users, and what to tell of it."""
        if items is not None and where is None:
            raise UsageError("items is the table for a rule: give that, too, as where=")
        table = partial(self.item_table, items, data)
        item = self.names.get("item")
        return restriction(self.catalog, users, exclude, among, where, table, item)

    def _rows_of(self, users: Any, data: Histories) -> tuple[pl.Series, np.ndarray, list[str]]:
        """Users of the data, None: all: their ids, rows, -1 where unknown, and what to tell."""
        users = read_ids(users, "user", self.names.get("user")) if is_file(users) else users
        if users is None:
            return data.user_ids, np.arange(data.n_users), []
        given = check_ids("users", users, "a list of user ids")
        rows, ids = data.find_users(given), as_ids(given, data.user_ids.dtype, "user")
        return ids, rows, unknown_users(given, rows, data.user_ids, str(data.path))

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
            When the model's attention is not known (only elastic's is) and no score is added to
            its own, the call is wrong, the item or the user is unknown, or no event is of a
            known item.
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
        check_explains(self.scorer)
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
        events, _ = events_of(self, data, row)
        check_times(model, events.times)
        return explain_history(self.scorer, catalog, index, events, self.limit, progress)

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
        read = align_events(data.items, data.catalog, self.catalog)
        count = int(np.count_nonzero(read == 0))
        told = unknown_events(count, len(read), data.catalog, self.catalog)
        counts = np.count_nonzero(lists.items, axis=1)
        users, why = data.user_ids.gather(wanted.users), _WHY[exclude_seen, False]
        told += short_lists(users, counts, k, "users", why, _SEEN_TOO if exclude_seen else "")
        return found.filter(pl.Series(lists.items.ravel() > 0)), told


def load(folder: str | Path) -> Recommender:
    """Read a recommender that `save` or `longrec train` wrote.

    Raises
    ------
    DataError
        When the folder is not a whole recommender of this format: missing, unfinished, truncated,
        edited, or of a newer version. The message says which file and what to do.
    """
    return Recommender.load(folder)
