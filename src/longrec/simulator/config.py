"""The public half of a simulation: its configuration, its schedule, and the laws of its items.

Nothing here is about a single user: who knows the `World` knows everything that an ideal model
could have learned from infinitely many users.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from longrec.config.border import check_config
from longrec.core.arrays import Floats, Ints
from longrec.core.bounds import Bounds
from longrec.core.errors import UsageError

Flags = npt.NDArray[np.bool_]

Regime = Literal["interests", "recall", "order"]
GATE_ITEM = 0
START = 1_577_836_800  # 2020-01-01, in seconds
EPOCH_SECONDS = 30 * 86_400  # new items arrive in monthly batches,
EPOCHS = 24  # over two years
SESSION_GAP = 1_800  # seconds: a gap this long starts a session, a shorter one never does
FACET_LEAK = 0.1  # weight of an interest's items outside the session's facet
LOOK_AROUND = 8  # so many first events of a visit are a session each,
ENDINGS = 4  # and every history ends within the first so many
ORDER_NOISE = 0.2  # regime "order": share of transitions that ignore the pair
PLAYLIST_ITEMS = 64  # regime "recall": at most this many items can be on a playlist
MAX_HIDDEN = 20_000  # more hidden states than this make exact filtering slow


@dataclass(frozen=True)
class SimulationConfig:
    """What to simulate; the same configuration gives the same events.

    Parameters
    ----------
    users, items : int
        Number of users; number of items that exist (some may never occur).
    mean_length : int
        Expected events per user; lengths have a long tail (some ten times as long).
    interests, per_user : int
        Private interests that exist, and how many of them each user owns for life.
    errands : int
        Interests of the away phase, the same for all users.
    facets : int
        Parts of an interest; a session keeps to one.
    visit : int
        Home events per cycle, ``h``.
    evidence_distance : int
        Away events between two visits, ``D``: how far back the evidence for the target lies at
        least, because every history ends within the first four events of a visit. 0 means that
        users never go away, and evidence is near.
    session : float
        Mean events per session (at least 1).
    switch : float
        Probability that a new session turns to another interest.
    zipf : float
        Exponent of popularity inside an interest.
    overlap : float
        Share of an interest's draws that are items of the next interest.
    background : float
        Share of draws from overall popularity, whatever the user's interests.
    new_items : float
        Share of items that arrive after the start.
    regime : str
        ``"interests"``, ``"recall"`` or ``"order"``.
    seed : int
        Seed of numpy's default generator.

    Raises
    ------
    UsageError
        When a value is out of range; the message says which and what it may be.
    """

    users: Annotated[int, Bounds(ge=1)] = 2000
    items: Annotated[int, Bounds(ge=1)] = 500
    mean_length: int = 120
    interests: Annotated[int, Bounds(ge=1)] = 10
    per_user: Annotated[int, Bounds(ge=1)] = 3
    errands: Annotated[int, Bounds(ge=1)] = 4
    facets: Annotated[int, Bounds(ge=1)] = 2
    visit: Annotated[int, Bounds(ge=2)] = 16
    evidence_distance: Annotated[int, Bounds(ge=0)] = 60
    session: Annotated[float, Bounds(ge=1)] = 5.0
    switch: Annotated[float, Bounds(ge=0, le=1)] = 0.8
    zipf: Annotated[float, Bounds(ge=0)] = 1.2
    overlap: Annotated[float, Bounds(ge=0, le=1)] = 0.1
    background: Annotated[float, Bounds(gt=0, lt=1)] = 0.05
    new_items: Annotated[float, Bounds(ge=0, le=1)] = 0.3
    regime: Regime = "interests"
    seed: Annotated[int, Bounds(ge=0)] = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        try:
            check_config(self)
        except UsageError as error:
            raise UsageError(f"simulation: {error}") from None
        if self.per_user > self.interests:
            self._refuse("per_user", f"not exceed interests, which is {self.interests}")
        hidden = comb(self.interests, self.per_user) * self.per_user * self.facets
        if hidden > MAX_HIDDEN:
            self._refuse(
                "per_user",
                f"be lower, or interests or facets: they make {hidden} hidden states, and exact "
                f"filtering allows {MAX_HIDDEN}",
            )
        fewest = 1 + (self.interests + self.errands) * self.facets
        if self.items < fewest:
            self._refuse("items", f"be at least {fewest}")
        shortest = self.cycle + endings(self.visit)[-1] + 1
        if self.mean_length < shortest:
            self._refuse(
                "mean_length",
                f"be at least {shortest}: every history holds a visit of {self.visit} events, "
                f"{self.evidence_distance} away, and the return",
            )

    def _refuse(self, name: str, rule: str) -> None:
        raise UsageError(f"simulation: {name} is {getattr(self, name)!r}; it must {rule}")

    @property
    def cycle(self) -> int:
        """Events from the start of one visit to the start of the next, ``h + D``."""
        return self.visit + self.evidence_distance


def endings(visit: int) -> range:
    """Places within a visit where a history may end; the event before it is at home as well."""
    return range(1, min(ENDINGS, visit))


@dataclass(frozen=True)
class World:
    """What everybody knows: the schedule and the laws, a function of the configuration alone.

    Components are the laws that an item can be drawn from, in this order: ``home`` of them for
    private interests, ``away`` for errands, the background, the gate.

    Attributes
    ----------
    config : SimulationConfig
    weights : (K, N) float64
        ``W``: unnormalised probability of each of the N items under each of the K components.
    totals : (EPOCHS, K) float64
        ``Z``: sum of the weights of the items that have arrived by each epoch.
    arrival : (N,) int64
        Epoch at which each item arrives.
    home, away : int
        Number of components of the two phases.
    subsets : (S, m) int64
        Every set of interests that a user may own, with their `subset_prior` (S,).
    pair_rule : (C, C) int64
        Regime "order": the interest that follows the ordered pair (a, b).
    playlist_prior : (home,) float64
        Regime "recall": probability of each playlist item.
    """

    config: SimulationConfig
    weights: Floats
    totals: Floats
    arrival: Ints
    home: int
    away: int
    subsets: Ints
    subset_prior: Floats
    pair_rule: Ints
    playlist_prior: Floats

    @property
    def background(self) -> int:
        """Component of overall popularity."""
        return self.home + self.away

    @property
    def gate(self) -> int:
        """Component of the one gate item."""
        return self.home + self.away + 1

    def item_ids(self) -> pl.Series:
        """Ids of the simulated items, in the order of their numbers."""
        return numbered_ids("i", self.config.items)

    def is_home(self, counts: Ints) -> Flags:
        """Whether the events with these counts (0 = a user's first) are home events."""
        return np.asarray(counts % self.config.cycle < self.config.visit)

    def is_away(self, counts: Ints) -> Flags:
        """Whether the events with these counts are away events."""
        return ~self.is_home(counts) & ~self.is_gate(counts)

    def is_gate(self, counts: Ints) -> Flags:
        """Whether the events with these counts are the gate."""
        at_end = counts % self.config.cycle == self.config.cycle - 1
        return np.asarray(at_end & (self.config.evidence_distance > 0))

    def surely_starts(self, counts: Ints) -> Flags:
        """Whether a session starts for certain: a look around, or the first event away."""
        place = counts % self.config.cycle
        looks = place < min(LOOK_AROUND, self.config.visit)
        return np.asarray(looks | (place == self.config.visit))


def build_world(config: SimulationConfig) -> World:
    """Draw the public laws of a simulation."""
    rng = np.random.default_rng([config.seed, 0])
    clusters = config.interests + config.errands
    facets = 1 if config.regime == "order" else config.facets
    # Deal the shuffled items out to (cluster, facet) in rounds; early rounds are the popular ones.
    dealt = 1 + rng.permutation(config.items - 1)
    places = np.arange(config.items - 1)
    level = places // (clusters * facets)
    cluster = np.full(config.items, -1)
    facet = np.full(config.items, -1)
    popularity = np.zeros(config.items)
    arrival = np.zeros(config.items, dtype=np.int64)
    cluster[dealt] = places % clusters
    facet[dealt] = places // clusters % facets
    popularity[dealt] = (1.0 + places // clusters) ** -config.zipf
    late = (rng.random(level.size) < config.new_items) & (level > 0)  # level 0: no law is empty
    arrival[dealt] = np.where(late, rng.integers(1, EPOCHS, level.size), 0)

    def law(c: int, f: int, neighbour: int) -> Floats:
        own = popularity * (cluster == c) * np.where(facet == f, 1.0, FACET_LEAK)
        other = popularity * (cluster == neighbour)
        mixed = (1 - config.overlap) * own / own.sum() + config.overlap * other / other.sum()
        return np.asarray(mixed, dtype=np.float64)

    c_home, c_away = config.interests, config.errands
    home_laws = [law(c, f, (c + 1) % c_home) for c in range(c_home) for f in range(facets)]
    playlist_prior = np.zeros(0)
    if config.regime == "recall":
        able = np.flatnonzero((cluster >= 0) & (cluster < c_home) & (arrival == 0))
        able = np.sort(able[np.argsort(-popularity[able], kind="stable")[:PLAYLIST_ITEMS]])
        playlist_prior = popularity[able] / popularity[able].sum()
        home_laws = list(np.eye(config.items)[able])
    away_laws = [
        law(c_home + g, f, c_home + (g + 1) % c_away) for g in range(c_away) for f in range(facets)
    ]
    gate_law = np.eye(config.items)[GATE_ITEM]
    weights = np.stack([*home_laws, *away_laws, popularity / popularity.sum(), gate_law])
    arrived = arrival[None, :] <= np.arange(EPOCHS)[:, None]
    subsets = np.array(list(combinations(range(c_home), config.per_user)), dtype=np.int64)
    prior = ((subsets + 1.0) ** -0.5).prod(axis=1)
    # A Latin square: given b alone (or a alone) every outcome is equally likely.
    left, right, name = (rng.permutation(c_home) for _ in range(3))
    pair_rule = name[(left[:, None] + right[None, :]) % c_home].astype(np.int64)
    return World(
        config=config,
        weights=weights,
        totals=arrived.astype(np.float64) @ weights.T,
        arrival=arrival,
        home=len(home_laws),
        away=len(away_laws),
        subsets=subsets,
        subset_prior=prior / prior.sum(),
        pair_rule=pair_rule,
        playlist_prior=playlist_prior,
    )


def epochs_of(times: Ints) -> Ints:
    """Epoch of item arrival, 0 .. EPOCHS-1, that times in seconds fall in."""
    return np.clip((times - START) // EPOCH_SECONDS, 0, EPOCHS - 1)


def offer_epochs(times: Ints, first: Ints) -> Ints:
    """Epoch whose items each event could choose from: that of the event before, (n,).

    What a user sees was fixed when the event before happened, so that a prediction needs no
    knowledge of the target's own time. A user's first event (absolute places `first`) has its own.
    """
    own = epochs_of(times)
    offer = np.concatenate([own[:1], own[:-1]])
    offer[first] = own[first]
    return offer


def numbered_ids(letter: str, n: int) -> pl.Series:
    """Ids "u0000" … whose order as text is the order of the numbers."""
    digits = len(str(max(n - 1, 0)))
    return pl.Series([f"{letter}{number:0{digits}d}" for number in range(n)], dtype=pl.String)
