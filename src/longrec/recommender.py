"""The trained thing: a model with its catalog, saved, loaded and asked for recommendations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import polars as pl
import torch

from longrec.artifact.folder import digest_of_weights, read_folder, write_folder
from longrec.config.parse import parse_settings, settings_of
from longrec.config.training import TrainConfig
from longrec.core.arrays import places
from longrec.core.errors import DataError, UsageError
from longrec.data.aligned import align_items
from longrec.data.catalog import Catalog, as_ids
from longrec.data.histories import Histories, open_histories
from longrec.inference.encode import Requests, encode_targets
from longrec.inference.explain import Explanation, check_explains, explain_history
from longrec.models import Model, SequenceModel, build_model
from longrec.retrieval.exact import ExactIndex
from longrec.retrieval.item_mask import as_bits, row_bytes
from longrec.retrieval.similar import similar

if TYPE_CHECKING:
    import pandas as pd

    from longrec.retrieval.index import Index
    from longrec.serving.stores.protocol import Durability
    from longrec.serving.stream.stream import Stream

PERSONAL, COLD = "personal", "cold"
BARRED_BYTES = 1 << 25
"""Bytes of the bits of seen items that are held at once."""


@dataclass(eq=False)
class Recommender:
    """A trained model with its catalog.

    Attributes
    ----------
    name : the model's name in the registry.
    model : in eval mode.
    model_config, train_config : how it was built and trained.
    catalog : item ids; the model's item index i is row i - 1.
    provenance : data, command, seed, commit, machine, how training ended.
    folder : where it is saved, or None.
    base_items : items that it was trained with; None if none were added since.
    """

    name: str
    model: Model
    model_config: Any
    train_config: TrainConfig
    catalog: Catalog
    provenance: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    base_items: int | None = None

    @cached_property
    def state_digest(self) -> str:
        """Hex digest of what shapes users' states: the model's settings and weights.

        Items added after training do not enter: states from before they came stay good.
        """
        weights = dict(self.model.state_dict())
        if isinstance(self.model, SequenceModel):
            end = (self.base_items or self.catalog.n_items) + 1
            weights |= {name: weights[name][:end] for name in self.model.item_tables()}
        return digest_of_weights(weights, model=self.name, config=settings_of(self.model_config))

    @cached_property
    def index(self) -> ExactIndex:
        """Exact search over the catalog, for the weights as they are now."""
        return ExactIndex(self.model)

    @cached_property
    def catalog_version(self) -> str:
        """Hex digest of the items' ids, in their order."""
        return self.catalog.digest()

    @torch.no_grad()
    def with_items(self, ids: Sequence[Any], vectors: torch.Tensor | None = None) -> Recommender:
        """The same recommender with further items, known from now on as events and to recommend.

        States of users stay good, since `state_digest` stays the same; to be trained on the new
        items' events it takes a warm start.

        Parameters
        ----------
        ids : sequence of ids
            New ones, of the catalog's type.
        vectors : Tensor or None
            (len(ids), D), their embeddings; the mean of all items' if left out.

        Raises
        ------
        UsageError
            When an id is known already, is given twice, is of another type, or `vectors` has
            another shape; or when the model has no embeddings.
        """
        if not isinstance(self.model, SequenceModel):
            raise UsageError(f"{self.name} counts items and cannot be given new ones: train it")
        more = as_ids(ids, self.catalog.ids.dtype, "item")
        if more.null_count() or more.n_unique() < len(more) or (self.catalog.find(more) > 0).any():
            raise UsageError(
                f"{len(more)} new items: each must be an id of type {self.catalog.ids.dtype} that "
                "the catalog does not have, and given once"
            )
        weights = self.model.state_dict()
        for name in self.model.item_tables():
            table = weights[name]
            new = table[1:].mean(0).expand(len(more), -1) if vectors is None else vectors.to(table)
            if new.shape != (len(more), table.shape[1]):
                raise UsageError(
                    f"vectors has shape {tuple(new.shape)}; it must be ({len(more)}, "
                    f"{table.shape[1]})"
                )
            weights[name] = torch.cat([table, new])
        none = np.zeros(len(more), np.int64)
        catalog = Catalog(
            pl.concat([self.catalog.ids, more.rename(self.catalog.ids.name)]),
            np.concatenate([self.catalog.counts, none]),
        )
        model = build_model(self.name, self.model_config, catalog.n_items).to(self.model.device)
        model.load_state_dict(weights)
        return replace(
            self,
            model=model.eval(),
            catalog=catalog,
            folder=None,
            base_items=self.base_items or self.catalog.n_items,
        )

    def open_stream(
        self,
        url: str,
        durability: Durability = "power",
        beside: bool = False,
        index: Index | None = None,
    ) -> Stream:
        """Open a store of users, to observe events and recommend at once.

        Parameters
        ----------
        url : str
            `lmdb:///folder` (or a path) or `sqlite:///file` of a store embedded here,
            `redis://host/0` of one shared.
        durability : {"power", "process"}
            What acknowledged events survive.
        beside : bool
            Whether to open a store that serves another model, to build this one's records beside.
        index : Index or None
            How items are found, `longrec.retrieval.index_cache.open_index(self)`; None: exactly.

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
        from longrec.serving.stream.stream import Stream

        return Stream.open(self, url, durability, beside, index)

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
            When the item is unknown, or the model has no item vectors.
        """
        [index] = self.catalog.find([item])
        if not index:
            raise UsageError(f"item is {item!r}, which the catalog does not have")
        items, scores = similar(self.item_vectors(), int(index), k)
        return pl.DataFrame(
            {
                "rank": np.arange(1, len(items) + 1),
                "item": self.catalog.take(items.numpy()),
                "score": scores.numpy(),
            }
        )

    def item_vectors(self) -> torch.Tensor:
        """(n_items + 1, D), row 0 is padding.

        Raises
        ------
        UsageError
            When the model has none.
        """
        if not isinstance(self.model, SequenceModel):
            raise UsageError(f"{self.name} counts items and has no vectors of them")
        return self.model.item_vectors().detach()

    @property
    def limit(self) -> int | None:
        """Most events that this recommender reads of a history; None for all."""
        return self.model.reads(self.train_config.context)

    def data(self) -> Histories:
        """The histories that this was trained on.

        Raises
        ------
        DataError
            When they are gone or have changed since.
        """
        source = self.provenance.get("data", {})
        if "path" not in source:
            raise UsageError("this recommender does not know its histories: pass data=")
        try:
            histories = open_histories(source["path"])
        except DataError as error:
            raise DataError(
                f"{error} (The recommender was trained on it; other histories are passed as data= "
                "or --data.)"
            ) from error
        if histories.fingerprint != source["fingerprint"]:
            raise DataError(
                f"{histories.path} has changed since {self.folder or 'the recommender'} was "
                "trained on it (its fingerprint differs). Pass the histories to use: data= or "
                "--data."
            )
        return histories

    @overload
    def recommend(
        self,
        users: Sequence[Any] | pl.Series | None = ...,
        data: Histories | str | Path | None = ...,
        histories: Sequence[Sequence[Any]] | None = ...,
        k: int = ...,
        exclude_seen: bool = ...,
        frame: Literal["polars"] = ...,
        progress: Callable[[int, int], None] | None = ...,
    ) -> pl.DataFrame: ...

    @overload
    def recommend(
        self,
        users: Sequence[Any] | pl.Series | None = ...,
        data: Histories | str | Path | None = ...,
        histories: Sequence[Sequence[Any]] | None = ...,
        k: int = ...,
        exclude_seen: bool = ...,
        *,
        frame: Literal["pandas"],
        progress: Callable[[int, int], None] | None = ...,
    ) -> pd.DataFrame: ...

    def recommend(
        self,
        users: Sequence[Any] | pl.Series | None = None,
        data: Histories | str | Path | None = None,
        histories: Sequence[Sequence[Any]] | None = None,
        k: int = 10,
        exclude_seen: bool = True,
        frame: Literal["polars", "pandas"] = "polars",
        progress: Callable[[int, int], None] | None = None,
    ) -> pl.DataFrame | pd.DataFrame:
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
        exclude_seen : bool
            Whether to leave out what stands in the history.
        frame : {"polars", "pandas"}
            Kind of the frame returned.
        progress : callable or None
            Called with (events read, events in all).

        Returns
        -------
        frame
            Columns user, rank (from 1), item, score, policy. An unknown user or a history without
            known items gets popular items, scored by their events, and `policy` says "cold"
            instead of "personal". There are fewer than k rows where the items run out.

        Raises
        ------
        UsageError
            When the call is wrong, or the model reads times and there are none.
        DataError
            When the training data is wanted and is gone or has changed.
        """
        if k < 1:
            raise UsageError(f"k is {k}; it must be at least 1")
        if frame not in ("polars", "pandas"):
            raise UsageError(f"frame is {frame!r}; choose 'polars' or 'pandas'")
        if histories is not None:
            if users is not None or data is not None:
                raise UsageError("give either users (with data) or histories, not both")
            ids: pl.Series = pl.Series("user", np.arange(len(histories)))
            items, offsets = self._given(histories)
            times = None
        else:
            data = self._histories(data)
            if users is None:
                rows, ids = np.arange(data.n_users), data.user_ids
            else:
                rows = data.find_users(users)
                ids = _own_ids(users, data.user_ids.dtype)
            items, times, offsets = _gather(data, rows)
            items = align_items(data.catalog, self.catalog)[items]
        found = self._top(items, times, offsets, k, exclude_seen, progress)
        result = found.with_columns(user=ids.gather(found["row"].to_numpy())).select(
            "user", "rank", "item", "score", "policy"
        )
        return _to_pandas(result) if frame == "pandas" else result

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
            Of the history's events, seconds since 1970; needed where the model forgets by time.
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
        check_explains(self.model)
        index = int(self.catalog.find([item])[0])
        if not index:
            raise UsageError(f"item {item!r} is not in the catalog: give one that the model knows")
        if (user is None) == (history is None):
            raise UsageError("give either user (with data) or history (with times)")
        if history is not None:
            if data is not None:
                raise UsageError("a history brings its own events: leave data out")
            items, _ = self._given([history])
            moments = None if times is None else _seconds(times, len(items))
        else:
            if times is not None:
                raise UsageError("times go with a history: a user's events have their own")
            data = self._histories(data)
            rows = data.find_users([user])
            if rows[0] < 0:
                raise UsageError(f"user {user!r} is not in {data.path}: give one that is")
            items, moments, _ = _gather(data, rows)
            items = align_items(data.catalog, self.catalog)[items]
        check_times(self.model, moments)
        return explain_history(
            self.model, self.catalog, index, items, moments, self.limit, progress
        )

    def _histories(self, data: Histories | str | Path | None) -> Histories:
        """The histories asked for; None: those that this was trained on."""
        data = self.data() if data is None else data
        return data if isinstance(data, Histories) else open_histories(data)

    def _given(self, histories: Sequence[Sequence[Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Item indices of given histories, one after the other, and their bounds."""
        for history in histories:
            if isinstance(history, str | bytes) or not hasattr(history, "__len__"):
                raise UsageError(
                    f"histories is a list of histories, each a list of item ids, not {history!r}"
                )
        lengths = [len(history) for history in histories]
        flat = [item for history in histories for item in history]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return self.catalog.find(flat) if flat else np.zeros(0, np.int64), offsets

    def _top(
        self,
        items: np.ndarray,
        times: np.ndarray | None,
        offsets: np.ndarray,
        k: int,
        exclude_seen: bool,
        progress: Callable[[int, int], None] | None,
    ) -> pl.DataFrame:
        """Top k per history as a frame: row, rank, item, score, policy."""
        check_times(self.model, times)
        users = len(offsets) - 1
        known = items > 0
        owner = np.repeat(np.arange(users), np.diff(offsets))[known]
        items, times = items[known], None if times is None else times[known]
        lengths = np.bincount(owner, minlength=users)
        ends = lengths.cumsum()
        warm = np.flatnonzero(lengths)
        read = lengths[warm] if self.limit is None else np.minimum(lengths[warm], self.limit)
        requests = Requests(ends[warm] - read, read, np.arange(len(warm) + 1), read - 1)
        width = min(k, self.catalog.n_items)
        scores = torch.full((users, width), -torch.inf)
        best = torch.zeros((users, width), dtype=torch.int64)

        def use(numbers: np.ndarray, h: torch.Tensor) -> None:
            h = h[torch.from_numpy(np.argsort(numbers)).to(h.device)]
            chosen = warm[np.sort(numbers)]
            at_once = max(1, BARRED_BYTES // row_bytes(self.catalog.n_items))
            for start in range(0, len(chosen), at_once):
                part = chosen[start : start + at_once]
                barred = None
                if exclude_seen:
                    spans = [items[ends[user] - lengths[user] : ends[user]] for user in part]
                    barred = np.stack([as_bits(span, self.catalog.n_items) for span in spans])
                found = self.index.search(h[start : start + at_once], k, barred)
                scores[part], best[part] = found.scores.float(), found.items

        if len(warm):
            events = _Events(items.astype(np.int32), times)
            encode_targets(self.model, events, requests, use, progress)
        cold = np.flatnonzero(lengths == 0)
        if len(cold):
            popular = self.catalog.popular[:width]
            best[cold] = torch.from_numpy(popular)
            scores[cold] = torch.from_numpy(self.catalog.counts[popular - 1]).float()
        policy = np.where(lengths > 0, PERSONAL, COLD)
        rows = pl.DataFrame(
            {
                "row": np.repeat(np.arange(users), width),
                "rank": np.tile(np.arange(1, width + 1), users),
                "index": best.flatten().numpy(),
                "score": scores.flatten().numpy(),
                "policy": np.repeat(policy, width),
            }
        ).filter(pl.col("index") > 0)
        return rows.with_columns(item=self.catalog.take(rows["index"].to_numpy()))

    def save(self, folder: str | Path) -> Path:
        """Write the recommender to a folder; each file appears whole or not at all.

        Raises
        ------
        LongrecError
            When it cannot be written.
        """
        folder = Path(folder)
        config = {
            "model": self.name,
            "model_config": settings_of(self.model_config),
            "train_config": settings_of(self.train_config),
            "base_items": self.base_items,
        }
        write_folder(folder, config, self.model.state_dict(), self.catalog, self.provenance)
        self.folder = folder
        return folder


def load(folder: str | Path) -> Recommender:
    """Read a recommender that `save` or `longrec train` wrote.

    Raises
    ------
    DataError
        When the folder is not a whole recommender of this format: missing, unfinished, truncated,
        edited, or of a newer version. The message says which file and what to do.
    """
    folder = Path(folder)
    config, weights, catalog, provenance = read_folder(folder)
    name = config["model"]
    try:
        model_config, train_config = parse_settings(
            name, config["model_config"] | config["train_config"]
        )
    except UsageError as error:
        raise DataError(f"{folder / 'config.json'}: {error}") from error
    model = build_model(name, model_config, catalog.n_items)
    try:
        model.load_state_dict(weights)
    except (RuntimeError, KeyError) as error:
        raise DataError(
            f"{folder / 'model.safetensors'} does not hold the weights that config.json "
            f"describes: {' '.join(str(error).split())[:300]}"
        ) from error
    return Recommender(
        *(name, model.eval(), model_config, train_config, catalog, provenance, folder),
        base_items=config.get("base_items"),
    )


def check_times(model: Model, times: object) -> None:
    """Raise UsageError where a model that reads times would get events without them."""
    if times is None and model.reads_times:
        raise UsageError(
            "this model forgets by time, and these histories have no times: use histories with "
            "times, or train with forgetting=events"
        )


@dataclass(frozen=True, eq=False)
class _Events:
    """Just what the encoder reads of histories."""

    items: np.ndarray
    times: np.ndarray | None


def _gather(data: Histories, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Items, times and bounds of the histories of some users; row -1 is an empty history."""
    begin = np.where(rows >= 0, data.offsets[:-1][rows], 0)
    lengths = np.where(rows >= 0, data.lengths[rows], 0)
    offsets = np.concatenate([[0], lengths.cumsum()])
    where = places(begin, lengths)
    times = None if data.times is None else data.times[where]
    return data.items[where], times, offsets


def _seconds(times: Sequence[int] | np.ndarray, events: int) -> np.ndarray:
    """Given times as (events,) int64."""
    given = np.asarray(times)
    if given.shape != (events,) or (events and given.dtype.kind not in "iu"):
        raise UsageError(
            f"times is {given.dtype} of shape {given.shape}; give a whole number of seconds since "
            f"1970 for each of the {events:,} events"
        )
    return given.astype(np.int64)


def _own_ids(given: Sequence[Any] | pl.Series, dtype: pl.DataType) -> pl.Series:
    """The ids asked for in the data's own type; as text if some could not be ids of that type."""
    own = as_ids(given, dtype, "user")
    if own.null_count():
        own = pl.Series([None if value is None else str(value) for value in given], dtype=pl.String)
    return own


def _to_pandas(frame: pl.DataFrame) -> pd.DataFrame:
    try:
        return frame.to_pandas()
    except ModuleNotFoundError as error:
        raise UsageError("frame='pandas' needs pandas: pip install pandas") from error
