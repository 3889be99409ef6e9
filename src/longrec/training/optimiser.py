"""One update of a model in training: warmup, clipping, AdamW and the moving average of weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from longrec.config.training import TrainConfig
from longrec.training.rows import RowAdam, check_tensors

ITEMS = "items"
"""The item table among a model's parameters."""
ROWS = "rows."
"""Prefix, in checkpoints, of the state of tables that are updated by rows."""


class Optimiser:
    """AdamW and a moving average of weights; tables with sparse gradients are updated by rows.

    Parameters
    ----------
    model, average : nn.Module
        The model, and a copy of it that becomes the moving average; both are updated in place.
    config : TrainConfig
        learning_rate, beta1, beta2, weight_decay, warmup_steps, clip and average.
    sparse : collection of str
        Parameters, as in named_parameters, with sparse gradients: updated by rows.
    """

    def __init__(
        self, model: nn.Module, average: nn.Module, config: TrainConfig, sparse: Collection[str]
    ) -> None:
        parameters, averages = dict(model.named_parameters()), dict(average.named_parameters())
        unknown = sorted(set(sparse) - parameters.keys())
        if unknown:
            raise ValueError(f"sparse is {unknown}, but the model has no such parameters")
        self.config = config
        self.tables = {name: p for name, p in parameters.items() if name in sparse}
        self.rows = {
            name: RowAdam(
                table,
                averages[name],
                0.0 if name == ITEMS else config.beta1,  # rows.py says why
                config.beta2,
                config.weight_decay,
            )
            for name, table in self.tables.items()
        }
        self.dense = [p for name, p in parameters.items() if name not in sparse]
        self.averages: list[Tensor] = [p for name, p in averages.items() if name not in sparse]
        self.adam = torch.optim.AdamW(
            self.dense,
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=True,
        )

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in (*self.dense, *self.tables.values()):
            parameter.grad = None

    def refresh(self, name: str, *read: Tensor) -> None:
        """Bring rows of a table up to date before they are read; a dense table always is.

        Parameters
        ----------
        name : str
            As in named_parameters.
        *read : Tensor
            Which rows, int64 of any shapes.
        """
        if name in self.rows:
            self.rows[name].refresh(torch.cat([rows.flatten() for rows in read]))

    def step(self, number: int) -> None:
        """Update model and average by the gradients; `number` steps were done before."""
        warm = min(1.0, (number + 1) / max(self.config.warmup_steps, 1))
        lr = self.config.learning_rate * warm
        # Early on, an average over few steps follows the weights more closely.
        decay = min(self.config.average, (1 + number) / (10 + number))
        touched = {name: _touched(name, table) for name, table in self.tables.items()}
        self._clip([gradient for _, gradient in touched.values()])
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        torch._foreach_lerp_(self.averages, [p.detach() for p in self.dense], 1 - decay)
        for name, (rows, gradient) in touched.items():
            self.rows[name].step(rows, gradient, number, lr, decay)

    def _clip(self, touched: list[Tensor]) -> None:
        """Scale all gradients as torch's clip_grad_norm_ does, those of touched rows included."""
        gradients = [p.grad for p in self.dense if p.grad is not None] + touched
        norm = torch.nn.utils.get_total_norm(gradients)
        scale = torch.clamp(self.config.clip / (norm + 1e-6), max=1.0)
        torch._foreach_mul_(gradients, scale)

    def settle(self) -> None:
        """Bring the rows that were not touched lately up to date, in model and average."""
        for rows in self.rows.values():
            rows.settle()

    def tensors(self) -> dict[str, Tensor]:
        """What the next step depends on, besides the weights and their average."""
        found: dict[str, Tensor] = {}
        for number, slots in self.adam.state_dict()["state"].items():
            found |= {f"{number}.{slot}": tensor for slot, tensor in slots.items()}
        for name, rows in self.rows.items():
            found |= {f"{ROWS}{name}.{k}": tensor for k, tensor in rows.tensors().items()}
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what tensors() gave; ValueError says what does not fit this model."""
        state: dict[int, dict[str, Tensor]] = defaultdict(dict)
        by_rows: dict[str, dict[str, Tensor]] = {name: {} for name in self.rows}
        for key, tensor in tensors.items():
            owner, _, slot = key.removeprefix(ROWS).rpartition(".")
            if key.startswith(ROWS) and owner in by_rows:
                by_rows[owner][slot] = tensor
            elif owner.isdecimal() and int(owner) < len(self.dense):
                state[int(owner)][slot] = tensor
            else:
                raise ValueError(f"the optimiser's state has {key}, and this model no place for it")
        part = ""
        try:
            for number, slots in state.items():
                part, weights = f"parameter {number}", self.dense[number]
                moments = {"exp_avg": weights, "exp_avg_sq": weights}
                check_tensors(slots, {"step": torch.zeros(())} | moments)
            for name, parts in by_rows.items():
                part = f"rows of {name}"
                self.rows[name].load(parts)
        except ValueError as error:
            raise ValueError(f"the optimiser's state, {part}: {error}") from error
        self.adam.load_state_dict(self.adam.state_dict() | {"state": dict(state)})


def _touched(name: str, table: Tensor) -> tuple[Tensor, Tensor]:
    """The rows (n,) that a table's gradient touches, each once, and their gradients (n, D)."""
    if table.grad is None:
        none = torch.zeros(0, dtype=torch.int64, device=table.device)
        return none, table.detach()[:0].clone()
    if not table.grad.is_sparse:
        raise ValueError(f"{name} is updated by rows, but its gradient is dense: read it sparsely")
    gradient = table.grad.coalesce()
    return gradient.indices()[0], gradient.values()
