"""The hidden chains of simulated users, and one step of exact filtering for each.

A filter holds, for every user, the law of the hidden state given the events so far. `ahead` moves
that law to the next event (Chapman-Kolmogorov), `absorb` conditions it on the event's item (Bayes).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from longrec.core.arrays import Floats, Ints
from longrec.core.errors import UsageError
from longrec.simulator.config import ORDER_NOISE, World


class Chain(Protocol):
    """A hidden chain, filtered for n users at once; states have n rows."""

    def start(self, n: int) -> Floats:
        """Give the stationary law of the state, n times."""

    def ahead(self, state: Floats, session: Floats, place: Ints) -> Floats:
        """Give the law of the state at the next event, at `place` (n,) of its cycle.

        That event starts a session with probability `session` (n,).
        """

    def components(self, prior: Floats) -> Floats:
        """Sum the law of the state up to the law of the component, (n, components)."""

    def absorb(self, state: Floats, prior: Floats, likelihood: Floats, place: Ints) -> Floats:
        """Update on the event that `prior` predicted; likelihood of each component, (n, …)."""


@dataclass(frozen=True)
class InterestChain:
    """State (subset, slot, facet): an owned interest that sessions switch, and its facet."""

    subsets: Ints  # (S, m)
    prior: Floats  # (S,)
    facets: int
    switch: float

    @cached_property
    def component(self) -> Ints:
        """Component of each state, (S * m * F,)."""
        return (self.subsets[:, :, None] * self.facets + np.arange(self.facets)).ravel()

    @cached_property
    def sums(self) -> Floats:
        """One column per component, one row per state: 1 where they belong together."""
        return np.eye(int(self.subsets.max() + 1) * self.facets)[self.component]

    def start(self, n: int) -> Floats:
        """Give subsets by their prior, slots and facets uniform, (n, S * m * F)."""
        each = self.subsets.shape[1] * self.facets
        return np.tile(np.repeat(self.prior / each, each), (n, 1))

    def ahead(self, state: Floats, session: Floats, place: Ints) -> Floats:
        """Switch the slot and draw the facet anew, as far as a session starts."""
        rows = np.flatnonzero(session)
        slots = self.subsets.shape[1]
        old = state[rows].reshape(len(rows), len(self.subsets), slots, self.facets)
        slot = old.sum(axis=3)
        if slots > 1:
            others = (slot.sum(axis=2, keepdims=True) - slot) / (slots - 1)
            slot = (1 - self.switch) * slot + self.switch * others
        weight = session[rows, None, None, None]
        new = (1 - weight) * old + (weight / self.facets) * slot[..., None]
        prior = state.copy()
        prior[rows] = new.reshape(len(rows), state.shape[1])
        return prior

    def components(self, prior: Floats) -> Floats:
        """Sum over the states of each component."""
        return prior @ self.sums

    def absorb(self, state: Floats, prior: Floats, likelihood: Floats, place: Ints) -> Floats:
        """Weigh each state by its component's likelihood."""
        return _normalised(prior * np.take(likelihood, self.component, axis=1))


@dataclass(frozen=True)
class PairChain:
    """State (a, b): the interests of the last two home events, which decide the next."""

    rule: Ints  # (C, C)

    @cached_property
    def transition(self) -> Floats:
        """P((b, c) | (a, b)) as a (C², C²) matrix."""
        c = len(self.rule)
        next_given_pair = np.full((c, c, c), ORDER_NOISE / c)
        a, b = np.indices((c, c))
        next_given_pair[a, b, self.rule] += 1 - ORDER_NOISE
        matrix = np.zeros((c, c, c, c))
        matrix[:, np.arange(c), np.arange(c), :] = next_given_pair
        return matrix.reshape(c * c, c * c)

    def start(self, n: int) -> Floats:
        """Give every pair the same probability, which is stationary, (n, C²)."""
        return np.full((n, self.rule.size), 1 / self.rule.size)

    def ahead(self, state: Floats, session: Floats, place: Ints) -> Floats:
        """Move on by one event."""
        return state @ self.transition

    def components(self, prior: Floats) -> Floats:
        """Sum over the first of the pair."""
        return np.asarray(prior.reshape(len(prior), *self.rule.shape).sum(axis=1))

    def absorb(self, state: Floats, prior: Floats, likelihood: Floats, place: Ints) -> Floats:
        """Weigh each pair by the likelihood of its second interest."""
        return _normalised(prior * np.tile(likelihood, (1, len(self.rule))))


@dataclass(frozen=True)
class PlaylistChain:
    """State: for each place of the visit, which item stands there; places are independent."""

    prior: Floats  # (V,)
    visit: int

    def start(self, n: int) -> Floats:
        """Give every place the prior, (n, visit, V)."""
        return np.tile(self.prior, (n, self.visit, 1))

    def ahead(self, state: Floats, session: Floats, place: Ints) -> Floats:
        """Give the law of the item at this place, (n, V)."""
        return state[np.arange(len(state)), place]

    def components(self, prior: Floats) -> Floats:
        """Every playlist item is a component."""
        return prior

    def absorb(self, state: Floats, prior: Floats, likelihood: Floats, place: Ints) -> Floats:
        """Update the place that was played."""
        state = state.copy()
        state[np.arange(len(state)), place] = _normalised(prior * likelihood)
        return state


def _normalised(posterior: Floats) -> Floats:
    total = posterior.sum(axis=-1, keepdims=True)
    if not (total > 0).all():
        raise UsageError("histories hold events that this simulation cannot have made")
    return np.asarray(posterior / total)


def chains_of(world: World) -> tuple[Chain, Chain]:
    """Home and away chain of a world."""
    config = world.config
    facets = world.away // config.errands
    home: Chain
    if config.regime == "recall":
        home = PlaylistChain(world.playlist_prior, config.visit)
    elif config.regime == "order":
        home = PairChain(world.pair_rule)
    else:
        home = InterestChain(world.subsets, world.subset_prior, facets, config.switch)
    errands = np.arange(config.errands)[None, :]
    return home, InterestChain(errands, np.ones(1), facets, config.switch)
