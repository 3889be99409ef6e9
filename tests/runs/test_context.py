"""A context cuts what is trained on; what evaluate measures is what a stream serves."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from small_histories import tiny_histories, walks

import longrec
from longrec.data.splits import leave_one_out
from longrec.evaluation.metrics import MISS

SMALL = {
    "elastic": {"dim": 8, "layers": 1, "heads": 1, "experts": 3, "ffn_dim": 8, "dropout": 0},
    "hydrarec": {"dim": 8, "layers": 1, "ffn_dim": 8, "dropout": 0},
    "sasrec": {"dim": 8, "layers": 1, "heads": 1, "ffn_dim": 8, "dropout": 0, "max_length": 30},
}
CONTEXT = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rows = walks(25, 40, 3, 24)
    times = [[100 * user + n * n for n in range(len(row))] for user, row in enumerate(rows)]
    return tiny_histories(tmp_path_factory.mktemp("context") / "histories", rows, times, 40)


@pytest.mark.filterwarnings("ignore:.*was trained on the last 4 events")
@pytest.mark.parametrize(
    ("name", "hides"), [("elastic", True), ("hydrarec", False), ("sasrec", True)]
)
def test_a_stream_serves_what_evaluate_measured(data, name, hides, tmp_path):
    rec = longrec.train(
        *(data, name, tmp_path / "run"),
        **SMALL[name],
        **{"context": CONTEXT, "max_epochs": 2, "batch_tokens": 200, "exclude_seen": hides},
    )
    assert rec.provenance["training"]["dropped"] > 0
    # A model with a state reads all events, and one without no more than it was trained on.
    assert rec.limit == (CONTEXT if name == "sasrec" else None)
    metrics = longrec.evaluate(rec)
    users, targets = data.user_ids, leave_one_out(data).test
    ids = data.catalog.take(data.items.astype(np.int64)).to_list()
    owner = np.repeat(np.arange(data.n_users), data.lengths)
    last = np.isin(np.arange(data.n_events), targets.positions)
    events = pl.DataFrame({"user": users.gather(owner), "item": ids, "time": data.times})
    places = []
    with rec.open_stream(str(tmp_path / "store"), "process") as stream:
        stream.observe_many(events.filter(pl.Series(~last)), user="user", item="item", time="time")
        for user, position in zip(targets.users, targets.positions, strict=True):
            found = stream.recommend(users[int(user)], k=10)
            here = slice(data.offsets[user], position)
            history = [
                {"item": item, "time": int(time)}
                for item, time in zip(ids[here], data.times[here], strict=True)
            ]
            expected = rec.recommend(histories=[history], k=10)
            assert found["item"].to_list() == expected["item"].to_list()
            served = found["item"].to_list()
            places.append(served.index(ids[position]) + 1 if ids[position] in served else MISS)
    hits = np.array(places) <= 10
    assert metrics["served/hr@10"] == hits.mean()
    assert 0 < hits.mean() < 1
    assert metrics["served/ndcg@10"] == pytest.approx(
        np.where(hits, 1 / np.log2(np.minimum(places, 10) + 1), 0).mean()
    )
