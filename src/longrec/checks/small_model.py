"""A registered model made small, and what the checks of models read with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from longrec.checks.compare import NotApplicable
from longrec.data.event_columns import TYPE, Column, Columns
from longrec.mixers import Context
from longrec.models import MODELS, CountingModel, Model, SequenceModel, build_model

N_ITEMS = 40
EVENTS = 30
SMALL = {"dim": (12, 16, 24), "ffn_dim": (16,), "max_length": (EVENTS,), "segment": (7,)}
"""Values to try for settings that a config has, so that a check takes little time."""
TYPES = ("buy", "cart", "view")
"""Words of the column "type"; any other column that a model reads holds numbers."""


@dataclass
class SmallModel:
    """A registered model with small settings: those given, and otherwise its own defaults.

    Attributes
    ----------
    name : in the registry.
    settings : of its config; `SMALL` is tried for what they leave out.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_class(self) -> type[Model]:
        """The registered class."""
        return MODELS[self.name]

    @cached_property
    def config(self) -> Any:
        """The model's config; a small value that the config refuses is left at its default."""
        config = self.model_class.config_class(**self.settings)
        keys = {f.name for f in fields(config)} - self.settings.keys()
        for key, values in SMALL.items():
            for value in values if key in keys else ():
                try:
                    config = replace(config, **{key: value})
                    break
                except ValueError:
                    continue
        return config

    def build(self, kind: torch.dtype = torch.float64, n_items: int = N_ITEMS) -> Model:
        """A fresh one in eval mode, the same at every call; a counting one has counted."""
        torch.manual_seed(0)
        model = build_model(self.name, self.config, n_items)
        if isinstance(model, CountingModel):
            items = torch.randint(1, n_items + 1, (500,))
            model.count(items, torch.tensor([200, 0, 300]), torch.arange(500) * 86_400)
        if isinstance(model, SequenceModel):
            model.learn_words({n: c.words for n, c in columns_of(model).items()})
        return model.to(kind).eval()

    def sequence(self, kind: torch.dtype = torch.float64) -> SequenceModel:
        """The same, of a model that is trained by gradient.

        Raises
        ------
        NotApplicable
        """
        model = self.build(kind)
        if not isinstance(model, SequenceModel):
            raise NotApplicable("it counts, and is not trained by gradient")
        return model

    @cached_property
    def example(self) -> SequenceModel:
        """One in float64 that no check changes."""
        return self.sequence()

    @cached_property
    def columns(self) -> Columns:
        """The further columns of events that it reads, as training would have them."""
        return columns_of(self.build())

    def column_values(
        self, shape: tuple[int, ...], random: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Values of these columns as a model reads them, int64 codes or float32 numbers.

        Without a generator all events have none.
        """
        values: dict[str, Tensor] = {}
        for name, column in self.columns.items():
            if random is None:
                kind = torch.int64 if column.is_text else torch.float32
                values[name] = torch.full(shape, column.missing, dtype=kind)
            elif column.is_text:
                values[name] = torch.randint(-1, len(TYPES), shape, generator=random)
            else:
                values[name] = torch.rand(shape, generator=random)
        return values

    @cached_property
    def batch(self) -> Batch:
        """Three histories of 30 events, with times before and after 1970."""
        random = torch.Generator().manual_seed(1)
        items = torch.randint(1, N_ITEMS + 1, (3, EVENTS), generator=random)
        times = torch.randint(0, 9999, (3, EVENTS), generator=random).cumsum(1) - 7000
        return Batch(items, times, self.column_values((3, EVENTS), random))


def columns_of(model: Model) -> dict[str, Column]:
    """The further columns of events that a model reads: types are words, all others numbers."""
    return {name: Column(TYPES if name == TYPE else None) for name in model.reads_columns}


@dataclass(frozen=True)
class Batch:
    """Histories of equal length, (B, T) each: items, times and what else a model reads."""

    items: Tensor
    times: Tensor
    columns: Mapping[str, Tensor]

    def context(
        self,
        events: slice = slice(None),
        rows: slice | Tensor = slice(None),
        lengths: Tensor | None = None,
    ) -> Context:
        """The context of some events of some rows."""
        columns = {name: x[rows][:, events] for name, x in self.columns.items()}
        return Context(lengths, self.times[rows][:, events], columns or None)

    def at(self, places: Tensor) -> tuple[Tensor, Context]:
        """One event of each row, as `step` reads it: items (B,), and a context of (B,)."""
        rows = torch.arange(len(places))
        columns = {name: x[rows, places] for name, x in self.columns.items()}
        return self.items[rows, places], Context(
            times=self.times[rows, places], columns=columns or None
        )

    def changed_from(self, t: int) -> Batch:
        """The same with other items, and later times, from event t on."""
        items, times = self.items.clone(), self.times.clone()
        items[:, t:] = items[:, t:] % N_ITEMS + 1
        times[:, t:] += 86_400
        return Batch(items, times, self.columns)

    def changed_at(self, where: Tensor) -> Batch:
        """The same with other items where a mask (B, T) is True."""
        return replace(self, items=torch.where(where, self.items % N_ITEMS + 1, self.items))
