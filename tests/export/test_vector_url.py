"""URLs of vector stores: what they name, and that no part of a key is shown."""

from __future__ import annotations

import polars as pl
import pytest

from longrec.core.errors import UsageError
from longrec.export.push import best, open_vector_store
from longrec.export.vector_store import plain
from longrec.export.vector_url import Place


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("milvus://host/items", ("host", 7, "", "items")),
        ("milvus://host:8/shop/items", ("host", 8, "/shop", "items")),
        ("milvuss://[::1]:8/items", ("::1", 8, "", "items")),
        ("milvus:///a/b.db/items", (None, 7, "/a/b.db", "items")),
    ],
)
def test_what_a_url_names(url: str, place: tuple[object, ...]):
    assert Place.parse(url, 7, "KEY")[1:] == place


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("redis://u:secret@host/0", "no vector store begins with 'redis'"),
        ("items", "that is no URL: give qdrant://"),
        ("u:secret@host/items", "that is no URL: give qdrant://"),
    ],
)
def test_urls_of_nothing_say_what_to_give(wrong: str, words: str):
    with pytest.raises(UsageError, match=words) as raised:
        open_vector_store(wrong)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("host", "names no collection: give qdrant://"),
        ("items", "names no collection: give qdrant://"),
        ("/items", "names no collection: give qdrant://"),
        ("host:secret/items", "cannot be read: percent-encode"),
        ("[::1/secret", "cannot be read: percent-encode"),
        ("u:secret@host/items", "a password in it: leave it out, and set KEY"),
        ("secret@host/items", "a password in it: leave it out, and set KEY"),
        ("u:se/secret@host/items", "a password in it: leave it out, and set KEY"),
        ("host/items?api_key=secret", "ends in options, of which there are none"),
        ("host/items#secret", "ends in options, of which there are none"),
    ],
)
def test_places_that_are_wrong_show_no_key(rest: str, words: str):
    with pytest.raises(UsageError, match=words) as raised:
        Place.parse(f"qdrant://{rest}", 6333, "KEY")
    assert "secret" not in str(raised.value)


@pytest.mark.slow  # the clients take seconds to import
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("qdrant://host/shop/items", "more than a collection's name"),
        ("milvus://host/my-items", "'my-items' is no name for a collection of Milvus"),
        ("milvus:///folder/items", "/folder must end in .db"),
        ("milvus://host/a/b/items", "more than a database and a collection"),
        ("qdrant:///folder/a*b", "'a\\*b' is no name for a collection of Qdrant"),
        ("qdrant:///folder/..", "is no name for a collection of Qdrant"),
        ("postgresql://u:secret@host/shop", "//host/shop names no table"),
        (f"postgresql://u:secret@host/shop?table={'x' * 59}", "is no name for a table"),
        ("postgresql://u:secret@host/shop?table=%00x", "is no name for a table"),
        (f"postgresql://u:secret@host/shop?table={'%C3%A9' * 30}", "is no name for a table"),
        ("postgresql://u:secret@host/shop?table=a&table=b", "has an option twice"),
        ("postgresql://u:%zsecret@127.0.0.1:9/shop?table=a", "percent-encode"),
        ("postgresql://u:s@secret@127.0.0.1:9/shop?table=a", "percent-encode"),
        ("postgresql://u:s/secret@127.0.0.1:9/shop?table=a", "percent-encode"),
        ("postgresql://u:s?secret@127.0.0.1:9/shop?table=a", "percent-encode"),
        ("postgresql://u:s#secret@127.0.0.1:9/shop?table=a", "percent-encode"),
    ],
)
def test_what_one_store_alone_refuses(wrong: str, words: str):
    with pytest.raises(UsageError, match=words) as raised:
        open_vector_store(wrong)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [
        (pl.Series([3, 5], dtype=pl.UInt8), pl.Int64),
        (pl.Series([3, 2**64 - 1], dtype=pl.UInt64), pl.String),
        (pl.Series([1.5, 2.5]), pl.String),
        (pl.Series(["2026-01-01"]).str.to_date(), pl.String),
    ],
)
def test_ids_are_whole_numbers_or_text(ids: pl.Series, wanted: type[pl.DataType]):
    assert plain(ids).dtype == wanted
    assert plain(ids).cast(pl.String).to_list() == ids.cast(pl.String).to_list()


def test_the_best_of_several_vectors():
    assert best([[("a", 2.0), ("b", 1.0)], [("b", 3.0), ("c", 0.0)]], 2) == [("b", 3.0), ("a", 2.0)]
