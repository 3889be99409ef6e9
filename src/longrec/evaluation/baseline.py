"""A baseline's numbers beside a model's: what counting alone reaches on the same targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from longrec.evaluation.intervals import Difference

Interval = tuple[float, float]


@dataclass(frozen=True, eq=False, kw_only=True)
class Baseline(Mapping[str, float]):
    """Metrics of a baseline; reads like a dict of numbers, with the keys of the model's.

    Attributes
    ----------
    estimates : dict
        The means that the mapping shows.
    intervals : dict
        Bootstrap 95% interval of each, (low, high).
    exclude_seen : bool
        Its own policy on items that a user has seen, decided on validation.
    targets, of : int
        How many targets were ranked, drawn from how many; the same where all were.
    metric : str
        The key that the model is compared in.
    lead : Difference or None
        The model minus the baseline in it, over these targets; None where no model was compared.
    """

    estimates: dict[str, float]
    intervals: dict[str, Interval]
    exclude_seen: bool
    targets: int
    of: int
    metric: str
    lead: Difference | None = None

    def __getitem__(self, key: str) -> float:
        return self.estimates[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.estimates)

    def __len__(self) -> int:
        return len(self.estimates)

    def __repr__(self) -> str:
        beaten = f", beaten: {self.verdict}" if self.verdict else ""
        return f"Baseline({self.metric} {self[self.metric]:.4f}, {self.targets:,} targets{beaten})"

    @property
    def verdict(self) -> str:
        """Whether the model beats it: "yes", "no: it is ahead", "not clear"."""
        if self.lead is None:
            return ""
        if not self.lead.clear:
            return "not clear"
        return "yes" if self.lead.mean > 0 else "no: it is ahead"
