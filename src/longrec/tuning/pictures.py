"""Pictures of a search: what each trial reached over time, and by each setting."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from longrec.evaluation.report.drawing import COLOURS, INK, MARKERS, WIDE, legend_above, svg
from longrec.tuning.space import Space
from longrec.tuning.study import Trial
from longrec.tuning.trial import mean_gain
from longrec.tuning.values import Choices, Range

COLUMNS = 4
"""Panels beside each other."""
Point = tuple[float, float]


def pictures(
    trials: Sequence[Trial], spaces: Mapping[str, Space], logs: Sequence[str], first: Trial
) -> dict[str, str]:
    """SVG by caption: all trials over time, and what each searched setting did."""
    told = _Told(trials, spaces, logs, first)
    what = told.label
    hollow = "hollow: ended early, without transitions, at the lower edge where far below"
    return {
        f"{what} of each trial over time; line: the best so far ({hollow})": svg(
            told.over_time, height=3.2, width=WIDE
        ),
        f"{what} by each setting that was searched ({hollow})": svg(
            told.by_setting, height=0.6 + 2.4 * -(-len(told.panels) // COLUMNS), width=WIDE
        ),
    }


class _Told:
    """What there is to draw of some trials."""

    def __init__(
        self,
        trials: Sequence[Trial],
        spaces: Mapping[str, Space],
        logs: Sequence[str],
        first: Trial,
    ) -> None:
        self.models = list(spaces)
        self.panels: dict[str, list[Range | Choices]] = {}
        for space in spaces.values():
            for key, values in space.searched.items():
                self.panels.setdefault(key, []).append(values)
        one = logs[0] if len(logs) == 1 else None
        self.label = "validation NDCG@10" if one else "mean gain over the first settings, %"
        ends = itertools.accumulate(trial.seconds / 60 for trial in trials)
        self.points: list[tuple[Trial, float, float]] = []
        for trial, at in zip(trials, ends, strict=True):
            if trial.end in ("ended", "pruned") and trial.ndcg10:
                gain = 100 * mean_gain(trial.ndcg10, first.ndcg10)
                self.points.append((trial, at, trial.ndcg10[one] if one else gain))
        self.reference = first.ndcg10[one] if one else 0.0
        ended = [y for trial, _, y in self.points if trial.end == "ended"]
        self.floor = min(ended) - max(0.5 * (max(ended) - min(ended)), 0.05 * abs(max(ended)))
        self.points = [(trial, x, max(y, self.floor)) for trial, x, y in self.points]

    def over_time(self, figure: Figure) -> None:
        """All trials, and the best so far."""
        axes = figure.subplots()
        for index, model in enumerate(self.models):
            own = [(x, y, t) for t, x, y in self.points if t.model == model]
            self._scatter(axes, index, own, model)
        ended = [(x, y) for trial, x, y in self.points if trial.end == "ended"]
        best = list(itertools.accumulate((y for _, y in ended), max))
        axes.step([x for x, _ in ended], best, where="post", color=INK, linewidth=1.2)
        axes.axhline(
            self.reference, color=INK, linestyle=":", linewidth=1.2, label="first settings"
        )
        axes.set_xlabel("minutes of the search")
        axes.set_ylabel(self.label)
        axes.set_xlim(left=0)
        legend_above(figure, axes)

    def by_setting(self, figure: Figure) -> None:
        """A panel for each key."""
        rows = -(-len(self.panels) // COLUMNS)
        shape = (rows, min(COLUMNS, len(self.panels)))
        grid = figure.subplots(*shape, sharey=True, squeeze=False).ravel()
        for axes in grid[len(self.panels) :]:
            axes.set_axis_off()
        for axes, (key, spaces) in zip(grid, self.panels.items(), strict=False):
            places = _places(spaces)
            for index, model in enumerate(self.models):
                own: list[tuple[Any, float, Trial]] = [
                    (places(trial.settings[key]), y, trial)
                    for trial, _, y in self.points
                    if trial.model == model and key in trial.settings
                ]
                own = [point for point in own if point[0] is not None]
                self._scatter(axes, index, own, model)
            axes.axhline(
                self.reference, color=INK, linestyle=":", linewidth=1.2, label="first settings"
            )
            if isinstance(places, _ByName):
                axes.set_xticks(range(len(places.names)), places.names)
                axes.set_xlim(-0.5, len(places.names) - 0.5)
            elif any(isinstance(one, Range) and one.by_log for one in spaces):
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
                axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
                axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_title(key)
        for axes in grid[:: shape[1]]:
            axes.set_ylabel(self.label)
        legend_above(figure, grid[0])

    def _scatter(
        self, axes: Any, index: int, points: Sequence[tuple[Any, float, Trial]], model: str
    ) -> None:
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        for early in (True, False):
            own = [(x, y) for x, y, trial in points if (trial.end == "pruned") is early]
            if not own:
                continue
            x, y = zip(*own, strict=True)
            axes.scatter(
                x,
                y,
                s=26,
                marker=marker,
                edgecolors=colour,
                facecolors="none" if early else colour,
                label=None if early else model,
                zorder=3,
            )


class _ByName:
    """Places of values that have no order of numbers, one beside the other."""

    def __init__(self, spaces: Sequence[Range | Choices]) -> None:
        values = dict.fromkeys(v for one in spaces if isinstance(one, Choices) for v in one.values)
        try:
            ordered = sorted(values)  # type: ignore[type-var]
        except TypeError:
            ordered = list(values)
        self._values = ordered
        self.names = ["none" if value is None else str(value) for value in ordered]

    def __call__(self, value: object) -> int | None:
        """None for a value that is none of them, as a default may be."""
        return self._values.index(value) if value in self._values else None


def _places(spaces: Sequence[Range | Choices]) -> Any:
    """Where a value stands on its panel's axis; None: nowhere."""
    if any(isinstance(one, Choices) for one in spaces):
        return _ByName(spaces)

    def itself(value: object) -> object:
        return value if isinstance(value, int | float) else None

    return itself
