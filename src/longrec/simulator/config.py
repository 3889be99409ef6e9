"""The public half of a simulation: its configuration, its schedule, and the laws of its items.

Nothing here is about a single user: who knows the `World` knows everything that an ideal model
could have learned from infinitely many users.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import numpy.typing as npt
import polars as pl

from longrec.core.arrays import Floats, Ints
from longrec.core.errors import UsageError

Flags = npt.NDArray[np.bool_]

REGIMES = ("interests", "recall", "order")
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

    users: int = 2000
    items: int = 500
    mean_length: int = 120
    interests: int = 10
    per_user: int = 3
    errands: int = 4
    facets: int = 2
    visit: int = 16
    evidence_distance: int = 60
    session: float = 5.0
    switch: float = 0.8
    zipf: float = 1.2
    overlap: float = 0.1
    background: float = 0.05
    new_items: float = 0.3
    regime: str = "interests"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        for name in ("users", "items", "interests", "per_user", "errands", "facets"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        _require(self.regime in REGIMES, "regime", self.regime, f"must be one of {REGIMES}")
        _require(self.seed >= 0, "seed", self.seed, "must not be negative")
        _require(self.visit >= 2, "visit", self.visit, "must be at least 2")
        _require(
            self.evidence_distance >= 0,
            "evidence_distance",
            self.evidence_distance,
            "must not be negative",
        )
        _require(self.session >= 1, "session", self.session, "must be at least 1 event")
        _require(self.zipf >= 0, "zipf", self.zipf, "must not be negative")
        for name in ("switch", "overlap", "new_items"):
            value = getattr(self, name)
            _require(0 <= value <= 1, name, value, "must lie between 0 and 1")
        _require(0 < self.background < 1, "background", self.background, "must lie inside (0, 1)")
        _require(
            self.per_user <= self.interests,
            "per_user",
            self.per_user,
            f"must not exceed interests={self.interests}",
        )
        hidden = comb(self.interests, self.per_user) * self.per_user * self.facets
        _require(
            hidden <= MAX_HIDDEN,
            "per_user",
            self.per_user,
            f"makes {hidden} hidden states, exact filtering allows {MAX_HIDDEN}: "
            "lower interests, per_user or facets",
        )
        fewest = 1 + (self.interests + self.errands) * self.facets
        _require(self.items >= fewest, "items", self.items, f"must be at least {fewest}")
        shortest = self.cycle + endings(self.visit)[-1] + 1
        _require(
            self.mean_length >= shortest,
            "mean_length",
            self.mean_length,
            f"must be at least {shortest}: every history holds a visit of {self.visit} events, "
            f"{self.evidence_distance} away, and the return",
        )

    @property
    def cycle(self) -> int:
        """Events from the start of one visit to the start of the next, ``h + D``."""
        return self.visit + self.evidence_distance


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise UsageError(f"simulation: {name}={value!r} {rule}")


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


def menu_epochs(times: Ints, first: Ints) -> Ints:
    """Epoch whose items each event could choose from: that of the event before, (n,).

    What a user sees was fixed when the event before happened, so that a prediction needs no
    knowledge of the target's own time. A user's first event (absolute places `first`) has its own.
    """
    own = epochs_of(times)
    menu = np.concatenate([own[:1], own[:-1]])
    menu[first] = own[first]
    return menu


def numbered_ids(letter: str, n: int) -> pl.Series:
    """Ids "u0000" … whose order as text is the order of the numbers."""
    digits = len(str(max(n - 1, 0)))
    return pl.Series([f"{letter}{number:0{digits}d}" for number in range(n)], dtype=pl.String)
