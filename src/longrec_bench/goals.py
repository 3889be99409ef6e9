"""Goals: what a figure is to reach, and whether it does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """A figure that was measured, and its bounds.

    Attributes
    ----------
    words : what is to be reached.
    figure : what was measured.
    least, most : bounds of the figure; None: there is none on this side.
    at : where it was measured, in words; empty if the goal's words say so.
    """

    words: str
    figure: float
    least: float | None = None
    most: float | None = None
    at: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure lies within its bounds."""
        above = self.least is None or self.figure >= self.least
        return above and (self.most is None or self.figure <= self.most)
