"""What a recommender is asked beyond users and k: what is excluded, chosen among, and rules."""

from __future__ import annotations

import gzip
import io
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from test_recommender import ITEMS, data, make  # noqa: F401

from longrec.core.errors import DataError, UsageError
from longrec.data.event_columns import Column
from longrec.data.item_table import ItemTable, as_item_table
from longrec.models import MODELS
from longrec.retrieval.exact import similar

USERS = [100, 103, 107, 110, 111, 125]
IDS = [f"i{n:02d}" for n in range(1, ITEMS + 1)]
KINDS = ["shoes", "hats", None]
TABLE = pl.DataFrame(
    {
        "item": [*IDS[:-1], "i01"],  # the last one is missing, the first one there twice
        "category": [*(KINDS[n % 3] for n in range(ITEMS - 1)), "hats"],
        "price": np.arange(ITEMS) / 2,
    }
)


@pytest.fixture
def rec(data):  # noqa: F811
    return make(data)


def asked(rec, **wanted):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return rec.recommend(**wanted)


def per_user(frame):
    return [
        frame.filter(pl.col("user") == user)["item"].to_list()
        for user in frame["user"].unique(maintain_order=True)
    ]


# ---- every model, exactly


@pytest.mark.parametrize("name", sorted(MODELS))
def test_lists_are_the_whole_order_without_what_may_not_be(data, name):  # noqa: F811
    """Scores to the bit: the order of all items, less those that are left out, cut at k."""
    rec = make(data, name)
    every = {"users": [*USERS, 9999], "data": data}
    whole = asked(rec, **every, k=ITEMS, exclude_seen=False)
    unseen = asked(rec, **every, k=ITEMS, exclude_seen=True)
    shoes = set(TABLE.filter(category="shoes")["item"])
    lists = [IDS[n : n + 4] for n in range(len(USERS) + 1)]
    cases = [
        ({"exclude": IDS[3:9]}, lambda n: set(IDS) - set(IDS[3:9])),
        ({"among": IDS[5:17:2]}, lambda n: set(IDS[5:17:2])),
        ({"among": IDS[:20], "exclude": lists}, lambda n: set(IDS[:20]) - set(lists[n])),
        ({"among": [*lists[:-1], None]}, lambda n: set(lists[n]) if n < len(USERS) else set(IDS)),
        ({"where": "category = 'shoes'", "items": TABLE}, lambda n: shoes),
    ]
    for (limits, allowed), hides, k in zip(cases, [1, 0, 1, 0, 1], [40, 2, 7, 3, 5], strict=True):
        order = unseen if hides else whole
        found = asked(rec, **every, k=k, exclude_seen=bool(hides), **limits)
        for number, user in enumerate(every["users"]):
            wanted = order.filter(
                (pl.col("user") == user) & pl.col("item").is_in(sorted(allowed(number)))
            ).head(k)
            mine = found.filter(user=user)
            assert mine["item"].to_list() == wanted["item"].to_list(), (limits, user, k)
            assert mine["rank"].to_list() == list(range(1, len(mine) + 1))
            np.testing.assert_allclose(mine["score"], wanted["score"], rtol=1e-6, atol=1e-7)
            assert set(mine["policy"]) <= {"cold" if user == 9999 else "personal"}


def test_a_list_of_its_own_is_that_of_a_call_of_its_own(data, rec):  # noqa: F811
    often = asked(rec, users=[100], data=data, k=30, where="count > 12", items=rec.item_frame())
    counts = dict(zip(IDS, data.catalog.counts.tolist(), strict=True))
    assert {counts[one] > 12 for one in often["item"]} == {True}
    table = rec.item_table(TABLE)
    rules = ["category = 'shoes'", None, "price > 3", "price <= 3", "category IS NULL", "TRUE"]
    one = asked(rec, users=USERS, data=data, k=5, where=rules, items=table)
    for user, rule in zip(USERS, rules, strict=True):
        limits = {} if rule is None else {"where": rule, "items": TABLE}
        alone = asked(rec, users=[user], data=data, k=5, **limits)
        assert_frame_equal(one.filter(user=user), alone)


# ---- what is given, in all its shapes


@pytest.mark.parametrize(
    "given",
    [
        ["i02", "i05"],
        ("i02", "i05"),
        {"i02", "i05"},
        np.array(["i02", "i05"]),
        pd.Series(["i02", "i05"]),
        pl.Series(["i02", "i05"]),
        (one for one in ["i02", "i05"]),
        io.StringIO("i02\ni05\n"),
        io.StringIO('item_id,title\ni02,"a, b"\ni05,x\n'),
        io.StringIO('{"item": "i02"}\n\n{"item": "i05", "n": 2}\n'),
        [["i02", "i05"]] * 2,
    ],
)
def test_items_to_leave_out_come_in_many_shapes(data, rec, given):  # noqa: F811
    found = asked(rec, users=USERS[:2], data=data, k=ITEMS, exclude=given, exclude_seen=False)
    assert per_user(found) == [
        [one for one in order if one not in ("i02", "i05")]
        for order in per_user(asked(rec, users=USERS[:2], data=data, k=ITEMS, exclude_seen=False))
    ]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"exclude": "i01"}, "exclude is 'i01'; give a list of item ids, or one such list for"),
        ({"among": [["i01"]]}, "among has 1 lists for 2 users: give one for each"),
        ({"among": [["i01"], [True]]}, r"among\.1\.0 is True"),
        ({"where": "price > 2"}, "keeps none: give it as items="),
        ({"items": TABLE}, "give that, too, as where="),
        ({"where": ["price > 2"], "items": TABLE}, "where has 1 rules; give one rule, or one for"),
        ({"where": 7, "items": TABLE}, "where is 7; give one rule"),
        (
            {"where": [["price > 2"], None], "items": TABLE},
            "where has a rule of type list; each is text",
        ),
        ({"where": "price > 2", "items": TABLE.drop("item")}, "no column looks like the item ids"),
    ],
)
def test_wrong_limits(data, rec, limits, words):  # noqa: F811
    with pytest.raises(UsageError, match=words):
        rec.recommend(users=USERS[:2], data=data, **limits)


def test_what_is_unknown_or_too_short_is_told(data, rec):  # noqa: F811
    with pytest.warns(UserWarning, match="in exclude") as told:
        rec.recommend([100], data, k=5, exclude=["I01", "i02"], among=["i03", "i04", "x"])
    words = " | ".join(str(one.message) for one in told)
    assert "1 of 2 items in exclude is unknown to the model: 'I01'. Likely cause" in words
    assert "1 of 3 items in among is unknown to the model: 'x'" in words
    assert "1 of 1 users gets fewer than 5 items, since" in words
    with pytest.warns(UserWarning, match=r"2 of 2 users get no item, since .*: 100, 101"):
        assert rec.recommend([100, 101], data, among=[]).is_empty()
    with pytest.warns(UserWarning, match="1 of 30 items of the catalog are not in the item table"):
        rec.recommend([100], data, k=1, where="price >= 0", items=TABLE)


# ---- rules


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("", "give a rule such as"),
        (
            "categry = 'shoes'",
            r"names 'categry', .* Did you mean 'category'\? Its columns are item",
        ),
        ("category = shoes", "names 'shoes', .*text stands in single quotes"),
        ("Price > 1", "Did you mean 'price'"),
        ("price", "gives Float64 and not true or false"),
        ("price = 'x'", "cannot compare string with numeric"),
        ("WHERE price > 1", "cannot be read as a rule: expected an expression"),
        ("price > 1; DROP TABLE x", "no query, comment or semicolon"),
        ("price > 1 -- more", "no query, comment or semicolon"),
        ("price > 1 /* */", "no query, comment or semicolon"),
        ("item IN (SELECT a FROM read_csv('{file}'))", "no query"),
        ("item IN (\n select a FROM read_csv('{file}'))", "no query"),
        ("item IN (FROM read_csv('{file}'))", "no query"),
        ("EXISTS(WITH t AS (SELECT 1) SELECT 1)", "no query"),
        ("price > (VALUES (1))", "no query"),
        (
            r"category = '\' OR item IN (SELECT a FROM read_csv('{file}')) OR price = '1'",
            "no query",
        ),
        ("price > 1 OR", "cannot be read as a rule"),
        ("*", "cannot be read as a rule"),
        ("x" * 3000, "has 3,000 characters and may have 2,000"),
    ],
)
def test_only_rules_are_read(rule, words, tmp_path):
    (tmp_path / "a.csv").write_text("a\ni01\n")
    with pytest.raises(UsageError, match=words):
        ItemTable("the item table", TABLE).items_where(rule.replace("{file}", f"{tmp_path}/a.csv"))


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("category = 'shoes' AND price BETWEEN 1 AND 3", ["i04", "i07"]),
        ("category IN ('hats') AND price < 1", ["i02"]),
        ("category IS NULL AND price < 3", ["i03", "i06"]),
        ("item = 'i01' AND category = 'hats'", ["i01"]),
        ("name = '(select' OR name = 'it''s (from; --'", ["i01", "i02"]),
        ("\"the size\" = 2 AND zip = '007'", ["i02"]),
        ("EXTRACT(YEAR FROM DATE(since)) = 2026 OR since < '2024-06'", ["i01", "i02"]),
        ("item LIKE 'i%2' AND price IS DISTINCT FROM 0", ["i02", "i12", "i22"]),
    ],
)
def test_rules(rule, wanted):
    more = {
        "name": ["(select", "it's (from; --", *[""] * 28],
        "the size": [1, 2, *[None] * 28],
        "zip": ["7", "007", *["1"] * 28],
        "since": ["2024-05-01", "2026-01-31", *["2025-01-01"] * 28],
    }
    found = ItemTable("t", TABLE.with_columns(**{n: pl.Series(v) for n, v in more.items()}))
    assert found.items_where(rule).to_list() == wanted


def test_a_table_of_a_file_has_numbers_where_all_are(tmp_path):
    rows = "item_id,price,zip,sale,note\n17,1.5,007,true,\n018,2,120,false,x\n19,,3,,7\n"
    (tmp_path / "items.csv").write_text(rows)
    (tmp_path / "items.tsv").write_text(rows.replace(",", "\t"))
    lines = '{"item_id": "17", "price": 1.5}\n{"item_id": "018", "price": 2, "zip": "120"}\n'
    (tmp_path / "items.jsonl").write_text(lines)
    table = as_item_table(tmp_path / "items.csv")
    assert table.frame.schema == {
        **{"item_id": pl.String, "price": pl.Float64, "zip": pl.String},
        **{"sale": pl.Boolean, "note": pl.String},
    }
    assert table.frame["item_id"].to_list() == ["17", "018", "19"]
    assert_frame_equal(as_item_table(str(tmp_path / "items.tsv")).frame, table.frame)
    assert as_item_table(tmp_path / "items.jsonl").items_where("price > 1.7").to_list() == ["018"]
    table.frame.write_parquet(tmp_path / "items.parquet")
    assert_frame_equal(as_item_table(tmp_path / "items.parquet").frame, table.frame)
    assert_frame_equal(as_item_table(table.frame.to_pandas()).frame, table.frame)
    assert as_item_table(table) is table
    (tmp_path / "shop.item").write_text("item_id:token\tclass:token_seq\n018\tdrama crime\n")
    recbole = as_item_table(tmp_path / "shop.item")
    assert recbole.items_where("class LIKE '%crime%'").to_list() == ["018"]
    (tmp_path / "bad.csv").write_text("item,title\n1,Toys, games\n")
    with pytest.raises(DataError, match=r"line 2: has 3 fields, and the first line 2; quote"):
        as_item_table(tmp_path / "bad.csv")


# ---- users and histories from files


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("users", "101\n100\n"),
        ("users.txt", "\ufeff101\r\n\r\n100"),
        ("users.csv", "x, user_id\n1, 101\n2, 100\n"),
        ("users.tsv", "user\tx\n101\t1\n100\t2\n"),
        ("users.csv", "user;x\n101;1\n100;2\n"),
        ("users.jsonl", "101\n100.0\n"),
        ("users.jsonl", '"101"\n"100"\n'),
        ("users", '{"user": 101}\n{"user": "100", "x": null}\n'),
    ],
)
def test_users_of_a_file(data, rec, tmp_path, name, text):  # noqa: F811
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    wanted = rec.recommend([101, 100], data, k=3)
    assert_frame_equal(rec.recommend(tmp_path / name, data, k=3), wanted)
    if not name.endswith(".jsonl"):  # then the first character tells
        assert_frame_equal(rec.recommend(io.StringIO(text), data, k=3), wanted)


HISTORIES = [["i02", "i01"], ["i03"]]


@pytest.mark.parametrize(
    ("text", "users"),
    [
        ('["i02", "i01"]\n["i03"]\n', [0, 1]),
        ('{"history": ["i02", {"item": "i01"}]}\n{"history": ["i03"]}', [0, 1]),
        ('{"user": "b", "history": ["i02", "i01"]}\n{"user": "a", "history": ["i03"]}', ["b", "a"]),
        (
            '{"user": 5, "item": "i02"}\n{"user": 1, "item": "i03"}\n{"user": 5, "item": "i01"}',
            [5, 1],
        ),
        ('{"uid": "b", "history": ["i02", "i01"]}\n{"uid": "a", "history": ["i03"]}', ["b", "a"]),
        ("user,item\nb,i02\na,i03\nb,i01\n", ["b", "a"]),
        ("item_id,ts,uid\ni01,1700000060,b\ni02,1700000000,b\ni03,1700000000.5,a\n", ["b", "a"]),
        (
            "user,item,time\nb,i01,2024-01-02\nb,i02,2024-01-01T23:00:00+00:00\na,i03,2020-01-01\n",
            "ba",
        ),
    ],
)
def test_histories_of_a_file(rec, text, users):
    found = asked(rec, histories=io.StringIO(text), k=3)
    wanted = asked(rec, histories=HISTORIES, k=3)
    assert found["user"].to_list() == [users[n] for n in wanted["user"]]
    assert_frame_equal(found.drop("user"), wanted.drop("user"))


def test_histories_of_frames_and_events(data, rec):  # noqa: F811
    wanted = asked(rec, histories=HISTORIES, k=3)
    frame = pl.DataFrame({"uid": [7, 3, 7], "item": ["i01", "i03", "i02"], "time": [60, 5, 0]})
    events = [[{"item": "i02", "time": 5}, {"item": "i01", "time": 9}], [{"item": "i03"}]]
    for given in (frame, frame.to_pandas(), frame.lazy(), frame.to_arrow()):
        found = asked(rec, histories=given, k=3)
        assert found["user"].to_list() == [7] * 3 + [3] * 3
        assert_frame_equal(found.drop("user"), wanted.drop("user"))
    assert_frame_equal(asked(rec, histories=events, k=3), wanted)
    # A model that reads times gets them, and the lists are those of the same user of the data.
    timed = make(data, forgetting="time")
    row = data.offsets[5], data.offsets[6]
    own = pl.DataFrame(
        {
            "user": [105] * (row[1] - row[0]),
            "item": data.catalog.take(data.items[row[0] : row[1]]),
            "time": data.times[row[0] : row[1]],
        }
    )
    assert_frame_equal(
        timed.recommend(histories=own, k=4),
        timed.recommend([105], data, k=4),
        check_dtypes=False,
        abs_tol=1e-6,
    )


def test_a_model_that_reads_types_gets_them_of_histories(data):  # noqa: F811
    rec = make(data, "dfar", negative="skip")
    rec.columns = {"type": Column(("buy", "skip"))}
    rec.model.learn_words({"type": ("buy", "skip")})
    liked = io.StringIO("user,item,type\n1,i01,buy\n1,i02,buy\n2,i01,buy\n2,i02,skip\n")
    found = rec.recommend(histories=liked, k=5)
    bought = [{"item": one, "columns": {"type": "buy"}} for one in ("i01", "i02")]
    skipped = [bought[0], {"item": "i02", "columns": {"type": "skip"}}]
    again = rec.recommend(histories=[bought, skipped], k=5)
    assert_frame_equal(found.drop("user"), again.drop("user"))
    scores = found["score"].to_numpy().reshape(2, 5)
    assert not np.allclose(*scores)
    with pytest.raises(UsageError, match="dfar reads type of each event, which these histories"):
        rec.recommend(histories=[["i01"]])


@pytest.mark.parametrize(
    ("what", "text", "words"),
    [
        ("users", "", "the file is empty; give an id per line"),
        ("users", "a,b\n1,2\n", r"2 of 2 rows cannot be used. line 1: has 2 fields; give"),
        ("users", "user\n1\n\n,\n", "line 4: has 2 fields, and the first line 1"),
        ("users", 'user,x\n1,"a\nb"\n"",3\n,4\n5,5\n', "2 of 4 .*line 4: user is empty; .*line 5"),
        ("users", '{"user": 1}\n{"user": null}\n{"usr": 3}\n{"user": true}\n[4]', "4 of 5 rows.*"
         r"line 2: user is missing; give an id.*line 3: has no user.*line 4: user is True.*1 more"),
        ("users", '{"user": 1, "exclude": ["i01"]}', "line 1: has 'exclude', which holds for all"),
        ("users", '{"user": 1}\n{"user": 2\n', r"the file, line 2: '\{\"user\": 2' is no JSON"),
        ("users", "[" * 100_000, r"the file, line 1: .* is no JSON: maximum recursion depth"),
        ("users", 'user\n"a" b\n', "line 2: .*write a quote mark inside quotes twice"),
        ("users", "user,user\n1,2\n", "the column 'user' is there twice"),
        ("histories", "a,b\n1,2\n", "no column looks like the user ids; the columns are a, b"),
        ("histories", "user,x\n1,2\n", r"line 2: has no item \(it has user, x\); give"),
        ("histories", "user,item,time\n1,i01,yesterday\n", "line 2: time is 'yesterday'; give sec"),
        ("histories", "user,item,time\n1,i01,1700000000000\n", "line 2: .*looks like millisecond"),
        ("histories", "user,item,time\n1,i01,5\n1,i02,\n", "events with and without a time"),
        ("histories", '["i01"]\n7\n', r'line 2: is 7; give \["item"'),
        ("histories", '["i01", null]\n', "line 1: item 1 of the history is missing"),
        ("histories", '{"history": ["i01"], "items": 3}', "line 1: has 'items'; beside a history"),
        ("histories", '{"history": [{"item": "i01", "tme": 3}]}', "event 0 .* has 'tme'"),
        ("histories", '{"user": 1, "history": []}\n["i01"]', "row 2: has no user, others have"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used_are_named(data, rec, what, text, words):  # noqa: F811
    with pytest.raises(DataError, match=words):
        rec.recommend(**{what: io.StringIO(text)})


def test_packed_files_and_parquet(data, rec, tmp_path):  # noqa: F811
    wanted = rec.recommend([101, 100], data, k=3)
    with gzip.open(tmp_path / "users.csv.gz", "wt") as file:
        file.write("user\n101\n100\n")
    pl.DataFrame({"user_id": [101, 100], "x": 1}).write_parquet(tmp_path / "users.parquet")
    for name in ("users.csv.gz", "users.parquet"):
        assert_frame_equal(rec.recommend(tmp_path / name, data, k=3), wanted)
    frame = pl.DataFrame({"user": [0, 0, 1], "item": ["i02", "i01", "i03"]})
    frame.write_parquet(tmp_path / "histories.parquet")
    found = asked(rec, histories=tmp_path / "histories.parquet", k=3)
    assert_frame_equal(found, asked(rec, histories=HISTORIES, k=3))
    whole = (tmp_path / "users.csv.gz").read_bytes()
    (tmp_path / "cut.csv.gz").write_bytes(whole[:-9])
    with pytest.raises(DataError, match=r"cut.csv.gz: it is cut off or damaged"):
        rec.recommend(tmp_path / "cut.csv.gz", data)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"bad.parquet: "):
        rec.recommend(tmp_path / "bad.parquet", data)
    with pytest.raises(DataError, match="no column looks like the item ids; the columns are user_"):
        rec.recommend([100], data, exclude=tmp_path / "users.parquet")


def test_files_that_cannot_be_read(data, rec, tmp_path):  # noqa: F811
    with pytest.raises(DataError, match=r"none.csv: No such file"):
        rec.recommend(Path(tmp_path / "none.csv"), data)
    (tmp_path / "latin.csv").write_bytes(b"user\n\xe9\n")
    with pytest.raises(DataError, match=r"latin.csv: it is not UTF-8 text"):
        rec.recommend(tmp_path / "latin.csv", data)


# ---- similar


def test_similar_items_one_and_several(data, rec):  # noqa: F811
    vectors = rec.item_vectors().double().numpy()[1:]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T - 9 * np.eye(ITEMS)
    with pytest.warns(UserWarning, match="1 of 3 items is unknown to the model: 'x'. They have no"):
        found = rec.similar(["i05", "x", "i02"], k=4, exclude=["i07"])
    assert found.columns == ["similar_to", "rank", "item", "score"]
    for item in (5, 2):
        row = cosines[item - 1].copy()
        row[6] = -9
        best = np.argsort(-row)[:4]
        mine = found.filter(similar_to=f"i{item:02d}")
        assert mine["item"].to_list() == [IDS[n] for n in best]
        np.testing.assert_allclose(mine["score"], row[best], atol=1e-6)
        alone = rec.similar(f"i{item:02d}", k=4, exclude=["i07"])
        assert_frame_equal(alone, mine.drop("similar_to"))
    among = rec.similar(io.StringIO("i05\ni02\n"), k=1, among=[["i09"], ["i11"]])
    assert among["item"].to_list() == ["i09", "i11"]
    with pytest.warns(UserWarning, match="1 of 1 items gets fewer than 40 items"):
        assert sorted(rec.similar("i01", k=40)["item"]) == IDS[1:]
    shoes = asked_similar(rec, "i01", k=40, where="category = 'shoes'", items=TABLE)
    assert set(shoes["item"]) == set(TABLE.filter(category="shoes")["item"]) - {"i01"}
    with pytest.raises(UsageError, match="1 of 1 items is unknown to the model: 'x': give known"):
        rec.similar(["x"])


def asked_similar(rec, item, **wanted):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return rec.similar(item, **wanted)


def test_items_of_one_direction_are_in_order():
    vectors = torch.tensor([[0.0, 0], [1, 2], [3, 1], [0, 0], [2, 4], [0.3, 0.6], [10, 20]])
    found = similar(vectors, np.array([1, 3]), 9)
    assert found.items[0].tolist() == [4, 5, 6, 2, 3, 0]
    assert found.items[1].tolist() == [1, 2, 4, 5, 6, 0]
