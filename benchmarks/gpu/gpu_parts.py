"""What gpu.py measures: one function per part, each yielding cells as they are done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gpu_ml1m
import torch
from gpu_timing import Cell, Setting, half, measured, measured_as_graph, told
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from longrec.mixers import MIXERS, Context
from longrec.models import MODELS, SequenceModel, build_model
from longrec.ops import dispatcher_cuda
from longrec.training.losses import full_cross_entropy


@contextmanager
def by_chunks() -> Iterator[None]:
    """ELASTIC without the kernel, as on a machine that has none."""
    stored = dispatcher_cuda.available
    dispatcher_cuda.available = lambda: False  # type: ignore[assignment]
    try:
        yield
    finally:
        dispatcher_cuda.available = stored


def systems() -> dict[str, tuple[str, Callable[[], AbstractContextManager[Any]]]]:
    """Names in the tables: the model, and what surrounds it."""
    found: dict[str, tuple[str, Callable[[], AbstractContextManager[Any]]]] = {
        "sasrec, FlashAttention": ("sasrec", lambda: sdpa_kernel(SDPBackend.FLASH_ATTENTION)),
        "hydrarec": ("hydrarec", nullcontext),
        "elastic, chunks": ("elastic", by_chunks),
    }
    if dispatcher_cuda.available():
        found["elastic, kernel"] = ("elastic", nullcontext)
    return found


def make_model(setting: Setting, name: str, length: int) -> SequenceModel:
    """A model of the table's size without dropout, for histories of this length."""
    sizes: dict[str, Any] = {"dim": setting.dim, "layers": setting.layers, "dropout": 0.0}
    sizes |= {"ffn_dim": 4 * setting.dim}
    if name != "hydrarec":
        sizes["heads"] = setting.heads
    if name == "sasrec":
        sizes["max_length"] = length
    model = build_model(name, MODELS[name].config_class(**sizes), setting.items)
    assert isinstance(model, SequenceModel)
    return model.to(setting.device).train()


class Free(nn.Module):
    """A mixer that costs nothing."""

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        return x


def encoding(setting: Setting, model: SequenceModel, length: int) -> Callable[[], None]:
    """Forward and backward of a model on random histories, gradients of the weights included."""
    rows = max(setting.events // length, 1)
    items = torch.randint(1, setting.items + 1, (rows, length), device=setting.device)
    ctx = Context(lengths=torch.full((rows,), length, device=setting.device))
    weigh = torch.randn(rows, length, setting.dim, device=setting.device)

    def work() -> None:
        model.zero_grad(set_to_none=True)
        with half(setting):
            h = model.hidden(items, ctx)
        torch.autograd.backward(h, weigh.to(h.dtype))

    return work


def machine(setting: Setting) -> Iterator[Cell]:
    """What bounds everything: the rate of copies, and that of products in bfloat16."""
    size = 64 if setting.small else 8192
    a, b = (torch.randn(size, size, device=setting.device).bfloat16() for _ in range(2))
    many = torch.randn(size * size * 16, device=setting.device)
    other = torch.empty_like(many)
    moved, done = 2 * many.numel() * many.element_size(), 2 * size**3
    for name, amount, work in (
        ("copy, bytes read and written", moved, lambda: other.copy_(many)),
        (f"product of {size} x {size} in bfloat16, operations", done, lambda: a @ b),
    ):
        cell = measured(setting, "machine", name, size, work)
        if cell.value is None:
            yield cell
        else:
            yield Cell("machine", name, value=amount / cell.value, unit="1/s")


def mixers(setting: Setting) -> Iterator[Cell]:
    """Each mixer alone."""
    named = {"sasrec": "softmax", "hydrarec": "hydra", "elastic": "dispatcher"}
    for length in setting.lengths:
        x = torch.randn(max(setting.events // length, 1), length, setting.dim)
        x = x.to(setting.device).requires_grad_()
        weigh = torch.randn_like(x)
        for name, (model, around) in systems().items():
            size = {} if model == "hydrarec" else {"heads": setting.heads}
            mixer = MIXERS[named[model]](setting.dim, **size).to(setting.device)  # type: ignore[call-arg]

            def work(mixer: nn.Module = mixer, x: Tensor = x, weigh: Tensor = weigh) -> None:
                x.grad = None
                mixer.zero_grad(set_to_none=True)
                with half(setting):
                    y = mixer(x)
                torch.autograd.backward(y, weigh.to(y.dtype))

            with around():
                yield measured(setting, "mixer", name, length, work)


def models(setting: Setting) -> Iterator[Cell]:
    """Whole models: launched one by one, and as a graph."""
    for length in setting.lengths:
        for name, (kind, around) in {**systems(), "free mixer": ("sasrec", nullcontext)}.items():
            model = make_model(setting, kind, length)
            if name == "free mixer":
                for block in model.blocks:
                    block.mixer = Free()  # type: ignore[assignment]
            work = encoding(setting, model, length)
            with around():
                yield measured(setting, "model", name, length, work)
                yield measured_as_graph(setting, "model", name, length, work)


def losses(setting: Setting) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Cross-entropies of (h (n, D), items (N + 1, D), targets (n,)): those that can be imported."""
    found: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        "longrec": lambda h, items, targets: full_cross_entropy(h[:, None], items, targets),
        "torch": lambda h, items, targets: cross_entropy(h @ items[1:].t(), targets - 1),
    }
    if setting.device == "cuda":
        try:
            from fla.modules import FusedLinearCrossEntropyLoss

            fla = FusedLinearCrossEntropyLoss()
            found["fla"] = lambda h, items, targets: fla(h, targets - 1, items[1:])
        except ImportError as error:
            print(f"fla's loss is not here: {error}", file=sys.stderr)
        try:
            from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

            liger = LigerFusedLinearCrossEntropyLoss()
            found["liger"] = lambda h, items, targets: liger(items[1:], h, targets - 1)
        except ImportError as error:
            print(f"Liger's loss is not here: {error}", file=sys.stderr)
    return found


def loss(setting: Setting) -> Iterator[Cell]:
    """The losses alone, forward and backward, in bfloat16."""
    n = setting.events
    targets = torch.randint(1, setting.items + 1, (n,), device=setting.device)
    for name, form in losses(setting).items():
        h, table = (
            torch.randn(rows, setting.dim, device=setting.device).bfloat16().requires_grad_()
            for rows in (n, setting.items + 1)
        )

        def work(h: Tensor = h, table: Tensor = table, form: Any = form) -> None:
            h.grad = table.grad = None
            form(h, table, targets).backward()

        yield measured(setting, "loss", f"{name}, {setting.items:,} items", n, work)


def step(setting: Setting) -> Iterator[Cell]:
    """A whole training step on one history, with each loss, and as a graph with torch's."""
    length = setting.events
    items = torch.randint(1, setting.items + 1, (1, length), device=setting.device)
    targets = torch.randint(1, setting.items + 1, (length,), device=setting.device)
    ctx = Context(lengths=torch.full((1,), length, device=setting.device))
    for name, (kind, around) in systems().items():
        for called, form in losses(setting).items():
            model = make_model(setting, kind, length)
            cuda = setting.device == "cuda"
            adam = torch.optim.AdamW(model.parameters(), fused=True, capturable=cuda)

            def work(model: Any = model, adam: Any = adam, form: Any = form) -> None:
                adam.zero_grad(set_to_none=True)
                with half(setting):
                    h = model.hidden(items, ctx)[0]
                    value = form(h.bfloat16(), model.item_vectors().bfloat16(), targets)
                value.backward()
                adam.step()

            with around():
                yield measured(setting, "step", f"{name}, loss of {called}", length, work)
                if called == "torch":
                    yield measured_as_graph(
                        setting, "step", f"{name}, loss of {called}", length, work
                    )


def compiled(setting: Setting) -> Iterator[Cell]:
    """Whole models under torch.compile, at one length; its own time is the first call's."""
    length = sorted(setting.lengths)[len(setting.lengths) // 2]
    backend = "inductor" if setting.device == "cuda" else "eager"  # which traces, and compiles not
    for name, (kind, around) in systems().items():
        model = make_model(setting, kind, length)
        model.hidden = torch.compile(model.hidden, backend=backend)  # type: ignore[method-assign]
        work = encoding(setting, model, length)
        with around():
            yield measured(setting, "compile", f"{name}, compiled", length, work)


def ml1m(setting: Setting) -> Iterator[Cell]:
    """ELASTIC on ML-1M; left out without the log, and in small on a made one."""
    with TemporaryDirectory() as folder:
        log = setting.ml1m
        if log is None and setting.small:
            log = gpu_ml1m.made_log(Path(folder) / "log.parquet")
        if log is None:
            yield Cell("ml1m", "elastic", failed="left out: --ml1m says where the log is")
            return
        found = gpu_ml1m.train(log, setting.device, setting.target, setting.small)
        for seconds, ndcg in found:
            yield Cell("ml1m", f"elastic, NDCG@10 {ndcg:.4f} after", value=seconds)


def tune(setting: Setting) -> Iterator[Cell]:
    """The first call of each model's kernels, which later processes find compiled."""
    length = min(setting.lengths)
    for name, (kind, around) in systems().items():
        began = time.perf_counter()
        try:
            with around():
                encoding(setting, make_model(setting, kind, length), length)()
            if setting.device == "cuda":
                torch.cuda.synchronize()
            yield Cell("tune", name, length, time.perf_counter() - began)
        except Exception as error:
            yield Cell("tune", name, length, failed=told(error))
    began = time.perf_counter()
    model = gpu_ml1m.small_model(setting.items, setting.small).to(setting.device)
    gpu_ml1m.compile_kernels(model, setting.device)
    yield Cell("tune", "elastic as on ML-1M", value=time.perf_counter() - began)


PARTS: dict[str, Callable[[Setting], Iterator[Cell]]] = {
    "machine": machine,
    "tune": tune,
    "mixer": mixers,
    "model": models,
    "loss": loss,
    "step": step,
    "compile": compiled,
    "ml1m": ml1m,
}
