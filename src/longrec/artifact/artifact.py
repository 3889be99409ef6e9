"""What is trained and served: a model with its catalog and settings, saved and loaded whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import torch

from longrec.artifact.folder import digest_of_weights, read_folder, write_folder
from longrec.config.training import TrainConfig
from longrec.core.errors import DataError, UsageError
from longrec.data.catalog import Catalog, as_ids
from longrec.data.histories import Histories, open_histories
from longrec.models import Model, SequenceModel, build_model
from longrec.models.common.settings import parse_settings


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
    """

    name: str
    model: Model
    model_config: Any
    train_config: TrainConfig
    catalog: Catalog
    provenance: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    base_items: int | None = None

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` or `longrec train` wrote.

        Raises
        ------
        DataError
            When the folder is not a whole recommender of this format: missing, unfinished,
            truncated, edited, or of a newer version. The message says which file and what to do.
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
        return cls(
            *(name, model.eval(), model_config, train_config, catalog, provenance, folder),
            base_items=config.get("base_items"),
        )

    def save(self, folder: str | Path) -> Path:
        """Write it to a folder; each file appears whole or not at all.

        Raises
        ------
        LongrecError
            When it cannot be written.
        """
        folder = Path(folder)
        config = {
            "model": self.name,
            "model_config": asdict(self.model_config),
            "train_config": asdict(self.train_config),
            "base_items": self.base_items,
        }
        write_folder(folder, config, self.model.state_dict(), self.catalog, self.provenance)
        self.folder = folder
        return folder

    @cached_property
    def state_digest(self) -> str:
        """Hex digest of what shapes users' states: the model's settings and weights.

        Items added after training do not enter: states from before they came stay good.
        """
        weights = dict(self.model.state_dict())
        if isinstance(self.model, SequenceModel):
            end = (self.base_items or self.catalog.n_items) + 1
            weights |= {name: weights[name][:end] for name in self.model.item_tables()}
        return digest_of_weights(weights, model=self.name, config=asdict(self.model_config))

    @cached_property
    def catalog_version(self) -> str:
        """Hex digest of the items' ids, in their order."""
        return self.catalog.digest()

    @property
    def limit(self) -> int | None:
        """Most events that are read of a history; None for all."""
        return self.model.reads(self.train_config.context)

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

    def data(self, given: Histories | str | Path | None = None) -> Histories:
        """The histories given, or else those that this was trained on.

        Raises
        ------
        DataError
            When they are gone, or those of training have changed since.
        """
        if given is not None:
            return given if isinstance(given, Histories) else open_histories(given)
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

    @torch.no_grad()
    def with_items(self, ids: Sequence[Any], vectors: torch.Tensor | None = None) -> Self:
        """The same with further items, known from now on as events and to recommend.

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
