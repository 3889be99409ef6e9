"""Item tables that are spread over processes: each holds the rows of its own items.

Item i is the row i // number of process i % number. Where a step reads few items, a process asks
the owners for the rows that its part of the batch reads, and the model computes with these alone;
their gradients go back the same way, and the owner, who sums those of all, updates its rows as a
whole table's would be (rows.py): weights, moments and average are in one place each. So a table is
limited by the memory of all processes together, and a step sends what it reads, whatever there is.

torch's own row-wise sharding (DTensor) wants the same batch in all processes and gives dense
gradients; see docs/decisions/0059-item-tables-in-shards.md.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from longrec.models import SequenceModel
from longrec.training.processes import Processes


class Route(NamedTuple):
    """Whom some rows are asked of, and what others ask of this process.

    Attributes
    ----------
    order : (u,) the items asked for, ordered by owner.
    asked : so many items of each owner.
    wanted : so many items for each process.
    rows : (v,) which of the own rows they want, process after process.
    """

    order: Tensor
    asked: list[int]
    wanted: list[int]
    rows: Tensor


class Shards:
    """This process's part of tables with a row per item.

    Parameters
    ----------
    names : of the tables, as the model's attributes.
    n_items : rows of a table but for padding's.
    processes : over which they are spread.
    device : of this process's part.
    """

    def __init__(
        self, names: Sequence[str], n_items: int, processes: Processes, device: torch.device
    ) -> None:
        self.names, self.processes, self.size = names, processes, n_items + 1
        self.own = torch.arange(processes.rank, self.size, processes.number, device=device)
        """The items of this process, in the order of its rows."""

    def part(self, whole: Tensor) -> Tensor:
        """The own rows of a whole table, a copy."""
        return whole.detach()[self.processes.rank :: self.processes.number].clone()

    def route(self, items: Tensor) -> Route:
        """Ask the owners of items (u,), each once."""
        owner = items % self.processes.number
        order = owner.argsort(stable=True)
        asked = torch.bincount(owner, minlength=self.processes.number)
        even = [1] * self.processes.number
        wanted = self.processes.exchange(asked, even, even).tolist()
        rows = items[order] // self.processes.number
        return Route(
            *(order, asked.tolist(), wanted),
            self.processes.exchange(rows, asked.tolist(), wanted),
        )

    def fetch(self, table: Tensor, route: Route) -> Tensor:
        """The rows (u, D) that were asked for, in the order of the items; all take part."""
        came = self.processes.exchange(table[route.rows], route.wanted, route.asked)
        return torch.empty_like(came).index_copy_(0, route.order, came)

    def give_back(self, values: Tensor, route: Route) -> tuple[Tensor, Tensor]:
        """Own rows, each once, and the sums of what all have for them: the way of `fetch` back."""
        came = self.processes.exchange(values[route.order], route.asked, route.wanted)
        rows, place = route.rows.unique(return_inverse=True)
        return rows, came.new_zeros(len(rows), *came.shape[1:]).index_add_(0, place, came)

    def hold(self, model: SequenceModel, tables: Mapping[str, Tensor], items: Tensor) -> None:
        """Let a model hold the rows of `items` (n,), perhaps repeated, of tables in shards."""
        held = torch.cat([items.new_zeros(1), items]).unique()
        route = self.route(held)
        self.give(model, {name: self.fetch(tables[name], route) for name in self.names}, held)

    def take(self, model: SequenceModel) -> None:
        """Let a model with whole tables hold the own rows alone."""
        rows = {name: self.part(getattr(model, name)) for name in self.names}
        self.give(model, rows, self.own)

    def give_whole(self, model: SequenceModel, state: Mapping[str, Tensor]) -> None:
        """Let a model have a state with its tables whole, on the CPU: a card may be too small."""
        whole = {name: self.whole(state[name], everywhere=True) for name in self.names}
        model.cpu()
        self.give(model, {name: x for name, x in whole.items() if x is not None}, None)
        model.load_state_dict({**state, **whole})

    def give(self, model: SequenceModel, rows: Mapping[str, Tensor], held: Tensor | None) -> None:
        """Let a model hold these rows of its tables: of the items `held`, or all if None."""
        for name in self.names:
            old = getattr(model, name)
            setattr(model, name, nn.Parameter(rows[name], requires_grad=old.requires_grad))
        model.held = held

    def whole(self, shard: Tensor, everywhere: bool = False) -> Tensor | None:
        """The whole table on the CPU of rank 0, None in the others unless it is wanted there."""
        if not shard[:1].numel():  # rows of no numbers: a moment that is not kept
            return shard.new_empty(self.size, *shard.shape[1:]).cpu()
        parts = self.processes.gather(self._filled(shard.detach().cpu()), everywhere)
        if parts is None:
            return None
        table = torch.empty(self.size, *shard.shape[1:], dtype=shard.dtype)
        for rank, part in enumerate(parts):
            rows = table[rank :: self.processes.number]
            rows.copy_(part[: len(rows)])
        return table

    def spread(self, whole: Tensor | None, like: Tensor) -> Tensor:
        """The own rows of a table of which rank 0 has the whole, as `like`, those of now."""
        if not like[:1].numel():
            return like.cpu()
        parts = None
        if whole is not None:
            number = self.processes.number
            parts = [self._filled(whole[rank::number]) for rank in range(number)]
        mine = self.processes.scatter(parts, self._filled(torch.empty_like(like, device="cpu")))
        return mine[: len(like)]

    def _filled(self, rows: Tensor) -> Tensor:
        """Rows of a process with a last one added where others have one more."""
        most = -(-self.size // self.processes.number)
        return rows.contiguous() if len(rows) == most else torch.cat([rows, rows[-1:]])

    def gathered(self, tensors: Mapping[str, Tensor], spread: Container[str]) -> dict[str, Tensor]:
        """The tensors with those of names in `spread` whole, in rank 0; the others lack them."""
        found = {}
        for name, x in tensors.items():
            whole = self.whole(x) if name in spread else x
            if whole is not None:
                found[name] = whole
        return found

    def told(
        self, tensors: Mapping[str, Tensor], spread: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """What `gathered` gave to rank 0, told to all; of those in `spread`, as they are there.

        Raises
        ------
        ValueError
            In rank 0, when a table has another size.
        """
        wrong = [n for n, x in tensors.items() if n in spread and len(x) != self.size]
        if wrong:
            raise ValueError(f"{wrong[0]} has {len(tensors[wrong[0]])} rows, not {self.size}")
        plain = {name: x for name, x in tensors.items() if name not in spread}
        found = self.processes.tensors_of_first(plain)
        there = self.processes.document_of_first(sorted(tensors.keys() & spread.keys()))
        return found | {name: self.spread(tensors.get(name), spread[name]) for name in there}
