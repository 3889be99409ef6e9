"""One update of a model in training: warmup, clipping, AdamW and the moving average of weights.

The model says how its parameters are updated: `parameter_groups`, each with its share of training's
weight decay and learning rate, and `sparse_tables`, of which only the rows that a step read are.
Where several processes train, each has the same weights and moments, and does the same update by
the sum of all gradients; tables of items that are updated by rows are spread over them (shards.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from longrec.config.training import TrainConfig
from longrec.core.errors import LongrecError
from longrec.models import SequenceModel
from longrec.training.processes import ALONE, Processes
from longrec.training.rows import RowAdam, check_tensors
from longrec.training.shards import Route, Shards

MOMENTS = ("exp_avg", "exp_avg_sq")
ROWS = "rows."
"""Prefix, in checkpoints, of the state of tables that are updated by rows."""


class Share(NamedTuple):
    """By which a parameter's weight decay and learning rate are multiplied."""

    decay: float
    rate: float


class Optimiser:
    """AdamW and a moving average of weights; tables with sparse gradients are updated by rows.

    Parameters
    ----------
    model, average : SequenceModel
        The model, and a copy of it that becomes the moving average; both are updated in place.
    config : TrainConfig
        learning_rate, beta1, beta2, weight_decay, warmup_steps, clip and average.
    processes : Processes
        Over which gradients are summed.
    shards : Shards or None
        Tables of which model and average hold the own rows of this process alone.

    Raises
    ------
    LongrecError
        When a parameter stands in no group, or in two, or is held in a type of less than 32 bits.
    """

    def __init__(
        self,
        model: SequenceModel,
        average: SequenceModel,
        config: TrainConfig,
        processes: Processes = ALONE,
        shards: Shards | None = None,
    ) -> None:
        check_types(model)
        self.model, self.average = model, average
        self.processes, self.shards = processes, shards
        self.route: Route | None = None  # of the rows that the model holds
        parameters, averages = dict(model.named_parameters()), dict(average.named_parameters())
        spread = [] if shards is None else list(shards.names)
        shares, sparse = shares_of(model), model.sparse_tables()
        unknown = sorted(set(sparse) - parameters.keys())
        if unknown:
            raise ValueError(f"sparse is {unknown}, but the model has no such parameters")
        self.config = config
        self.tables = {name: parameters[name] for name in sparse}
        by_rows = [*sparse, *spread]
        self.rates = {name: shares[name].rate for name in by_rows}
        seldom = model.item_tables()
        self.rows = {
            name: RowAdam(
                parameters[name],
                averages[name],
                0.0 if name in seldom else config.beta1,  # rows.py says why
                config.beta2,
                config.weight_decay * shares[name].decay,
            )
            for name in by_rows
        }
        # The order of the gradients' norms in their sum, whatever the groups are.
        self.dense = {name: p for name, p in parameters.items() if name not in by_rows}
        self.averages: list[Tensor] = [p for name, p in averages.items() if name not in by_rows]
        groups: dict[Share, list[Tensor]] = defaultdict(list)
        for name, parameter in self.dense.items():
            groups[shares[name]].append(parameter)
        self.adam = torch.optim.AdamW(
            [
                {"params": some, "weight_decay": config.weight_decay * share.decay}
                for share, some in groups.items()
            ],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            fused=True,
        )
        self.shares = list(groups)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in (*self.dense.values(), *self.tables.values()):
            parameter.grad = None

    def read(self, *items: Tensor) -> None:
        """Bring the rows that a step is about to read up to date, and let the model hold them.

        Tables that are not updated by rows always are, and are held whole.

        Parameters
        ----------
        *items : Tensor
            int64 of any shapes.
        """
        read = torch.cat([some.flatten() for some in items])
        if self.shards is None:
            for name in self.model.item_tables():
                if name in self.rows:
                    self.rows[name].refresh(read)
            return
        held = torch.cat([read.new_zeros(1), read]).unique()  # row 0 stays the one of padding
        self.route = self.shards.route(held)
        tables = {}
        for name in self.shards.names:
            self.rows[name].refresh(self.route.rows)
            tables[name] = self.shards.fetch(self.rows[name].table, self.route)
        self.shards.give(self.model, tables, held)

    def step(self, number: int) -> None:
        """Update model and average by the gradients; `number` steps were done before."""
        warm = min(1.0, (number + 1) / max(self.config.warmup_steps, 1))
        lr = self.config.learning_rate * warm
        # Early on, an average over few steps follows the weights more closely.
        decay = min(self.config.average, (1 + number) / (10 + number))
        self._add_up_dense()
        touched = {
            name: self.processes.add_up_rows(*_touched(name, table))
            for name, table in self.tables.items()
        }
        own = self._gradients_of_shards()
        self._clip([x for _, x in touched.values()], [x for _, x in own.values()])
        touched |= own
        for group, share in zip(self.adam.param_groups, self.shares, strict=True):
            group["lr"] = lr * share.rate
        self.adam.step()
        torch._foreach_lerp_(self.averages, [p.detach() for p in self.dense.values()], 1 - decay)
        for name, (rows, gradient) in touched.items():
            self.rows[name].step(rows, gradient, number, lr * self.rates[name], decay)

    def _add_up_dense(self) -> None:
        """Sum gradients over processes; None stays None only where it is so in all of them."""
        if self.processes.number == 1:
            return
        had = torch.tensor(
            [float(p.grad is not None) for p in self.dense.values()], device=self.model.device
        )
        for parameter in self.dense.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self.dense.values() if p.grad is not None]
        self.processes.add_up([*gradients, had])
        for parameter, some in zip(self.dense.values(), had.tolist(), strict=True):
            if not some:
                parameter.grad = None

    def _gradients_of_shards(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each table in shards own rows (n,) that any process has read, and their gradients."""
        if self.shards is None or self.route is None:
            return {}
        found = {}
        for name in self.shards.names:
            rows = getattr(self.model, name)
            gradient = torch.zeros_like(rows) if rows.grad is None else rows.grad
            found[name] = self.shards.give_back(gradient, self.route)
        return found

    def _clip(self, touched: list[Tensor], own: list[Tensor]) -> None:
        """Scale all gradients as torch's clip_grad_norm_ does, those of touched rows included.

        Those of `own` rows are another part in each process, all others the same.
        """
        gradients = [p.grad for p in self.dense.values() if p.grad is not None] + touched
        norm = torch.nn.utils.get_total_norm(gradients)
        if own:
            (squares,) = self.processes.sums(float(torch.nn.utils.get_total_norm(own)) ** 2)
            norm = (norm.square() + squares).sqrt()
        scale = torch.clamp(self.config.clip / (norm + 1e-6), max=1.0)
        torch._foreach_mul_(gradients + own, scale)

    def settle(self) -> None:
        """Bring the rows that were not touched lately up to date, in model and average."""
        for rows in self.rows.values():
            rows.settle()

    def weights(self) -> dict[str, Tensor]:
        """The model's state; of a table in shards the own rows."""
        return self.model.state_dict() | {name: self.rows[name].table for name in self._spread()}

    def averages_of_weights(self) -> dict[str, Tensor]:
        """The average's state; of a table in shards the own rows."""
        return self.average.state_dict() | {n: self.rows[n].average for n in self._spread()}

    def _spread(self) -> Sequence[str]:
        return () if self.shards is None else self.shards.names

    def in_shards(self) -> dict[str, Tensor]:
        """Of `weights`, `averages_of_weights` and `tensors` what holds own rows alone, by name."""
        found = {name: self.rows[name].table for name in self._spread()}
        for name in self._spread():
            rows = self.rows[name]
            slots = {"first": rows.first, "second": rows.second, "marks": rows.marks}
            found |= {f"{ROWS}{name}.{slot}": x for slot, x in slots.items()}
        return found

    def tensors(self) -> dict[str, Tensor]:
        """What the next step depends on, besides the weights and their average."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.dense.items():
            slots = self.adam.state.get(parameter)
            if slots is None:  # it has had no gradient yet: as AdamW begins
                slots = {"step": torch.zeros(())} | {
                    m: torch.zeros_like(parameter) for m in MOMENTS
                }
            found |= {f"{name}.{slot}": tensor for slot, tensor in slots.items()}
        for name, rows in self.rows.items():
            found |= {f"{ROWS}{name}.{k}": tensor for k, tensor in rows.tensors().items()}
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what tensors() gave; ValueError says what does not fit this model."""
        dense: dict[str, dict[str, Tensor]] = {name: {} for name in self.dense}
        by_rows: dict[str, dict[str, Tensor]] = {name: {} for name in self.rows}
        for key, tensor in tensors.items():
            owner, _, slot = key.rpartition(".")
            if owner in self.dense:
                dense[owner][slot] = tensor
            elif owner.startswith(ROWS) and owner.removeprefix(ROWS) in by_rows:
                by_rows[owner.removeprefix(ROWS)][slot] = tensor
            else:
                raise ValueError(f"the optimiser's state has {key}, and this model no place for it")
        part = ""
        try:
            for name, slots in dense.items():
                part, weights = f"parameter {name}", self.dense[name]
                check_tensors(slots, {"step": torch.zeros(())} | dict.fromkeys(MOMENTS, weights))
            for name, parts in by_rows.items():
                part = f"rows of {name}"
                self.rows[name].load(parts)
        except ValueError as error:
            raise ValueError(f"the optimiser's state, {part}: {error}") from error
        order = [p for group in self.adam.param_groups for p in group["params"]]
        number = {id(parameter): n for n, parameter in enumerate(order)}
        state = {number[id(self.dense[name])]: slots for name, slots in dense.items()}
        self.adam.load_state_dict(self.adam.state_dict() | {"state": state})


def check_types(model: SequenceModel) -> None:
    """Raise LongrecError for weights too coarse to be trained: a step would be rounded away.

    Products may be of 16 bits (the setting precision), weights, moments and averages may not.
    """
    for name, parameter in model.named_parameters():
        if torch.promote_types(parameter.dtype, torch.float32) != parameter.dtype:
            raise LongrecError(
                f"{type(model).__name__}.{name} is {parameter.dtype}, which rounds most updates "
                "away: keep weights in float32 and set precision=bfloat16 for the products"
            )


def shares_of(model: SequenceModel) -> dict[str, Share]:
    """Each parameter's share, by its name; every one stands in one of the model's groups.

    A parameter that two modules share has several names, all of one group.

    Raises
    ------
    LongrecError
        When one stands in none, in two, or a group names what is no parameter.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    said = f"{type(model).__name__}.parameter_groups()"
    found: dict[int, Share] = {}
    by_id: dict[int, int] = {}
    for number, group in enumerate(model.parameter_groups()):
        for name in group.names:
            if name not in parameters:
                raise LongrecError(f"{said} has {name!r}, which is no parameter of the model")
            if by_id.setdefault(id(parameters[name]), number) != number:
                raise LongrecError(f"{said} has {name!r} in two groups: leave it in one")
            found[id(parameters[name])] = Share(group.decay, group.rate)
    for name, parameter in parameters.items():
        if id(parameter) not in found:
            raise LongrecError(f"{said} leaves out {name!r}: put it into one group")
    return {name: found[id(parameter)] for name, parameter in parameters.items()}


def _touched(name: str, table: Tensor) -> tuple[Tensor, Tensor]:
    """The rows (n,) that a table's gradient touches, each once, and their gradients (n, D)."""
    if table.grad is None:
        none = torch.zeros(0, dtype=torch.int64, device=table.device)
        return none, table.detach()[:0].clone()
    if not table.grad.is_sparse:
        raise ValueError(
            f"{name} is updated by rows, but its gradient is dense: read its rows by "
            "`self.rows_of(table, items)`, as `item_vectors(items)` does"
        )
    gradient = table.grad.coalesce()
    return gradient.indices()[0], gradient.values()
