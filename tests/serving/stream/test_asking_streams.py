"""What a stream is asked beyond a user and k: several users, rules, and short lists."""

from __future__ import annotations

import polars as pl
import pytest
from models.small_models import N
from polars.testing import assert_frame_equal
from serving.small_streams import FIRST, recommender, small_stream

from longrec.core.errors import UsageError
from longrec.data.item_table import as_item_table
from longrec.serving.stream.stream import Stream

TABLE = pl.DataFrame({"sku": [str(FIRST + n) for n in range(N)], "size": [n % 3 for n in range(N)]})


@pytest.fixture
def stream(tmp_path):
    with small_stream("elastic", tmp_path / "users") as made:
        for user, item in [("ann", 0), ("bob", 3), ("ann", 7), (5, 2)]:
            made.observe(user, FIRST + item, 1_700_000_000)
        yield Stream(made.artifact, made.engine, made.store, table=lambda: as_item_table(TABLE))


def test_several_users_get_what_each_gets_alone(stream):
    more = {"k": 4, "exclude": [FIRST + 1], "where": "size <> 2"}
    for users in (["bob", "nobody", "ann", "bob"], [5, "ann"], []):
        found = stream.recommend(users, **more)
        alone = [stream.recommend(user, **more) for user in users]
        assert found.columns == ["user", "rank", "item", "score", "policy"]
        if alone:
            rest = pl.concat([one.drop("user") for one in alone])
            assert_frame_equal(found.drop("user"), rest, abs_tol=1e-6)
            asked = [str(user) for user in users for _ in range(4)]
            assert found["user"].cast(pl.String).to_list() == asked
    items = {int(item) for item in stream.recommend("ann", k=N, where="size = 1")["item"]}
    assert items == {FIRST + n for n in range(N) if n % 3 == 1} - {FIRST, FIRST + 7}
    assert stream.rank(["ann"], k=3, where="size = 1").items[0].tolist() == [
        item - FIRST + 1 for item in stream.recommend("ann", k=3, where="size = 1")["item"]
    ]


def test_short_lists_are_told(stream):
    with pytest.warns(UserWarning, match="2 of 5 items are left: all others are seen or excluded"):
        assert len(stream.recommend("ann", k=5, among=[FIRST, FIRST + 1, FIRST + 2])) == 2
    with pytest.warns(UserWarning, match="1 of 2 users gets no item, since .*: 'ann'"):
        stream.recommend(["ann", "bob"], k=1, among=[FIRST])


def test_a_stream_without_a_table_has_no_rules(tmp_path, stream):
    with pytest.raises(UsageError, match="where is of type list; give text"):
        stream.recommend("ann", where=["size = 1"])
    with pytest.raises(UsageError, match="names 'colour'"):
        stream.recommend("ann", where="colour = 1")
    other = recommender("popularity").open_stream(str(tmp_path / "other"), "process")
    with other, pytest.raises(UsageError, match="rule by an item table: give it as items="):
        other.recommend("ann", where="size = 1")
    given = recommender("popularity").open_stream(str(tmp_path / "third"), "process", items=TABLE)
    with given as other:
        assert len(other.recommend("ann", k=3, where="size = 1")) == 3
