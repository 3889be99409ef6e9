"""Histories on disk: a folder that is memory-mapped, never loaded.

    HISTORIES/
      meta.json         schema version, counts, what was dropped, sizes of the files, fingerprint
      users.arrow       id                     (n_users,)      sorted, own type
      offsets.arrow     offset                 (n_users + 1,)  int64
      events.arrow      item, time, columns…   (n_events,)     int32, int64 seconds, own types
      catalog.parquet   id, count              (n_items,)

User u's history is `items[offsets[u] : offsets[u + 1]]`, in time order. The Arrow files hold one
uncompressed record batch each, so that every column is one slice of the mapped file: opening costs
the same for a thousand events and for a billion. A folder is written beside its place and renamed,
so that a folder that exists is whole; one that is replaced changes names with the new one.

A folder of shards has `shards.json` in the place of these, and a histories folder for the users of
each shard, all of one catalog. It opens as one, the users of the first shard first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pyarrow as pa

from longrec.core.arguments import check_path, described
from longrec.core.errors import DataError, UsageError
from longrec.core.sealed import SealedKind
from longrec.core.shown import html_facts, html_table
from longrec.data.catalog import Catalog, SortedIds
from longrec.data.event_columns import Column, Columns
from longrec.data.given_ids import check_id, is_list
from longrec.data.history_frames import event_frame, span
from longrec.data.joined import Joined
from longrec.data.mapped import content_digest, map_columns, view
from longrec.data.meta import HistoriesMeta, read_meta
from longrec.data.object_store import address_of, copy_histories
from longrec.data.unknown_ids import likely_cause

SCHEMA_VERSION = 1
FILES = ("users.arrow", "offsets.arrow", "events.arrow", "catalog.parquet")
ITEM_TABLE = "items.parquet"
"""What is known of items beside their events; not every folder has it."""
HISTORIES = SealedKind(
    "a histories folder",
    "meta.json",
    SCHEMA_VERSION,
    mend="prepare the log again",
    made_by="longrec prepare LOG --out HISTORIES",
    with_digests=False,  # to read gigabytes at each opening would cost more than sizes and `verify`
    keys={"files": dict},
    files=FILES,
    version_key="schema_version",
)
SHARDS = SealedKind(
    "a folder of shards of histories",
    "shards.json",
    SCHEMA_VERSION,
    mend=HISTORIES.mend,
    made_by=HISTORIES.made_by,
    with_digests=False,
    keys={"shards": dict},
    version_key="schema_version",
)


def kind_at(path: Path) -> SealedKind:
    """Of which of the two kinds a folder of histories is; the first where nothing is yet."""
    return SHARDS if (path / SHARDS.document).is_file() else HISTORIES


@dataclass(frozen=True, eq=False)
class Histories:
    """An opened histories folder: read-only views of memory-mapped files.

    Of a folder of shards, `items`, `times` and those of `extra` are `longrec.data.joined.Joined`,
    which reads as an array does, and takes the memory of what is read of it.

    Attributes
    ----------
    items
        (n_events,) int32, item indices 1..n_items (0 is padding and never occurs here).
    times
        (n_events,) int64 seconds, or None when the log had no time.
    offsets
        (n_users + 1,) int64; user u's events are `offsets[u]:offsets[u + 1]`.
    user_ids
        (n_users,) sorted, in their own type.
    extra
        further event columns by name, (n_events,) each; text is stored as codes into
        `meta.labels[name]`, -1 where it was null.
    """

    path: Path
    meta: HistoriesMeta
    items: np.ndarray
    times: np.ndarray | None
    offsets: np.ndarray
    user_ids: pl.Series
    catalog: Catalog
    extra: Mapping[str, np.ndarray]
    stamps: Mapping[str, tuple[int, int]]

    @property
    def n_users(self) -> int:
        """Number of users."""
        return self.meta.n_users

    @property
    def n_items(self) -> int:
        """Number of items, without padding."""
        return self.meta.n_items

    @property
    def n_events(self) -> int:
        """Number of events of all users."""
        return self.meta.n_events

    @property
    def fingerprint(self) -> str:
        """Hex digest of the content: ids, offsets, items, times and further columns."""
        return self.meta.fingerprint

    @cached_property
    def lengths(self) -> np.ndarray:
        """Events of each user, (n_users,) int64."""
        lengths: np.ndarray = np.diff(self.offsets)
        return lengths

    @cached_property
    def columns(self) -> dict[str, Column]:
        """What the further event columns hold, by name."""
        words = self.meta.labels
        return {n: Column(tuple(words[n]) if n in words else None) for n in self.extra}

    @property
    def names(self) -> dict[str, str]:
        """The log's own names of its columns user, item and time, as far as they were stated."""
        stated = {role: self.meta.options.get(role) for role in ("user", "item", "time")}
        return {role: name for role, name in stated.items() if name}

    @property
    def item_table(self) -> pl.DataFrame | None:
        """What is known of items beside their events: `item`, further columns; None: nothing."""
        path = self.path / ITEM_TABLE
        return pl.read_parquet(path) if path.is_file() else None

    def read_column(self, name: str, at: np.ndarray) -> np.ndarray:
        """Values of a further column of the events at some places, as models read them."""
        return self.columns[name].read(self.extra[name][at])

    def read_columns(self, columns: Columns, at: np.ndarray) -> dict[str, np.ndarray]:
        """Values of some columns at some places, as a model that was trained on these reads them.

        Words that they lack are -1.
        """
        found = {}
        for name, column in columns.items():
            stored = self.extra[name][at]
            if column.words is not None:
                stored = self.columns[name].recode(stored, column.words)
            found[name] = column.read(stored)
        return found

    def in_words_of(self, columns: Columns) -> Histories:
        """The same with text in the codes of those columns, -1 where they lack a word."""
        codes, words = dict[str, np.ndarray](), dict[str, list[str]]()
        for name, column in self.columns.items():
            other = columns.get(name, column).words
            if column.words is not None and other is not None and other != column.words:
                codes[name] = column.recode(self.extra[name], other)
                words[name] = list(other)
        if not words:
            return self
        meta = replace(self.meta, labels=self.meta.labels | words)
        return replace(self, meta=meta, extra={**self.extra, **codes})

    @cached_property
    def _sorted_users(self) -> SortedIds:
        return SortedIds.of(self.user_ids, "user")

    def find_users(self, ids: Sequence[Any] | pl.Series) -> np.ndarray:
        """Rows (n,) int64 of these users, -1 where unknown; integer ids may come as strings."""
        if not is_list(ids):
            raise UsageError(f"ids is {described(ids)}; give a list of user ids")
        return self._sorted_users.find(ids)

    def __len__(self) -> int:
        return self.n_users

    @property
    def users(self) -> pl.Series:
        """Ids of all users, in the order of their histories: those that `history` takes."""
        return self.user_ids

    def history(self, user: Any) -> pl.DataFrame:
        """One user's events, oldest first.

        Parameters
        ----------
        user : id

        Returns
        -------
        polars.DataFrame
            Columns item (its id), time (UTC) where there are times, and the further columns.

        Raises
        ------
        UsageError
            When there is no such user.
        """
        check_id("user", user)
        row = int(self.find_users([user])[0])
        if row < 0:
            cause = likely_cause([user], self.user_ids)
            raise UsageError(
                f"user {user!r} is not in {self.path}: give one of histories.users"
                + (f" (likely cause: {cause})" if cause else "")
            )
        return self._events(*self.offsets[row : row + 2].tolist())

    def of_users(self, first: int, end: int) -> Histories:
        """Those of some rows of users, to be read and not to be saved."""
        low, high = (int(place) for place in self.offsets[[first, end]])
        return replace(
            self,
            meta=replace(self.meta, n_users=end - first, n_events=high - low),
            items=self.items[low:high],
            times=None if self.times is None else self.times[low:high],
            offsets=self.offsets[first : end + 1] - low,
            user_ids=self.user_ids[first:end],
            extra={name: column[low:high] for name, column in self.extra.items()},
        )

    def to_polars(self) -> pl.DataFrame:
        """All events, user by user: columns user and those of `history`, in memory.

        `longrec.prepare` of it gives the same histories.
        """
        owner = np.repeat(np.arange(self.n_users), self.lengths)
        frame = self._events(0, self.n_events)
        return frame.insert_column(0, self.user_ids.gather(owner).alias("user"))

    def _events(self, start: int, end: int) -> pl.DataFrame:
        here = slice(start, end)
        return event_frame(
            self.catalog.take(self.items[here]),
            None if self.times is None else self.times[here],
            {name: values[here] for name, values in self.extra.items()},
            self.columns,
        )

    def __repr__(self) -> str:
        days = span(self.meta.first_time, self.meta.last_time)
        about = [f"{self.n_users:,} users", f"{self.n_items:,} items", f"{self.n_events:,} events"]
        return f"Histories({str(self.path)!r}: {', '.join([*about, days or 'no times'])})"

    def _repr_html_(self) -> str:
        facts = {
            "users": self.n_users,
            "items": self.n_items,
            "events": self.n_events,
            "events of a user": f"{np.median(self.lengths):,.0f} in the middle, "
            f"{self.lengths.max():,} at most",
            "time": span(self.meta.first_time, self.meta.last_time) or "none",
            "further columns": ", ".join(self.extra),
            "source": self.meta.source,
            "fingerprint": f"{self.fingerprint[:12]}…",
        }
        head = self._events(0, min(5, int(self.offsets[1]))).cast(pl.String)
        first = f"first events of user {self.user_ids[0]}"
        return html_facts(f"histories {self.path}", facts) + html_table(
            first, head.columns, head.rows()
        )

    def check(self) -> None:
        """Raise DataError if a file was replaced, truncated or touched since this was opened.

        Costs a few microseconds; long work calls it now and then, since a mapped file that is
        changed under a run gives other events without a word.
        """
        for name, stamp in self.stamps.items():
            if _stamp(self.path / name) != stamp:
                raise DataError(
                    f"{self.path / name} was changed or removed while it was in use. Start again "
                    "from a histories folder that stays as it is."
                )

    def verify(self) -> None:
        """Read everything again and raise DataError unless it is what was written."""
        self.check()
        if self.items.min() < 1 or self.items.max() > self.n_items:
            bad = int(np.flatnonzero((self.items < 1) | (self.items > self.n_items))[0])
            raise DataError(
                f"{self.path}: event {bad} has item {int(self.items[bad])}, "
                f"outside 1..{self.n_items}: {HISTORIES.mend}."
            )
        for name in self.meta.labels.keys() & self.extra.keys():
            words = self.meta.labels[name]
            if self.n_events and self.extra[name].max() >= len(words):
                raise DataError(
                    f"{self.path / self._document} has {len(words)} labels of {name}, and events "
                    f"have more: {HISTORIES.mend}."
                )
        found = self.digest()
        if found != self.fingerprint:
            raise DataError(
                f"{self.path}: the content has digest {found[:12]}…, {self._document} says "
                f"{self.fingerprint[:12]}…: a file was edited or damaged; {HISTORIES.mend}."
            )

    def digest(self) -> str:
        """The fingerprint of what is there now; every event is read. The same of any shards."""
        return content_digest(
            self.user_ids, self.offsets, self.items, self.times, self.catalog.ids, self.extra
        )

    @property
    def _document(self) -> str:
        return (SHARDS if self.meta.shards else HISTORIES).document

    def __reduce__(self) -> tuple[Any, ...]:
        # A loader's worker maps the files itself instead of receiving a copy of them.
        return open_histories, (self.path,)


def as_histories(name: str, given: Any) -> Histories:
    """Histories that are given as such or by their path, under the name of an argument."""
    if isinstance(given, Histories):
        return given
    wanted = "histories, as longrec.prepare gives them, or the path of their folder"
    return open_histories(check_path(name, given, wanted))


def open_histories(path: Path | str) -> Histories:
    """Open a histories folder; memory-maps it and reads only ids and offsets.

    One in an object store (`s3://…`, `gs://…`) is copied to the user's cache first.

    Raises
    ------
    UsageError
        when `path` is no path.
    DataError
        when it is absent, not a histories folder, of another schema version, truncated or
        inconsistent. A change of bytes that keeps every size is found by `Histories.verify`.
    """
    path = check_path("path", path, "the path of a histories folder")
    address = address_of(path)
    if address is not None:
        path = copy_histories(
            address,
            (SHARDS.document, HISTORIES.document),
            lambda copy: _open(copy, kind_at(copy)).verify(),
        )
    return _open(path, kind_at(path))


def _open(path: Path, kind: SealedKind) -> Histories:
    read = _open_shards if kind is SHARDS else _open_one
    return kind.read_whole(
        path, lambda document, _: read(path, read_meta(path / kind.document, document))
    )


def _open_shards(path: Path, meta: HistoriesMeta) -> Histories:
    """The folders of the shards as one; none of their events is read."""
    shards = []
    for name, fingerprint in meta.shards.items():
        if Path(name).name != name:
            raise DataError(f"{path / SHARDS.document} names {name!r}, which is no shard's folder.")
        if not (path / name).is_dir():
            raise DataError(f"{path / name} is missing: {SHARDS.mend}.")
        shards.append(_open(path / name, HISTORIES))
        if shards[-1].fingerprint != fingerprint:
            raise DataError(
                f"{path / name} is not the shard that {SHARDS.document} names: it was changed or "
                f"put there from elsewhere; {SHARDS.mend}."
            )
    found = sum(one.n_users for one in shards), sum(one.n_events for one in shards)
    if found != (meta.n_users, meta.n_events) or not shards:
        raise DataError(
            f"{path / SHARDS.document} says {meta.n_users:,} users and {meta.n_events:,} events, "
            f"its {len(shards)} shards have {found[0]:,} and {found[1]:,}: {SHARDS.mend}."
        )
    for name, one in zip(meta.shards, shards, strict=True):
        for key in ("n_items", "has_time", "labels"):
            if getattr(one.meta, key) != getattr(meta, key):
                raise DataError(
                    f"{path / SHARDS.document} has another {key} than {name}: {SHARDS.mend}."
                )
    return shards_as_one(path, meta, shards)


def shards_as_one(path: Path, meta: HistoriesMeta, shards: Sequence[Histories]) -> Histories:
    """Histories of one catalog, opened, as one, in the order in which they are given.

    Parameters
    ----------
    path : of the folder in which those of the shards stand.
    meta : what that folder says of all.
    shards : those that `meta.shards` names.
    """
    begins = np.cumsum([0, *(one.n_events for one in shards)])
    offsets = [one.offsets[:-1] + begin for one, begin in zip(shards, begins, strict=False)]

    def joined(columns: list[np.ndarray]) -> np.ndarray:
        return cast(np.ndarray, Joined(columns))  # it stands for one wherever events are read

    times = [one.times for one in shards if one.times is not None]
    return Histories(
        path=path,
        meta=meta,
        items=joined([one.items for one in shards]),
        times=joined(times) if meta.has_time else None,
        offsets=np.concatenate([*offsets, begins[-1:]]),
        user_ids=pl.concat([one.user_ids for one in shards], rechunk=False),
        catalog=shards[0].catalog,
        extra={name: joined([one.extra[name] for one in shards]) for name in shards[0].extra},
        stamps={
            f"{name}/{file}": stamp
            for name, one in zip(meta.shards, shards, strict=True)
            for file, stamp in one.stamps.items()
        },
    )


def _open_one(path: Path, meta: HistoriesMeta) -> Histories:
    if meta.shards:
        raise DataError(
            f"{path / HISTORIES.document} has shards, which {SHARDS.document} alone names: "
            f"{HISTORIES.mend}."
        )
    stamps = {name: _stamp(path / name) for name in FILES}
    for name, (found, _) in stamps.items():
        if found != meta.files.get(name):
            raise DataError(
                f"{path / name} has {found:,} bytes, meta.json says {meta.files.get(name)!s}: the "
                f"file was truncated or changed; {HISTORIES.mend}."
            )
    users = map_columns(path / "users.arrow", {"id": None}, meta.n_users, HISTORIES.mend)
    offsets = map_columns(
        path / "offsets.arrow", {"offset": pa.int64()}, meta.n_users + 1, HISTORIES.mend
    )
    types = {"item": pa.int32()} | ({"time": pa.int64()} if meta.has_time else {})
    events = map_columns(path / "events.arrow", types, meta.n_events, HISTORIES.mend)
    catalog = Catalog.load(path / "catalog.parquet")
    if catalog.n_items != meta.n_items:
        raise DataError(
            f"{path / 'catalog.parquet'} has {catalog.n_items} items, "
            f"meta.json says {meta.n_items}."
        )
    bounds = view(offsets["offset"])
    if bounds[0] != 0 or bounds[-1] != meta.n_events or (np.diff(bounds) < 0).any():
        raise DataError(f"{path / 'offsets.arrow'}: offsets do not rise from 0 to {meta.n_events}.")
    return Histories(
        path=path,
        meta=meta,
        items=view(events["item"]),
        times=view(events["time"]) if meta.has_time else None,
        offsets=bounds,
        user_ids=pl.Series("user", pl.from_arrow(users["id"])),
        catalog=catalog,
        extra={name: view(events[name]) for name in events if name not in ("item", "time")},
        stamps=stamps,
    )


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (-1, -1)
    return stat.st_size, stat.st_mtime_ns
