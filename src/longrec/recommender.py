"""The trained thing: a model with its catalog, saved, loaded and asked for recommendations.

RUN/
  config.json          format, model, settings, digests of the other files
  model.safetensors    weights
  catalog.parquet      item ids and counts
  provenance.json      data, command, seed, commit, machine, how training ended
  log.csv              one row per validation
  metrics.json, ranks.parquet   of the last evaluation
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from longrec.data.aligned import align_items
from longrec.data.catalog import Catalog
from longrec.data.histories import Histories, open_histories
from longrec.errors import DataError, LongrecError, UsageError
from longrec.evaluation.ranking import Requests, encode_targets
from longrec.models import Model, build_model
from longrec.retrieval.exact import top_k
from longrec.settings import parse_settings, settings_of
from longrec.training.checkpoint import sync, write_text
from longrec.training.config import TrainConfig

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
FILES = ("model.safetensors", "catalog.parquet", "provenance.json")
PERSONAL, COLD = "personal", "cold"


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
    """

    name: str
    model: Model
    model_config: Any
    train_config: TrainConfig
    catalog: Catalog
    provenance: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def limit(self) -> int | None:
        """Most events that this recommender reads of a history; None for all."""
        limits = [n for n in (self.train_config.context, self.model.max_length) if n is not None]
        return min(limits, default=None)

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
        histories = open_histories(source["path"])
        if histories.fingerprint != source["fingerprint"]:
            raise DataError(
                f"{histories.path} has changed since {self.folder or 'the recommender'} was "
                "trained on it (its fingerprint differs). Pass the histories to use: data= or "
                "--data."
            )
        return histories

    def recommend(
        self,
        users: Sequence[Any] | pl.Series | None = None,
        data: Histories | None = None,
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
            None with `data`: all of its users.
        data : Histories or None
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
            known items gets popular items, and `policy` says "cold" instead of "personal".
        """
        if k < 1:
            raise UsageError(f"k is {k}; it must be at least 1")
        if histories is not None:
            if users is not None or data is not None:
                raise UsageError("give either users (with data) or histories, not both")
            ids: pl.Series = pl.Series("user", np.arange(len(histories)))
            items, offsets = self._given(histories)
            times = None
        else:
            data = self.data() if data is None else data
            if users is None:
                rows, ids = np.arange(data.n_users), data.user_ids
            else:
                rows = data.find_users(users)
                ids = users if isinstance(users, pl.Series) else pl.Series("user", list(users))
                ids = _as_own_ids(ids, data.user_ids, rows)
            items, times, offsets = _gather(data, rows)
            items = align_items(data.catalog, self.catalog)[items]
        found = self._top(items, times, offsets, k, exclude_seen, progress)
        result = found.with_columns(user=ids.gather(found["row"].to_numpy())).select(
            "user", "rank", "item", "score", "policy"
        )
        return result.to_pandas() if frame == "pandas" else result

    def _given(self, histories: Sequence[Sequence[Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Item indices of given histories, one after the other, and their bounds."""
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
        users = len(offsets) - 1
        known = items > 0
        owner = np.repeat(np.arange(users), np.diff(offsets))[known]
        items, times = items[known], None if times is None else times[known]
        lengths = np.bincount(owner, minlength=users)
        ends = lengths.cumsum()
        warm = np.flatnonzero(lengths)
        read = lengths[warm] if self.limit is None else np.minimum(lengths[warm], self.limit)
        requests = Requests(ends[warm] - read, read, np.arange(len(warm) + 1), read - 1)
        seen_rows = torch.from_numpy(owner if exclude_seen else owner[:0])
        seen_items = torch.from_numpy((items if exclude_seen else items[:0]).astype(np.int64))
        width = min(k, self.catalog.n_items)
        scores = torch.full((users, width), -torch.inf)
        best = torch.zeros((users, width), dtype=torch.int64)

        def use(numbers: np.ndarray, h: torch.Tensor) -> None:
            order = np.argsort(numbers)
            chosen = warm[numbers[order]]
            mine = torch.isin(seen_rows, torch.from_numpy(chosen))
            local = torch.searchsorted(torch.from_numpy(chosen), seen_rows[mine])
            at = torch.from_numpy(order).to(h.device)
            found = top_k(self.model, h[at], k, local, seen_items[mine])
            scores[chosen], best[chosen] = found.scores, found.items

        if len(warm):
            events = _Events(items.astype(np.int32), times)
            encode_targets(self.model, events, requests, use, progress)
        cold = np.flatnonzero(lengths == 0)
        if len(cold):
            popular = np.argsort(-self.catalog.counts, kind="stable")[:width]
            best[cold] = torch.from_numpy(popular + 1)
            scores[cold] = torch.from_numpy(self.catalog.counts[popular]).float()
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

        config.json, which holds the digests of the others, comes last: without it the folder is
        not a recommender.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.json").unlink(missing_ok=True)
            with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
                work = Path(temporary)
                weights = {k: v.contiguous().cpu() for k, v in self.model.state_dict().items()}
                save_file(weights, work / "model.safetensors")
                self.catalog.save(work / "catalog.parquet")
                (work / "provenance.json").write_text(json.dumps(self.provenance, indent=1))
                digests = {name: _digest(work / name) for name in FILES}
                for name in FILES:
                    sync(work / name)
                    os.replace(work / name, folder / name)
            config = {
                "format": FORMAT,
                "model": self.name,
                "model_config": settings_of(self.model_config),
                "train_config": settings_of(self.train_config),
                "items": self.catalog.n_items,
                "digests": digests,
            }
            config["digest"] = _digest_of(config)
            write_text(folder / "config.json", json.dumps(config, indent=1))
        except OSError as error:
            raise LongrecError(f"{folder}: the recommender was not saved: {error}") from error
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
    config = _read_config(folder)
    for name, digest in config["digests"].items():
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} is missing: copy the whole folder again, or retrain.")
        if _digest(folder / name) != digest:
            raise DataError(
                f"{folder / name} is not what was saved (its digest differs): it was truncated or "
                "edited. Copy the folder again, or retrain."
            )
    settings = config["model_config"] | config["train_config"]
    try:
        model_config, train_config = parse_settings(config["model"], settings)
    except UsageError as error:
        raise DataError(f"{folder / 'config.json'}: {error}") from error
    catalog = Catalog.load(folder / "catalog.parquet")
    model = build_model(config["model"], model_config, catalog.n_items)
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise DataError(
            f"{folder / 'model.safetensors'} does not hold the weights that config.json "
            f"describes: {str(error).splitlines()[0]}"
        ) from error
    return Recommender(
        config["model"],
        model.eval(),
        model_config,
        train_config,
        catalog,
        json.loads((folder / "provenance.json").read_text()),
        folder,
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; train a recommender with `longrec train`.")
    if not path.is_file():
        unfinished = (folder / "training.json").is_file()
        raise DataError(
            f"{folder} holds a training run that has not ended: go on with `longrec train "
            f"--resume --out {folder}`."
            if unfinished
            else f"{folder} is not a recommender: it has no config.json."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        digest = config.pop("digest")
        version = config["format"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is damaged ({error}): copy the folder again, or retrain."
        ) from error
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        raise DataError(
            f"{path} has format {version}, this longrec reads {FORMAT}: "
            + ("upgrade longrec." if newer else "retrain.")
        )
    if digest != _digest_of(config):
        raise DataError(
            f"{path} was edited by hand (its digest differs): restore it, or train with the "
            "settings that you want."
        )
    return dict(config)


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
    place = np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], lengths)
    times = None if data.times is None else data.times[place]
    return data.items[place], times, offsets


def _as_own_ids(given: pl.Series, own: pl.Series, rows: np.ndarray) -> pl.Series:
    """The ids asked for in the data's own type where all are known, else as they were given."""
    if len(rows) and (rows >= 0).all():
        return own.gather(rows)
    return given


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(config: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
