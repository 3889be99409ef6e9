"""What is special to recurrent mixers: gates that reset, cuts, and the peers' own cells."""

from __future__ import annotations

import pytest
import torch
from mixers.definitions import examples_of
from torch import nn

from longrec.checks import mixers as properties
from longrec.mixers import Context
from longrec.mixers.gru import GRUMixer, GRUState

RECURRENT = ("gru", "lru", "mamba")
CUTS = (1, 63, 64, 65)


@pytest.mark.parametrize("name", RECURRENT)
def test_cuts_near_chunks_and_windows_of_a_few_events_change_nothing(name):
    make = next(iter(examples_of(name).values()))
    pieces = [[n] for n in CUTS]
    properties.check_splits(make, pieces, steps=1)
    properties.check_splits(make, [[1], [2], [3]] * 12, steps=3, seed=1)


@pytest.mark.parametrize("name", RECURRENT)
def test_a_row_is_what_it_is_beside_a_long_neighbour_with_a_past(name):
    mixer = properties.build(next(iter(examples_of(name).values())))
    (short, _), (long, _) = properties.events(3), properties.events(140, seed=1)
    past = mixer.prefill(long[None, :70], mixer.initial_state(1))[1]
    alone, _ = mixer.prefill(short[None], past)
    x = torch.stack([torch.nn.functional.pad(short, (0, 0, 0, 137), value=1e3), long])
    both = type(past)(*(part.repeat(2, *[1] * (part.ndim - 1)) for part in past))
    y, _ = mixer.prefill(x, both, Context(lengths=torch.tensor([3, 140])))
    torch.testing.assert_close(y[0, :3], alone[0])


def test_gru_is_torch_s_cell_with_its_weights():
    mixer, cell = properties.build(GRUMixer), nn.GRUCell(12, 12).double()
    with torch.no_grad():
        for name, weight in cell.named_parameters():
            weight.copy_(getattr(mixer.gru, f"{name}_l0"))
    x, _ = properties.events(20)
    hidden, rows = torch.randn(1, 12, dtype=torch.float64), []
    state = GRUState(hidden)
    for event in x:
        hidden = cell(event[None], hidden)
        rows.append(hidden)
    y, last = mixer.prefill(x[None], state)
    torch.testing.assert_close(y[0], torch.cat(rows))
    torch.testing.assert_close(last.hidden, hidden)


@pytest.mark.parametrize("form", ["prefill", "step"])
def test_a_closed_reset_gate_hides_the_state_from_the_candidate(form):
    mixer = properties.build(GRUMixer)
    with torch.no_grad():
        mixer.gru.bias_ih_l0[:24] = -1e3  # r = 0, and z = 0: nothing is kept but by the candidate
    x, _ = properties.events(5)
    seen = torch.cat([mixer.prefill(event[None, None], mixer.initial_state(1))[0] for event in x])
    if form == "prefill":
        y, _ = mixer.prefill(x[None], GRUState(torch.full((1, 12), 0.9, dtype=torch.float64)))
    else:
        state, rows = GRUState(torch.full((1, 12), 0.9, dtype=torch.float64)), []
        for event in x:
            row, state = mixer.step(event[None], state)
            rows.append(row)
        y = torch.stack(rows, 1)
    torch.testing.assert_close(y[0], seen[:, 0], rtol=0, atol=1e-12)
    # An open one shows it.
    with torch.no_grad():
        mixer.gru.bias_ih_l0[:12] = 1e3
    y, _ = mixer.prefill(x[None], GRUState(torch.full((1, 12), 0.9, dtype=torch.float64)))
    assert (y[0, 1:] - seen[1:, 0]).abs().amax(1).min() > 1e-3
