"""Records: fixed size, every tensor whole, foreign bytes refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models.small_models import SEQUENCE, N, make, sequences

from longrec.core.errors import DataError
from longrec.models import MODELS
from longrec.serving.records.record import RecordLayout, flat
from longrec.serving.stores.protocol import HEADER, read_header

EXACT = [name for name in SEQUENCE if MODELS[name].streaming == "exact"]
DIGEST = "ab" * 32


def layout_of(name: str, **settings) -> tuple[RecordLayout, torch.nn.Module]:
    model = make(name, torch.float32, **settings)
    return RecordLayout(model.initial_state(1), DIGEST), model


@pytest.mark.parametrize("name", EXACT)
def test_a_state_comes_back_from_its_bytes(name: str) -> None:
    layout, model = layout_of(name)
    items, times = sequences(3)
    with torch.no_grad():
        state = model.prefill(items, model.initial_state(3), ctx_of(times))[1]
    records = layout.load([None] * 3)
    layout.write(records, state)
    records["sequence"] = 7
    blobs = [records[i : i + 1].tobytes() for i in range(3)]
    assert {len(blob) for blob in blobs} == {layout.size}
    assert read_header(blobs[1]).sequence == 7
    back = layout.load(blobs)
    for got, wanted in zip(flat(layout.state(back)), flat(state), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", EXACT)
def test_an_empty_record_is_the_initial_state(name: str) -> None:
    layout, model = layout_of(name)
    for got, wanted in zip(
        flat(layout.state(layout.load([None, None]))), flat(model.initial_state(2)), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)


def ctx_of(times):
    from longrec.mixers import Context

    return Context(times=times)


@pytest.mark.parametrize(
    ("name", "most"), [("elastic", 24 * 1024), ("hydrarec", 4 * 1024)], ids=["elastic", "hydrarec"]
)
def test_records_are_as_small_as_promised(name: str, most: int) -> None:
    model = MODELS[name](MODELS[name].config_class(), N)
    assert model.config.dim == 64
    assert model.config.layers == 2
    layout = RecordLayout(model.initial_state(1), DIGEST)
    assert HEADER.size < layout.size <= most


def test_foreign_bytes_are_refused_with_the_mend() -> None:
    layout, _ = layout_of("hydrarec")
    good = layout.load([None]).tobytes()
    for bad, word in [
        (b"nothing", "does not begin"),
        (good[:-8], "bytes instead of"),
        (b"LRU3" + good[4:], "upgrade longrec"),
        (good[:8] + bytes(8) + good[16:], "belongs to a model of digest 0000"),
    ]:
        with pytest.raises(DataError, match=word) as told:
            layout.load([good, bad])
        assert "rebuild" in str(told.value) or "upgrade" in str(told.value)
    with pytest.raises(DataError, match="rebuild"):
        read_header(b"x" * 100)


def test_records_do_not_share_memory_with_their_bytes() -> None:
    layout, _ = layout_of("hydrarec")
    blob = layout.load([None]).tobytes()
    records = layout.load([blob, blob])
    records["sequence"][0] = 5
    assert records["sequence"].tolist() == [5, 0]
    assert layout.load([blob])["sequence"][0] == 0
    assert np.frombuffer(blob, layout.dtype)["sequence"][0] == 0
