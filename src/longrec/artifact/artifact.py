"""What is trained and served: a model with its catalog and settings, saved and loaded whole."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import torch

from longrec.artifact.answers import ask, check_answers
from longrec.artifact.folder import (
    RECOMMENDER,
    digest_of_catalog,
    digest_of_tensors,
    digest_of_weights,
    read_folder,
    write_folder,
)
from longrec.artifact.new_items import finite_vectors, new_ids
from longrec.artifact.restore import not_finite, restore_added, restore_model
from longrec.artifact.training_log import frame_of, read_log, write_log
from longrec.config.border import changed_settings
from longrec.config.training import TrainConfig
from longrec.core.arguments import check_path, described
from longrec.core.choices import ExcludeSeen
from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.core.files import digest_of_config
from longrec.core.generators import generators_kept
from longrec.core.shown import html_facts, html_table
from longrec.data.catalog import Catalog
from longrec.data.event_columns import Column, Columns
from longrec.data.histories import Histories, as_histories, open_histories
from longrec.models import MODELS, CountingModel, Model, SequenceModel, build_model
from longrec.models.common.added_score import ADDED_SCORES, AddedScore, check_added_score
from longrec.models.common.config import LATER
from longrec.models.common.registry import load_grown
from longrec.models.common.scorer import Scorer
from longrec.models.common.settings import check_model, parse_settings, stored_settings


@dataclass(eq=False)
class Artifact:
    """A trained model with its catalog: all that retrieval, serving and export need.

    Attributes
    ----------
    name : the model's name in the registry.
    model : in eval mode.
    model_config, train_config : how it was built and trained.
    catalog : item ids; the model's item index i is row i - 1.
    provenance : data, command, seed, commit, machine, how training ended.
    folder : where it is saved, or None.
    base_items : items that it was trained with; None if none were added since.
    added : a score added to the model's, or None.
    saved_tensors : which tensors stand in its folder (`tensors_of` it), or None.
    columns : the further columns of events that the model reads, as training had them.
    exclude_seen : whether items that a user has seen are left out where nobody says otherwise, as
        was decided when training ended.
    curve : a row per validation of its training (`longrec.artifact.training_log.ValidationRow`),
        as log.csv has them; without rows where nothing was validated or logged.
    """

    name: str
    model: Model
    model_config: Any
    train_config: TrainConfig
    catalog: Catalog
    provenance: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    base_items: int | None = None
    added: AddedScore | None = None
    saved_tensors: str | None = None
    columns: Columns = field(default_factory=dict)
    exclude_seen: bool = True
    curve: pl.DataFrame = field(default_factory=lambda: frame_of(()))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` or `longrec train` wrote.

        Raises
        ------
        DataError
            When the folder is not a whole recommender of this format: missing, unfinished,
            truncated, edited, or of a newer version; or its weights are not finite, or do not give
            the scores that were saved with them. The message says which file and what to do.
        UsageError
            When its model is of a package that has not been imported; the message names it.
        """
        folder = check_path("folder", folder, "the path of a recommender's folder")
        saved = read_folder(folder)
        config, catalog, provenance = saved.config, saved.catalog, saved.provenance
        name, plugin = config["model"], provenance.get("plugin")
        try:
            check_model(name, plugin)
        except UsageError as error:
            kind = DataError if plugin is None else UsageError
            raise kind(f"{folder / RECOMMENDER.document}: {error}") from None
        try:
            model_config, train_config = parse_settings(
                name, config["model_config"] | stored_settings(config["train_config"])
            )
        except UsageError as error:
            raise DataError(f"{folder / 'config.json'}: {error}") from error
        n_items, about = catalog.n_items, config.get("added_score")
        model = restore_model(folder, name, model_config, n_items, saved.weights)
        loaded = cls(
            *(name, model, model_config, train_config, catalog, provenance, folder),
            base_items=config.get("base_items"),
            added=restore_added(folder, about, saved.added, n_items),
            saved_tensors=saved.tensors,
            columns={
                name: Column(None if words is None else tuple(words))
                for name, words in config.get("columns", {}).items()
            },
            exclude_seen=config.get("exclude_seen", True),
            curve=_log_of(folder),
        )
        check_answers(folder, saved, loaded.scorer, loaded.columns, loaded.limit)
        return loaded

    def save(self, folder: str | Path) -> Path:
        """Write it to a folder, in place of the recommender that may be there.

        Until the new one stands whole the old one stays whole, whatever fails; other files stay.

        Raises
        ------
        LongrecError
            When it cannot be written, or a number of its weights is not finite, so that it could
            not be loaded.
        """
        folder = check_path("folder", folder)
        config = {
            "model": self.name,
            "model_config": asdict(self.model_config),
            "train_config": asdict(self.train_config),
            "base_items": self.base_items,
            "exclude_seen": self.exclude_seen,
        }
        if self.columns:
            config["columns"] = {name: column.words for name, column in self.columns.items()}
        counted = None
        if self.added is not None:
            config["added_score"] = self._about_added
            counted = self.added.state_dict()
        weights = self.model.state_dict()
        for name, tensor in weights.items():
            if not_finite(tensor) and name in dict(self.model.named_parameters()):
                raise LongrecError(
                    f"{folder}: the recommender was not saved: {name} of its {self.name} has "
                    "numbers that are not finite: train again, with a lower learning rate"
                )
        answers = ask(self.scorer, self.columns, self.limit)
        answers["tensors"] = digest_of_tensors(weights, counted)
        answers["catalog"] = digest_of_catalog(self.catalog)
        self.saved_tensors = write_folder(
            folder, config, weights, self.catalog, self.provenance, answers, counted
        )
        write_log(folder, self.curve)
        self.folder = folder
        return folder

    @cached_property
    def state_digest(self) -> str:
        """Hex digest of what shapes users' states: the model's settings and weights.

        Items added after training do not enter: states from before they came stay good. Of an added
        score only its reach does, since that many last items are kept beside the model's state.
        Of columns that the model reads the words do, whose codes it knows. A mixer whose state has
        other tensors than in earlier versions of longrec says so (`state_version`).
        """
        weights = dict(self.model.state_dict())
        if isinstance(self.model, SequenceModel):
            end = (self.base_items or self.catalog.n_items) + 1
            weights |= {name: weights[name][:end] for name in self.model.item_tables()}
        settings = asdict(self.model_config).items()
        config = {key: value for key, value in settings if LATER.get(key, ...) != value}
        about: dict[str, Any] = {"model": self.name, "config": config}
        if isinstance(self.model, SequenceModel):
            versions = [getattr(mixer, "state_version", 1) for mixer in self.model.mixers]
            if any(version > 1 for version in versions):
                about["state_versions"] = versions
        if self.kept_items:
            about["reach"] = self.kept_items
        if self.columns:
            about["columns"] = {name: column.words for name, column in self.columns.items()}
        return digest_of_weights(weights, **about)

    @property
    def catalog_version(self) -> str:
        """Hex digest of the items' ids, in their order."""
        return self.catalog.digest

    @property
    def answers_as(self) -> str:
        """Hex digest of all that an answer depends on, as it was loaded or saved.

        A refit changes what an added score has counted, and how popular items are, and neither the
        state digest nor the catalog's version.
        """
        return digest_of_config(
            {
                "state": self.state_digest,
                "tensors": self.saved_tensors,
                "catalog": digest_of_catalog(self.catalog),
                "exclude_seen": self.exclude_seen,
                "added": None if self.added is None else self._about_added,
            }
        )

    @property
    def scorer(self) -> Scorer:
        """The score by which items are ranked: the model's and the added one."""
        return Scorer(self.model, self.added)

    @property
    def kept_items(self) -> int:
        """How many of a user's last known items a stream keeps beside the model's state."""
        own = self.model.reach if isinstance(self.model, CountingModel) else 0
        return max(own, self.scorer.reach)

    def hides_seen(self, exclude_seen: ExcludeSeen) -> bool:
        """Whether to leave out items that a user has seen; "auto": as this recommender does.

        Raises
        ------
        UsageError
            For anything but True, False and "auto".
        """
        if isinstance(exclude_seen, bool):
            return exclude_seen
        if not isinstance(exclude_seen, str) or exclude_seen != "auto":
            raise UsageError(
                f"exclude_seen is {described(exclude_seen)}; it must be true, false or 'auto'"
            )
        return self.exclude_seen

    @property
    def trained_under(self) -> tuple[str, str | None]:
        """Protocol and cut of its training; of a final run those of the run that was measured."""
        config = self.train_config
        measured = self.provenance.get("refit", {}).get("settings", {})
        return measured.get("protocol", config.protocol), measured.get("cut", config.cut)

    def cut_by(self, protocol: str | None, cut: str | None) -> tuple[str, str | None]:
        """Protocol and cut where a caller may leave both, or the cut, to training."""
        own = self.trained_under
        return own if cut is None and protocol in (None, own[0]) else (protocol or own[0], cut)

    @property
    def limit(self) -> int | None:
        """Most events that are read of a history; None for all."""
        return self.model.reads(self.train_config.context)

    def on_cpu(self) -> Self:
        """The same with its model on the CPU, where streams and exports are; itself if it is there.

        A model on a GPU stays where it is; the one on the CPU is another with its weights.
        """
        if self.model.device.type == "cpu":
            return self
        with generators_kept():
            model = build_model(self.name, self.model_config, self.catalog.n_items)
        model.load_state_dict(self.model.state_dict())
        added = None if self.added is None else copy.deepcopy(self.added).to("cpu")
        return replace(self, model=model.eval(), added=added)

    @property
    def plugins(self) -> list[str]:
        """Modules of others that another process has to import before it can load this."""
        added = None if self.added is None else ADDED_SCORES.plugin(self.added.name)
        return [name for name in dict.fromkeys((MODELS.plugin(self.name), added)) if name]

    def item_vectors(self) -> torch.Tensor:
        """(n_items + 1, D), the model's own, without biases; row 0 is padding.

        Raises
        ------
        UsageError
            When the model has none.
        """
        self.check_has_vectors()
        assert isinstance(self.model, SequenceModel)
        return self.model.item_vectors().detach()

    def check_has_vectors(self) -> None:
        """Raise UsageError where scores are no products of users' and items' vectors."""
        if not isinstance(self.model, SequenceModel):
            raise UsageError(
                f"{self.name} counts items and has no vectors of them: ask a model that is "
                "trained, such as elastic"
            )
        if self.model.target_aware:
            raise UsageError(
                f"{self.name} scores a user and an item together and has no vectors of items"
            )

    def item_frame(self) -> pl.DataFrame:
        """The catalog with the vectors that are scored, for analysis or another system.

        Returns
        -------
        polars.DataFrame
            Columns item (id), count (events that it was trained on), vector (an Array of D float32)
            and, where items have one, bias: the score is the largest product of the vector and one
            of the user's, and the bias.

        Raises
        ------
        UsageError
            When the model has no item vectors.
        """
        vectors, bias = self.item_vectors(), self.scorer.bias()
        frame = pl.DataFrame(
            {
                "item": self.catalog.ids,
                "count": self.catalog.counts,
                "vector": pl.Series(vectors[1:].float().cpu().numpy()),
            }
        )
        if bias is None:
            return frame
        return frame.with_columns(bias=pl.Series(bias.detach()[1:].float().cpu().numpy()))

    def __repr__(self) -> str:
        about = [self.name, f"{self.catalog.n_items:,} items"]
        if found := self.provenance.get("training", {}).get("validation"):
            about.append(f"validation NDCG@10 as served {found['served/ndcg@10']:.4f}")
        about.append("in memory" if self.folder is None else repr(str(self.folder)))
        return f"{type(self).__name__}({', '.join(about)})"

    def _repr_html_(self) -> str:
        about = self.provenance
        training, data = about.get("training", {}), about.get("data", {})
        changed = changed_settings(self.model_config, self.train_config)
        facts = {
            "items": self.catalog.n_items,
            "settings unlike the defaults": ", ".join(f"{k}={v}" for k, v in changed.items()),
            "trained on": data.get("path"),
            "events": data.get("events"),
            "epochs": training.get("epochs"),
            "ended": training.get("stop"),
            "converged": {True: "yes", False: "no"}.get(training.get("converged"), ""),
            "seen items": "left out" if self.exclude_seen else "recommended again",
            "added score": None if self.added is None else self.added.name,
            "kind": "a final run, trained on all events" if "refit" in about else None,
            "folder": "none: it is in memory alone" if self.folder is None else str(self.folder),
        }
        found = html_facts(f"recommender: {self.name}", facts)
        numbers = training.get("validation")
        if numbers:
            rows = [[key.removeprefix("served/"), value] for key, value in numbers.items()]
            found += html_table("validation, as served", ["metric", ""], rows)
        return found

    @property
    def names(self) -> dict[str, str]:
        """How the log called its columns user, item and time, where that was stated."""
        return dict(self.provenance.get("data", {}).get("names", {}))

    def data(self, given: Histories | str | Path | None = None) -> Histories:
        """The histories given, or else those that this was trained on.

        Raises
        ------
        DataError
            When they are gone, or those of training have changed since.
        """
        if given is not None:
            return as_histories("data", given)
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

    def with_added_score(self, added: AddedScore | None) -> Self:
        """The same with another score added to the model's in everything that ranks items.

        Parameters
        ----------
        added : AddedScore or None
            Of this catalog; None takes the one that there is away.

        Raises
        ------
        UsageError
            When it is not registered, has settings that are out of range, or is for another
            catalog.
        """
        try:
            if added is not None:
                check_added_score(added, self.catalog.n_items)
                added = copy.deepcopy(added).to(self.model.device)
        except ValueError as error:
            raise UsageError(str(error)) from error
        provenance = {k: v for k, v in self.provenance.items() if k != "added_score"}
        new = replace(self, added=added, provenance=provenance, folder=None)
        if added is not None:
            provenance["added_score"] = new._about_added
        return new

    @property
    def _about_added(self) -> dict[str, Any]:
        """Name and settings of the added score, and the module that registers a foreign one."""
        assert self.added is not None
        about = {"name": self.added.name, "config": asdict(self.added.config)}
        plugin = ADDED_SCORES.plugin(self.added.name)
        return about if plugin is None else about | {"module": plugin}

    @torch.no_grad()
    def with_items(
        self, ids: Sequence[Any] | pl.Series, vectors: torch.Tensor | np.ndarray | None = None
    ) -> Self:
        """The same with further items, known from now on as events and to recommend.

        States of users stay good, since `state_digest` stays the same; to be trained on the new
        items' events it takes a warm start.

        Parameters
        ----------
        ids : sequence of ids
            New ones, of the catalog's type.
        vectors : Tensor, array or None
            (len(ids), D), their embeddings; the mean of all items' if left out. Where the vectors
            that are scored are a table of their own, those are the mean, as biases are.

        Raises
        ------
        UsageError
            When an id is known already, is given twice, is of another type, or `vectors` has
            another shape, or numbers that are not finite; or when the model has no embeddings, or
            a table with a row per item that its `item_tables` does not name.
        """
        if not isinstance(self.model, SequenceModel):
            raise UsageError(f"{self.name} counts items and cannot be given new ones: train it")
        more = new_ids(self.catalog, ids)
        weights = self.model.state_dict()
        for name in self.model.item_tables():
            table = weights[name]
            new = table[1:].mean(0).expand(len(more), -1)
            if vectors is not None and name == "items":
                new = finite_vectors(vectors, table)
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
        with generators_kept():
            model = build_model(self.name, self.model_config, catalog.n_items)
        load_grown(model.to(self.model.device), weights)
        return replace(
            self,
            model=model.eval(),
            catalog=catalog,
            folder=None,
            saved_tensors=None,
            base_items=self.base_items or self.catalog.n_items,
            added=None if self.added is None else self.added.with_items(catalog.n_items),
        )


def _log_of(folder: Path) -> pl.DataFrame:
    """The log of a folder; without rows where it is damaged, which keeps nobody from serving."""
    try:
        return read_log(folder)
    except DataError:
        return frame_of(())
