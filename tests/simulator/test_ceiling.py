"""The filter is the exact posterior: against enumeration, against its own entropy, in use."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from longrec.core.errors import UsageError
from longrec.data.splits import Targets, leave_one_out
from longrec.simulator import ceiling as oracle
from longrec.simulator.config import ORDER_NOISE
from longrec.simulator.simulate import SimulationConfig, simulate

TINY = {
    "users": 60,
    "items": 6,
    "mean_length": 8,
    "interests": 3,
    "per_user": 2,
    "errands": 2,
    "facets": 1,
    "visit": 3,
    "evidence_distance": 2,
    "session": 2.0,
    "switch": 0.6,
    "overlap": 0.2,
    "background": 0.1,
    "new_items": 0.8,
}


def made(folder: Path, **changes):
    """Simulate and prepare."""
    simulation = simulate(SimulationConfig(**changes))
    return simulation, simulation.to_histories(folder / "histories")


def all_targets(positions: np.ndarray, histories) -> Targets:
    users = np.searchsorted(histories.offsets, positions, side="right") - 1
    items = histories.items[positions].astype(np.int64)
    return Targets(users, positions, items, np.ones(len(users), dtype=bool))


def table(simulation, histories, targets, **options) -> np.ndarray:
    """All probabilities as one (n, n_items + 1) array, rows checked to come once each."""
    out = np.full((len(targets.users), histories.n_items + 1), np.nan)
    for rows, probabilities in oracle.predictive(simulation, histories, targets, **options):
        assert np.isnan(out[rows]).all()
        out[rows] = probabilities
    assert not np.isnan(out).any()
    return out


class Enumeration:
    """The generative model written once more, naively: sum over every path of hidden states."""

    def __init__(self, simulation):
        self.world, self.config = simulation.world, simulation.config
        items = simulation.events["item"].str.slice(1).cast(int).to_list()
        times = simulation.events["time"].to_list()
        starts = simulation.latent["session_start"].to_list()
        ends = np.cumsum(simulation.lengths)
        self.users = [
            (items[e - n : e], times[e - n : e], starts[e - n : e])
            for e, n in zip(ends, simulation.lengths, strict=True)
        ]

    @cache  # noqa: B019 (an enumeration lives as long as its test)
    def law(self, component: int, epoch: int) -> np.ndarray:
        """Law of the item of one component at one epoch."""

        def among_arrived(k):
            weights = self.world.weights[k] * (self.world.arrival <= epoch)
            return weights / weights.sum()

        if component == self.world.gate:
            return among_arrived(component)
        eps = self.config.background
        return (1 - eps) * among_arrived(component) + eps * among_arrived(self.world.background)

    def next_item(self, user: int, t: int, since: int = 0) -> np.ndarray:
        """P(item t | items since .. t-1), over the simulated items."""
        total = np.zeros(self.config.items)
        for private, weight in self.private_facts():
            total += weight * self.walk(user, private, 0, t, since, None, None)
        return total / total.sum()

    def private_facts(self):
        """What is drawn once per user, with its probability."""
        if self.config.regime == "interests":
            return [
                (tuple(s), p)
                for s, p in zip(self.world.subsets, self.world.subset_prior, strict=True)
            ]
        if self.config.regime == "order":
            pairs = list(product(range(self.config.interests), repeat=2))
            return [(pair, 1 / len(pairs)) for pair in pairs]
        prior = self.world.playlist_prior
        playlists = product(range(len(prior)), repeat=self.config.visit)
        return [(p, float(np.prod(prior[list(p)]))) for p in playlists]

    def walk(self, user, private, t, target, since, home, away) -> np.ndarray:
        """Probability of the observed items t .. target-1 times the law of item `target`."""
        items, times, starts = self.users[user]
        month = 30 * 86_400
        epoch = min((times[max(t - 1, 0)] - 1_577_836_800) // month, 23)
        place = t % self.config.cycle
        if t == target:
            certain = place < 3 or place == self.config.visit  # a visit of 3 is all looks around
            chance = 1.0 if certain else 1 / self.config.session
            cases = [(True, chance), (False, 1 - chance)]
        else:
            cases = [(starts[t], 1.0)]
        total = np.zeros(self.config.items)
        for start, weight in cases:
            for component, p, next_home, next_away in self.moves(private, place, start, home, away):
                if weight * p == 0:
                    continue
                law = self.law(component, epoch)
                if t == target:
                    total += weight * p * law
                else:
                    seen = law[items[t]] if t >= since else 1.0
                    rest = self.walk(user, private, t + 1, target, since, next_home, next_away)
                    total += p * seen * rest
        return total

    def moves(self, private, place, start, home, away):
        """Yield (component, probability, home state, away state) of one event."""
        config, facets = self.config, self.world.away // self.config.errands
        if config.evidence_distance and place == config.cycle - 1:
            yield self.world.gate, 1.0, home, away
        elif place >= config.visit:
            for (g, f), p in self.chain(away, config.errands, facets, start):
                yield self.world.home + g * facets + f, p, home, (g, f)
        elif config.regime == "recall":
            yield private[place], 1.0, home, away
        elif config.regime == "order":
            a, b = home or private
            for c in range(config.interests):
                hit = (1 - ORDER_NOISE) * (self.world.pair_rule[a, b] == c)
                yield c, hit + ORDER_NOISE / config.interests, (b, c), away
        else:
            for (slot, f), p in self.chain(home, config.per_user, facets, start):
                yield private[slot] * facets + f, p, (slot, f), away

    def chain(self, state, slots, facets, start):
        """Yield ((slot, facet), probability)."""
        for slot, facet in product(range(slots), range(facets)):
            if state is None:
                p = 1 / (slots * facets)
            elif start:
                stay = 1 - self.config.switch
                p = (stay if slot == state[0] else self.config.switch / (slots - 1)) / facets
            else:
                p = float((slot, facet) == state)
            yield (slot, facet), p


@pytest.mark.parametrize(
    ("changes", "events"),
    [
        ({}, 7),
        ({"facets": 2, "items": 14, "interests": 3, "seed": 3}, 6),
        ({"evidence_distance": 0, "visit": 3, "facets": 2, "items": 12, "seed": 1}, 6),
        ({"regime": "order", "items": 9, "seed": 2}, 7),
        ({"regime": "recall", "items": 12}, 7),
    ],
)
def test_filter_equals_enumeration_of_all_hidden_paths(tmp_path, changes, events):
    simulation, histories = made(tmp_path, **(TINY | changes))
    naive = Enumeration(simulation)
    chosen = [(u, t) for u in (0, 7, 31) for t in range(1, min(events, simulation.lengths[u]))]
    positions = np.array([histories.offsets[u] + t for u, t in chosen])
    targets = all_targets(positions, histories)
    column = histories.catalog.find(simulation.world.item_ids())
    occurs = column > 0
    for window in (None, 3):
        found = table(simulation, histories, targets, window=window)
        for row, (u, t) in zip(found, chosen, strict=True):
            expected = naive.next_item(u, t, since=max(0, t - window) if window else 0)
            np.testing.assert_allclose(row[column[occurs]], expected[occurs], rtol=0, atol=1e-10)
            assert row.sum() == pytest.approx(expected[occurs].sum(), abs=1e-12)


@pytest.mark.parametrize("window", [None, 30])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"regime": "recall"},
        {"regime": "order"},
        {"evidence_distance": 0, "new_items": 0.6, "facets": 3},
    ],
)
def test_probabilities_are_calibrated(tmp_path, changes, window):
    """The mean log-loss is the mean entropy, and every band of probabilities comes true."""
    simulation, histories = made(tmp_path, users=100, seed=5, **changes)
    events = np.arange(histories.n_events)
    count = events - np.repeat(histories.offsets[:-1], histories.lengths)
    inner = events[(count > 0) & (count < 300)]  # the filter takes a step per event of the longest
    number = 3000 if window is None else 600  # a window filters anew for each target
    positions = np.sort(np.random.default_rng(0).choice(inner, number, replace=False))
    targets = all_targets(positions, histories)
    p = table(simulation, histories, targets, window=window)
    assert p.min() >= 0
    assert p.sum(axis=1).max() < 1 + 1e-12
    assert (p[:, 0] == 0).all()
    with np.errstate(divide="ignore"):
        surprise = np.where(p > 0, -np.log(p), 0)
    entropy = (p * surprise).sum(axis=1)
    spread = (p * surprise**2).sum(axis=1) - entropy**2
    own = surprise[np.arange(len(p)), histories.items[positions]]
    if window is None:  # errors are then uncorrelated within a user
        z = (own - entropy).sum() / np.sqrt(spread.sum())
        assert abs(z) < 4
    assert own.mean() == pytest.approx(entropy.mean(), rel=0.05)
    hit = np.zeros_like(p, dtype=bool)
    hit[np.arange(len(p)), histories.items[positions]] = True
    for low, high in [(0.001, 0.01), (0.01, 0.05), (0.05, 0.2), (0.2, 0.6), (0.6, 1.1)]:
        band = (p >= low) & (p < high)
        if band.sum() > 500:
            error = 5 * np.sqrt((p[band] * (1 - p[band])).sum())
            assert abs(hit[band].sum() - p[band].sum()) < error


def ndcg(ranks: np.ndarray, k: int = 10) -> float:
    return float(np.where(ranks <= k, 1 / np.log2(ranks + 1), 0).mean())


def ranks_of(scores: np.ndarray, true: np.ndarray) -> np.ndarray:
    scores[:, 0] = -1
    return (scores >= scores[np.arange(len(true)), true][:, None]).sum(axis=1)


def baselines(histories, split) -> dict[str, float]:
    """Popularity, and the transitions from the last item, both counted on training events."""
    events = np.arange(histories.n_events)
    user = np.repeat(np.arange(histories.n_users), histories.lengths)
    trains = events < split.train_end[user]
    items, n = np.asarray(histories.items), histories.n_items + 1
    true = items[split.test.positions]
    popular = np.bincount(items[trains], minlength=n).astype(float)
    pair = np.flatnonzero(trains[1:] & (user[1:] == user[:-1]))
    follows = np.zeros((n, n))
    np.add.at(follows, (items[pair], items[pair + 1]), 1)
    last = follows[items[split.test.positions - 1]] + 1e-9 * popular
    return {
        "popularity": ndcg(ranks_of(np.tile(popular, (len(true), 1)), true)),
        "last-item": ndcg(ranks_of(last, true)),
    }


BOUNDS = {
    "ceiling": {},
    "window 50": {"window": 50},
    "window 15": {"window": 15},
    "latent": {"latent": True},
}


def scored(folder: Path, *bounds: str, share: float = 0.9, **changes) -> dict[str, float]:
    """NDCG@10, unfiltered, of the bounds and the baselines on the last events.

    The filter takes a step per event of the longest history: the share with the shortest is asked.
    """
    simulation, histories = made(folder, **changes)
    split = leave_one_out(histories)
    lengths = split.test.lengths(histories.offsets)
    short = lengths <= np.quantile(lengths, share)
    split = replace(split, test=split.test.where(short))
    out = baselines(histories, split)
    for name in ("ceiling", "window 50", *bounds):
        ranks = oracle.ceiling(simulation, histories, split.test, **BOUNDS[name])
        out[name] = ndcg(ranks["rank_unfiltered"].to_numpy())
    return out


def test_far_evidence_is_worth_much_and_no_window_has_it(tmp_path):
    got = scored(tmp_path, "latent", share=1, users=300, evidence_distance=300, mean_length=500)
    assert got["ceiling"] > 1.25 * got["window 50"]
    assert got["ceiling"] > 2 * got["last-item"]
    assert got["ceiling"] > 10 * got["popularity"]
    assert got["latent"] > got["ceiling"]
    assert got["window 50"] > got["last-item"]


def test_near_evidence_lies_within_the_window(tmp_path):
    got = scored(tmp_path, "window 15", "latent", users=300, evidence_distance=0)
    assert got["window 50"] == pytest.approx(got["ceiling"], rel=0.01)
    assert got["window 15"] < got["ceiling"]
    assert got["ceiling"] > 1.5 * max(got["popularity"], got["last-item"])
    assert got["latent"] > got["ceiling"]


def test_default_separates_whole_histories_from_windows(tmp_path):
    got = scored(tmp_path, "latent", users=600)
    assert got["ceiling"] > 1.2 * got["window 50"]
    assert got["ceiling"] > 2 * max(got["popularity"], got["last-item"])
    assert got["latent"] > got["ceiling"]


def test_recall_needs_one_far_event(tmp_path):
    got = scored(tmp_path, "latent", users=400, regime="recall")
    assert got["ceiling"] > 0.85
    assert got["window 50"] < 0.3
    assert got["latent"] > got["ceiling"]


def test_order_is_carried_over_the_time_away(tmp_path):
    got = scored(tmp_path, users=400, regime="order")
    assert got["ceiling"] > got["window 50"] + 0.03
    assert got["ceiling"] > 1.5 * got["last-item"]


def test_ranks_agree_with_a_plain_computation(tmp_path):
    simulation, histories = made(tmp_path, users=40)
    rng = np.random.default_rng(1)
    inner = np.setdiff1d(np.arange(histories.n_events), histories.offsets)
    targets = all_targets(rng.choice(inner, 100), histories)  # any order, doubles too
    frame = oracle.ceiling(simulation, histories, targets)
    p = table(simulation, histories, targets)
    for row, probabilities in zip(frame.iter_rows(named=True), p, strict=True):
        start, item = histories.offsets[row["user"]], histories.items[row["position"]]
        before = set(histories.items[start : row["position"]].tolist())
        assert row["length"] == row["position"] - start
        assert row["repeat"] == (item in before)
        assert row["known"]
        rounded = [float(f"{x:.11g}") for x in probabilities]
        order = sorted(range(1, len(rounded)), key=lambda i: (-rounded[i], i))
        assert row["rank_unfiltered"] == order.index(item) + 1
        kept = [i for i in order if i == item or i not in before]
        assert row["rank"] == kept.index(item) + 1


def test_a_target_is_predicted_the_same_alone_and_among_others(tmp_path):
    simulation, histories = made(tmp_path, users=300)  # in more than one block of stretches
    rng = np.random.default_rng(2)
    inner = np.setdiff1d(np.arange(histories.n_events), histories.offsets)
    positions = rng.choice(inner, 1000, replace=False)
    many = table(simulation, histories, all_targets(positions, histories))
    for row in (0, 500, 999):
        one = all_targets(positions[row : row + 1], histories)
        alone = table(simulation, histories, one)
        np.testing.assert_allclose(alone[0], many[row], rtol=0, atol=1e-12)
        window = table(simulation, histories, one, window=histories.n_events)
        np.testing.assert_allclose(window[0], many[row], rtol=0, atol=1e-12)


def test_foreign_histories_and_windows_are_refused(tmp_path):
    simulation, histories = made(tmp_path, users=40)
    targets = leave_one_out(histories).test
    with pytest.raises(UsageError, match="window=0"):
        oracle.ceiling(simulation, histories, targets, window=0)
    other = simulate(SimulationConfig(users=40, seed=9))
    with pytest.raises(UsageError, match="do not come from this simulation"):
        oracle.ceiling(other, histories, targets)
