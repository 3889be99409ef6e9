"""A model and an added score from what a folder says of them: bounded, and refused where it lies.

What settings describe may be far larger than what the tensors' file holds. So it is built with an
eye on every tensor that is made: nothing is made that is larger than the file, nor many more
tensors than are in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from longrec.artifact.folder import ADDED, FILES, RECOMMENDER
from longrec.config.border import make_config
from longrec.core.errors import DataError, UsageError, first_line
from longrec.core.generators import generators_kept
from longrec.core.registry import missing_from
from longrec.models import Model, build_model
from longrec.models.common.added_score import ADDED_SCORES, AddedScore, check_added_score
from longrec.models.common.sequence import tables_follow

M = TypeVar("M", bound=nn.Module)
FURTHER_NUMBERS, FURTHER_CALLS = 1 << 22, 3000
"""Numbers and operations of PyTorch that building may take besides those of the file's tensors."""
NUMBERS, CALLS = 4, 40
"""The same for each number, and for each tensor, of the file: weights are drawn, turned, scaled."""
SHOWN = 300
"""Characters of a library's message that are shown."""


class _TooLarge(Exception):
    """What is being built is larger than its tensors' file."""


class _Bounded(TorchDispatchMode):
    """Within it, raises _TooLarge where more is made than tensors of a file need."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        numbers = sum(x.numel() for x in tensors.values())
        self.numbers = NUMBERS * numbers + FURTHER_NUMBERS
        self.calls = CALLS * len(tensors) + FURTHER_CALLS

    def check(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.calls -= 1
        # What makes a tensor of none is told the size; what makes one of others is no larger.
        if not any(isinstance(x, Tensor) for x in args):
            self.numbers -= max((_size_of(x) for x in args), default=0)
        if self.calls < 0 or self.numbers < 0:
            raise _TooLarge
        return func(*args, **(kwargs or {}))


# Not as a method of that name: PyTorch would wrap it, and import its compiler first (2 seconds).
_Bounded.__torch_dispatch__ = _Bounded.check  # type: ignore[method-assign,assignment]


def _size_of(argument: Any) -> int:
    """Numbers of the tensor that an argument of an operation may describe: a shape, or an end."""
    if isinstance(argument, list | tuple):
        numbers = 1
        for part in argument:
            numbers *= part if isinstance(part, int) else 1
        return numbers
    return int(argument) if isinstance(argument, int) else 0


def restore_model(
    folder: Path, name: str, config: Any, n_items: int, weights: Mapping[str, Tensor]
) -> Model:
    """A registered model of a config, with weights, in eval mode.

    Raises
    ------
    DataError
        When the weights are not those of such a model, or one is not finite or no count.
    """
    where, document = folder / FILES[0], folder / RECOMMENDER.document
    model = _built(lambda: build_model(name, config, n_items), weights, where, document)
    check_tensors(where, weights, model)
    try:
        _take(model, weights)
        model.check_counts()
    except (RuntimeError, KeyError, ValueError) as error:
        raise DataError(
            f"{where} does not hold the weights that config.json describes: "
            f"{_shown(error)}; {RECOMMENDER.mend}."
        ) from error
    return model.eval()


def restore_added(
    folder: Path, about: Mapping[str, Any] | None, counted: Mapping[str, Tensor], n_items: int
) -> AddedScore | None:
    """The added score that config.json describes, with what it counted; None where it has none.

    Raises
    ------
    DataError
        As `restore_model`; and when there is no such score.
    """
    if about is None:
        return None
    document, where, name = folder / RECOMMENDER.document, folder / ADDED, about["name"]
    if name not in ADDED_SCORES:
        raise DataError(
            f"{document}: there is no added score {name!r:.100}. Added scores: "
            f"{', '.join(sorted(ADDED_SCORES))}.{missing_from(about.get('module'))}"
        )
    cls = ADDED_SCORES[name]
    try:
        config = make_config(cls.config_class, about["config"])
        added = _built(lambda: cls(config, n_items), counted, where, document)
        check_tensors(where, counted, added)
        _take(added, counted)
        check_added_score(added, n_items)
    except (UsageError, RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
        raise DataError(
            f"{document}: the added score {name!r} is not what this longrec makes of its settings "
            f"and {ADDED}: {_shown(error)}; {RECOMMENDER.mend}."
        ) from error
    return added.eval()


def _take(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors without a copy, but for those that a file has in other types than the module.

    Raises what `load_state_dict` raises.
    """

    # Asked before each part is loaded, which may first give its buffers the types of the file.
    def in_its_types(part: nn.Module, stored: dict[str, Tensor], prefix: str, *_: Any) -> None:
        for name, own in (*part._parameters.items(), *part._buffers.items()):
            if own is not None and prefix + name in stored:
                stored[prefix + name] = stored[prefix + name].to(own.dtype)

    hooks = [part.register_load_state_dict_pre_hook(in_its_types) for part in module.modules()]
    try:
        module.load_state_dict(tensors, assign=True)
    finally:
        for hook in hooks:
            hook.remove()


def _built(build: Callable[[], M], tensors: Mapping[str, Tensor], where: Path, document: Path) -> M:
    try:
        with generators_kept(), tables_follow(), _Bounded(tensors):
            return build()
    except _TooLarge:
        raise DataError(
            f"{document} describes a larger model than {where} has tensors of: {RECOMMENDER.mend}."
        ) from None
    except (RuntimeError, ValueError, TypeError, MemoryError, UsageError) as error:
        raise DataError(
            f"{document}: no model can be made of its settings ({_shown(error)}): "
            f"{RECOMMENDER.mend}."
        ) from error


def check_tensors(where: Path, tensors: Mapping[str, Tensor], module: nn.Module) -> None:
    """Raise DataError for tensors of another kind than a module's own, or not finite, by name.

    A buffer that is made with infinities, such as a mask, may have them in the same places.
    """
    own = module.state_dict()
    for name, tensor in tensors.items():
        made = own.get(name)
        if made is not None and _kind_of(made) != _kind_of(tensor):
            raise DataError(
                f"{where}: {name} holds {tensor.dtype}, and the model's is {made.dtype}: "
                f"{RECOMMENDER.mend}."
            )
        if bad := not_finite(tensor):
            meant = made is not None and torch.equal(made.isfinite(), tensor.isfinite())
            if not meant:
                raise DataError(
                    f"{where}: {name} has {bad:,} numbers that are not finite, of "
                    f"{tensor.numel():,}: {RECOMMENDER.mend}."
                )


def not_finite(tensor: Tensor) -> int:
    """How many numbers of a tensor are NaN or infinite."""
    if not tensor.numel() or not (tensor.is_floating_point() or tensor.is_complex()):
        return 0
    if not tensor.is_complex():
        ends = torch.stack(torch.aminmax(tensor.detach()))  # a NaN is both; no copy of it all
        if bool(ends.isfinite().all()):
            return 0
    return int((~tensor.isfinite()).sum())


def _kind_of(tensor: Tensor) -> str:
    if tensor.dtype.is_complex:
        return "complex"
    if tensor.dtype.is_floating_point:
        return "float"
    return "bool" if tensor.dtype == torch.bool else "integer"


def _shown(error: Exception) -> str:
    """A library's message, in one line that is not too long."""
    return " ".join(str(error).split())[:SHOWN] or first_line(error)
