"""Item vectors in Qdrant and in Postgres: what is found there, and that a push is whole or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from export.small_exports import small
from serving.small_streams import recommender

from longrec.core.errors import UsageError
from longrec.export import vector_store as module
from longrec.export.push import best, open_vector_store, push
from longrec.export.vector_store import Items, VectorStoreError
from longrec.models.common.added_score import PopularityScore

pytestmark = pytest.mark.slow  # Qdrant's client takes seconds to import, Postgres to begin


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A real server, and a database in it; of root's it runs as another user, who must see it."""
    pgserver = pytest.importorskip("pgserver")
    with TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        server = pgserver.get_server(folder)
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(params=["qdrant", "postgres"])
def url(request, tmp_path) -> str:
    if request.param == "qdrant":
        return f"qdrant://{tmp_path}/store/items"
    table = "".join(c for c in request.node.name if c.isalnum())[:50].lower()
    return request.getfixturevalue("postgres") + f"&table={table}"


def items_of(seed: int, n: int = 24, dim: int = 8, text: bool = False) -> Items:
    vectors = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    ids = pl.Series("id", np.arange(n) + 10 * seed)
    if text:
        ids = ids.cast(pl.String) + "'\"é"
    return Items(ids, np.arange(n), vectors, f"{seed:064x}")


def found(url: str, vector: np.ndarray, k: int = 10) -> list[tuple[object, float]]:
    store = open_vector_store(url)
    try:
        return list(store.search(vector, k))
    finally:
        store.close()


def keep(url: str, items: Items, sent=lambda sent: None) -> None:
    store = open_vector_store(url)
    try:
        store.replace(items, sent)
    finally:
        store.close()


def exact(items: Items, vector: np.ndarray, k: int = 10) -> list[object]:
    return items.ids.gather(np.argsort(-(items.vectors @ vector))[:k]).to_list()


@pytest.mark.parametrize("text", [False, True])
def test_what_is_kept_is_found_and_replaced_as_a_whole(url: str, text: bool, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 16)
    vector = np.random.default_rng(9).normal(size=8).astype(np.float32)
    one, other = items_of(1, text=text), items_of(2, n=20, dim=8, text=text)
    told: list[int] = []
    keep(url, one, told.append)
    assert told == [16, 24]
    assert [item for item, _ in found(url, vector)] == exact(one, vector)
    score = found(url, vector, 1)[0][1]
    assert score == pytest.approx(float((one.vectors @ vector).max()), rel=1e-5)

    class Killed(BaseException): ...

    def die(sent: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        keep(url, other, die)
    assert [item for item, _ in found(url, vector)] == exact(one, vector)
    for items in (other, other, one):  # the same again, and back to the first
        keep(url, items)
        assert [item for item, _ in found(url, vector)] == exact(items, vector)


@pytest.mark.parametrize("case", ["elastic", "limarec"])
def test_a_push_is_measured(case: str, url: str):
    rec = small(case)
    if case == "elastic":  # a bias of each item
        rec = rec.with_added_score(PopularityScore.of(rec.catalog.counts, weight=3.0))
    steps: list[tuple[float, float]] = []
    pushed = push(rec, url, lambda done, total, words: steps.append((done, total)))
    assert pushed.items == rec.catalog.n_items
    assert pushed.recall == 1.0
    assert pushed.users.startswith("64 made-up users")
    assert steps[-1][0] == steps[-1][1]


def test_what_no_push_made_stays(url: str, postgres: str):
    import psycopg

    if url.startswith("qdrant"):
        from qdrant_client import QdrantClient, models

        folder, _, name = url.removeprefix("qdrant://").rpartition("/")
        client = QdrantClient(path=folder)
        wanted = models.VectorParams(size=3, distance=models.Distance.DOT)
        client.create_collection(name, vectors_config=wanted)
        client.close()
    else:
        table = url.rpartition("=")[2]
        with psycopg.connect(postgres) as connection:
            connection.execute(f'CREATE TABLE "{table}" (a int)')
    with pytest.raises(UsageError, match="that no push made: choose another name"):
        keep(url, items_of(1))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("redis://host/0", "no vector store begins with 'redis'"),
        ("items", "no vector store begins with 'items'"),
        ("qdrant://host", "names no collection"),
        ("qdrant://items", "names no collection"),
        ("qdrant://u:secret@host/items", "set QDRANT_API_KEY"),
        ("postgresql://u:secret@host/shop", "host/shop names no table"),
    ],
)
def test_urls_that_name_nothing_say_what_to_give(wrong: str, words: str):
    with pytest.raises(UsageError, match=words) as raised:
        open_vector_store(wrong)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "away", ["qdrant://127.0.0.1:9/items", "postgresql://u:secret@127.0.0.1:9/shop?table=items"]
)
def test_a_store_that_is_away_is_told_in_a_line(away: str):
    with pytest.raises(VectorStoreError) as raised:
        keep(away, items_of(1))
    assert "127.0.0.1:9" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_models_without_vectors_are_refused_before_anything_is_asked():
    with pytest.raises(UsageError, match="has no vectors of them"):
        push(recommender("popularity"), "qdrant://127.0.0.1:9/items")


def test_the_best_of_several_vectors():
    assert best([[("a", 2.0), ("b", 1.0)], [("b", 3.0), ("c", 0.0)]], 2) == [("b", 3.0), ("a", 2.0)]
