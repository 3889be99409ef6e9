"""The simulated histories have the properties that their model promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from longrec.core.errors import UsageError
from longrec.simulator.config import (
    ENDINGS,
    EPOCHS,
    SESSION_GAP,
    build_world,
    epochs_of,
    offer_epochs,
)
from longrec.simulator.simulate import SimulationConfig, simulate


@pytest.fixture(scope="module")
def simulation():
    return simulate(SimulationConfig())


def numbers(simulation) -> np.ndarray:
    """Item number of each event."""
    return simulation.events["item"].str.slice(1).cast(pl.Int64).to_numpy()


def first_events(simulation) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(simulation.lengths)[:-1]])


def test_same_seed_same_events_and_another_seed_others(simulation):
    again = simulate(SimulationConfig())
    assert again.events.equals(simulation.events)
    assert again.latent.equals(simulation.latent)
    other = simulate(SimulationConfig(seed=1))
    assert not other.events.head(1000).equals(simulation.events.head(1000))


def test_events_are_by_user_with_growing_times(simulation):
    events = simulation.events
    assert events.schema == {"user": pl.String, "item": pl.String, "time": pl.Int64}
    assert events.height == simulation.lengths.sum() == simulation.latent.height
    counted = events.group_by("user", maintain_order=True).len()
    assert counted["user"].is_sorted()
    assert counted["len"].to_list() == simulation.lengths.tolist()
    gaps = np.delete(np.diff(events["time"].to_numpy()), first_events(simulation)[1:] - 1)
    assert gaps.min() > 0


def test_lengths_have_the_mean_asked_for_and_a_long_tail(simulation):
    lengths = simulation.lengths
    assert lengths.mean() == pytest.approx(simulation.config.mean_length, rel=0.15)
    assert lengths.max() > 6 * np.median(lengths)
    last = (lengths - 1) % simulation.config.cycle
    assert last.min() >= 1
    assert last.max() < ENDINGS


def test_time_gaps_show_exactly_the_sessions(simulation):
    times = simulation.events["time"].to_numpy()
    starts = simulation.latent["session_start"].to_numpy()
    inner = np.setdiff1d(np.arange(1, times.size), first_events(simulation))
    assert np.array_equal((times[inner] - times[inner - 1]) >= SESSION_GAP, starts[inner])


def test_no_item_occurs_before_it_arrives_and_new_items_do_occur(simulation):
    times, items = simulation.events["time"].to_numpy(), numbers(simulation)
    arrival = simulation.world.arrival[items]
    assert (arrival <= offer_epochs(times, first_events(simulation))).all()
    assert (arrival <= epochs_of(times)).all()
    assert (arrival > 0).mean() > 0.02
    assert simulation.world.arrival.max() < EPOCHS


def test_popularity_has_a_long_tail_inside_an_interest(simulation):
    home = simulation.latent["component"].to_numpy() < simulation.config.facets  # interest 0
    counts = np.sort(np.bincount(numbers(simulation)[home]))[::-1]
    counts = counts[counts > 0]
    assert counts[0] > 20 * np.median(counts)
    assert counts.size > 40


def test_gate_and_phases_follow_the_public_schedule(simulation):
    config, latent = simulation.config, simulation.latent
    first = first_events(simulation)
    counts = np.arange(latent.height) - np.repeat(first, simulation.lengths)
    assert np.array_equal(latent["home"].to_numpy(), counts % config.cycle < config.visit)
    assert np.array_equal(latent["gate"].to_numpy(), counts % config.cycle == config.cycle - 1)
    assert np.array_equal(latent["gate"].to_numpy(), numbers(simulation) == 0)


def test_users_own_interests_for_life_that_return_after_hundreds_of_events():
    simulation = simulate(SimulationConfig(users=300, evidence_distance=300, mean_length=600))
    config = simulation.config
    interest = simulation.latent["component"].to_numpy() // config.facets
    home = simulation.latent["home"].to_numpy()
    user = np.repeat(np.arange(config.users), simulation.lengths)
    frame = pl.DataFrame({"user": user, "interest": interest}).with_row_index("event")
    frame = frame.filter(pl.Series(home))
    owned = frame.group_by("user").agg(pl.col("interest").n_unique())["interest"]
    assert owned.max() == config.per_user
    back = frame.with_columns(gap=pl.col("event").diff().over("user", "interest"))
    returns = (back["gap"] > 300).sum()
    assert returns > 2 * config.users


def test_an_interest_lasts_longer_than_a_session_and_shorter_than_a_life(simulation):
    config, latent = simulation.config, simulation.latent
    component = latent["component"].to_numpy()
    away = ~latent["home"].to_numpy() & ~latent["gate"].to_numpy()
    pairs = away[1:] & away[:-1]
    stays = (component[1:] // config.facets == component[:-1] // config.facets)[pairs].mean()
    assert 1 / (1 - stays) == pytest.approx(config.session / config.switch, rel=0.1)


def test_recall_replays_the_playlist_item_for_item():
    simulation = simulate(SimulationConfig(regime="recall", users=200))
    config = simulation.config
    plain = ~simulation.latent["background"].to_numpy()
    items = numbers(simulation)
    now = np.flatnonzero(simulation.latent["home"].to_numpy() & plain)
    count = now - np.repeat(first_events(simulation), simulation.lengths)[now]
    now = now[count >= config.cycle]
    now = now[plain[now - config.cycle]]
    assert now.size > 1000
    assert np.array_equal(items[now], items[now - config.cycle])


def test_order_depends_on_the_pair_and_not_on_the_last_alone():
    simulation = simulate(SimulationConfig(regime="order", users=500))
    home = simulation.latent["home"].to_numpy()
    c = simulation.latent["component"].to_numpy()
    user = np.repeat(np.arange(500), simulation.lengths)
    three = np.flatnonzero(home[2:] & home[1:-1] & home[:-2] & (user[2:] == user[:-2]))
    a, b, after = c[three], c[three + 1], c[three + 2]
    rule = simulation.world.pair_rule
    assert (rule[a, b] == after).mean() == pytest.approx(0.8 + 0.2 / len(rule), abs=0.02)
    given_last = np.zeros_like(rule)
    np.add.at(given_last, (b, after), 1)
    assert (given_last.max(axis=1) / given_last.sum(axis=1)).max() < 0.15
    assert (rule != rule.T).sum() > len(rule)


def test_near_evidence_has_no_away_phase():
    simulation = simulate(SimulationConfig(evidence_distance=0, users=100))
    assert simulation.latent["home"].all()


def test_histories_keep_users_and_items_in_order(tmp_path: Path):
    simulation = simulate(SimulationConfig(users=50))
    histories = simulation.to_histories(tmp_path / "h")
    assert np.array_equal(histories.lengths, simulation.lengths)
    assert histories.user_ids.to_list() == simulation.events["user"].unique().sort().to_list()
    assert histories.catalog.take(histories.items).to_list() == simulation.events["item"].to_list()
    assert np.array_equal(histories.times, simulation.events["time"].to_numpy())


def test_every_law_offers_something_at_every_epoch():
    world = build_world(SimulationConfig(new_items=1.0))
    assert (world.totals > 0).all()
    assert world.weights.sum(axis=1) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"users": 0}, "users is 0; it must"),
        ({"regime": "chaos"}, "regime is 'chaos'; it must"),
        ({"per_user": 11}, "per_user is 11; it must"),
        ({"interests": 40, "per_user": 8}, "hidden states"),
        ({"items": 10}, "items is 10; it must"),
        ({"evidence_distance": -1}, "evidence_distance is -1; it must"),
        ({"evidence_distance": 300}, "mean_length is 120; it must"),
        ({"background": 0.0}, "background is 0.0; it must"),
        ({"session": 0.5}, "session is 0.5; it must"),
        ({"visit": 1}, "visit is 1; it must"),
        ({"overlap": 1.5}, "overlap is 1.5; it must"),
        ({"zipf": -1.0}, "zipf is -1.0; it must"),
        ({"seed": -1}, "seed is -1; it must"),
    ],
)
def test_impossible_configurations_are_refused(change, says):
    with pytest.raises(UsageError, match=says):
        SimulationConfig(**change)
