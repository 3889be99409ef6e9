"""Whether an export gives what the model gives: ONNX Runtime against PyTorch.

Random histories of many lengths, in one batch and alone. PyTorch's parallel form reads each whole;
the export reads it as a service would: prefilled, stepped event by event and prefilled again, with
the state carried on. What is compared are the scores of all items, by the export's own files, in
units of their spread over the items, whatever the scale of the vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from longrec.core.arrays import Ints
from longrec.core.errors import LongrecError
from longrec.export.graphs import NEW, TABLE, WINDOW, layout_of
from longrec.export.rows import Rows
from longrec.inference.encode import last_items
from longrec.mixers import Context
from longrec.models import CountingModel, SequenceModel
from longrec.models.common.scorer import Scorer
from longrec.serving.records.record import flat

BIAS = "item_bias.npy"
"""The file of the items' biases."""
TOLERANCE = 1e-4
"""Largest difference allowed, in standard deviations of a user's scores over the items."""
STEPS = 3
PREFILL_FIRST = (0, 1, 2, WINDOW - 1, WINDOW, WINDOW + 1, 300, 5)
PREFILL_AFTER = (300, 0, WINDOW - STEPS, WINDOW, 1, 2, 150, WINDOW)
PREFILLS = np.array([PREFILL_FIRST, PREFILL_AFTER]).T
"""Per history the events that are prefilled first, and after STEPS steps."""
LONGEST_GAP = 1e6
"""Seconds between events: log-uniform up to this, so that every expert forgets by some."""

Arrays = dict[str, np.ndarray]
Reading = tuple[Ints, np.ndarray]
"""Events of each history that were read (B,), and what the export then gives, h (B, D)."""


class Parity(NamedTuple):
    """How far the export is from the model.

    difference : largest difference of a score; of_spread : the same in standard deviations of that
    user's scores; histories, events : how many were read; compared : vectors of scores compared.
    """

    difference: float
    of_spread: float
    histories: int
    events: int
    compared: int


class Runtime:
    """An export at work in ONNX Runtime, states being arrays by name.

    Parameters
    ----------
    folder : Path
        With the graphs, and what is known of items.
    rows : dict or None
        What the manifest says of what last items add.
    """

    def __init__(self, folder: Path, rows: dict[str, Any] | None = None) -> None:
        self._folder = folder
        self._rows = None if rows is None else Rows(folder, rows)
        self._sessions: dict[str, Any] = {}

    def run(self, graph: str, feed: Mapping[str, np.ndarray]) -> Arrays:
        """What a graph gives, by the outputs' names without "new."."""
        import onnxruntime

        if graph not in self._sessions:
            path = self._folder / f"{graph}.onnx"
            self._sessions[graph] = onnxruntime.InferenceSession(path)
        session = self._sessions[graph]
        names = [output.name.removeprefix(NEW) for output in session.get_outputs()]
        return dict(zip(names, session.run(None, feed), strict=True))

    def scores(self, h: np.ndarray, recent: Ints | None = None) -> np.ndarray:
        """Scores of all items (B, n_items), after histories of which h (B, W) is known.

        Each is summed in one order, which a matrix product does not promise, so that items of one
        vector tie here as they do in `recommend`. `recent` (B, K): the last items, the latest
        first, where they add something.
        """
        users = h[:, None]
        if (self._folder / "user.onnx").is_file():
            users = self.run("user", {"h": h})["users"]
        scores: Any = 0.0
        if (self._folder / TABLE).is_file():
            vectors = np.load(self._folder / TABLE, allow_pickle=False)
            products = [[np.einsum("id,d->i", vectors, u) for u in user] for user in users]
            scores = np.array(products).max(1)
        if (self._folder / BIAS).is_file():
            bias = np.load(self._folder / BIAS, allow_pickle=False)
            scores = scores + np.broadcast_to(bias, (len(h), len(bias)))
        if self._rows is not None:
            assert recent is not None
            scores = scores + np.array([self._rows.added(row) for row in recent], scores.dtype)
        return cast(np.ndarray, scores[:, 1:])

    def prefill(self, items: Ints, lengths: Ints, times: Ints, state: Arrays) -> Arrays:
        """Continue states by items, times (B, T) of which lengths (B,) are real."""
        short = -items.shape[1] % WINDOW
        items = np.pad(items, ((0, 0), (0, short)))
        times = np.pad(times, ((0, 0), (0, short)))
        for start in range(0, items.shape[1], WINDOW):
            here = slice(start, start + WINDOW)
            feed = {
                "items": items[:, here],
                "lengths": (lengths - start).clip(0, WINDOW),
                "times": times[:, here],
            }
            state = self.run("prefill", feed | state)
        return state


def check_parity(
    scorer: Scorer, folder: Path, window: int | None, rows: dict[str, Any] | None = None
) -> Parity:
    """Compare an export's scores with those that are served.

    Parameters
    ----------
    scorer : Scorer
        Of a model in eval mode, on the CPU, in float32.
    folder : Path
        With the graphs, and what is known of items.
    window : int or None
        Last events that a model with a window reads, None for the others.
    rows : dict or None
        What the manifest says of what last items add.

    Raises
    ------
    LongrecError
        When a score differs by more than TOLERANCE standard deviations.
    """
    model = scorer.model
    reach = max(scorer.reach, model.reach if isinstance(model, CountingModel) else 0)
    lengths = PREFILLS.sum(1) + STEPS
    if window is not None:
        lengths = np.unique(np.clip([1, 2, window // 2, window - 1, window], 1, window))
    items, times = _histories(model.n_items, len(lengths), int(lengths.max()))
    runtime, differences = Runtime(folder, rows), []
    for users in (slice(None), slice(-1, None)):  # in one batch, and alone
        with torch.inference_mode():
            ctx = Context(torch.from_numpy(lengths[users]), torch.from_numpy(times[users]))
            h = model.encode(torch.from_numpy(items[users]), ctx)
        if not isinstance(model, SequenceModel):  # it has no graphs, and h is the last items
            readings = iter([(lengths[users], np.zeros((len(h), 1)))])
        elif window is None:
            readings = _stream(model, runtime, items[users], times[users], PREFILLS[users])
        else:
            feed = {"items": items[users], "lengths": lengths[users]}
            if model.takes_times:
                feed["times"] = times[users]
            readings = iter([(lengths[users], runtime.run("encode", feed)["h"])])
        begin = np.arange(len(h)) * items.shape[1]
        for ends, output in readings:
            nonempty = np.flatnonzero(ends)
            recent = last_items(items[users].ravel(), begin, begin + ends, reach)[nonempty]
            with torch.inference_mode():
                wanted = scorer.score(
                    h[nonempty, ends[nonempty] - 1], recent=recent[:, : scorer.reach]
                )[:, 1:]
                found = torch.from_numpy(runtime.scores(output[nonempty], recent.numpy()))
            difference = (found - wanted).abs().amax(1)
            spread = wanted.std(1, correction=0).clamp_min(torch.finfo(wanted.dtype).tiny)
            differences.append(torch.stack([difference, difference / spread], dim=1))
    every = torch.cat(differences)
    # amax hands a NaN on, and a comparison with it is false.
    difference, of_spread = every.amax(0).tolist()
    if not of_spread <= TOLERANCE:
        raise LongrecError(
            f"the exported {model.name} does not give what the model gives: scores differ by up to "
            f"{of_spread:.2g} of their standard deviation, {TOLERANCE:.2g} is allowed. Nothing was "
            "exported. Try another version of onnxruntime or torch, and report it if that is no "
            "help"
        )
    return Parity(difference, of_spread, len(lengths), int(lengths.sum()), len(every))


def _histories(n_items: int, users: int, events: int) -> tuple[Ints, Ints]:
    """Random items and times, both (users, events)."""
    random = np.random.default_rng(0)
    items = random.integers(1, n_items + 1, (users, events))
    gaps = np.exp(random.uniform(0, np.log(LONGEST_GAP), items.shape)).astype(np.int64) - 1
    return items, 1_700_000_000 + gaps.cumsum(1)


def _stream(
    model: SequenceModel, runtime: Runtime, items: Ints, times: Ints, plan: Ints
) -> Iterator[Reading]:
    """Read histories from their begin in the three parts of a plan (B, 2)."""
    names, empty = layout_of(model).fields, flat(model.initial_state(len(items)))
    state = {name: part.numpy() for name, part in zip(names, empty, strict=True)}
    first, then = plan.T
    rows = np.arange(len(items))

    def part(x: Ints, start: Ints, length: int) -> Ints:
        """(B, length) of what stands in x from `start` (B,) on; its last where that ends."""
        columns = (start[:, None] + np.arange(length)).clip(max=x.shape[1] - 1)
        return np.take_along_axis(x, columns, 1)

    state = runtime.prefill(items[:, : first.max()], first, times[:, : first.max()], state)
    yield first, state["output"]
    for number in range(STEPS):
        at = rows, first + number
        state = runtime.run("step", {"items": items[at], "times": times[at]} | state)
    yield first + STEPS, state["output"]
    if then.any():
        after, longest = first + STEPS, int(then.max())
        rest = part(items, after, longest), then, part(times, after, longest)
        yield after + then, runtime.prefill(*rest, state)["output"]
