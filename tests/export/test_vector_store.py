"""Item vectors in Qdrant, Milvus and Postgres: what is found, and that a push is whole or not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from export.small_exports import small
from export.small_pushes import (
    VECTOR,
    Killed,
    MilvusServer,
    die,
    exact,
    found,
    ids_found,
    items_of,
    keep,
    made,
    make_another,
    need,
    postgres_server,
)
from serving.small_streams import recommender

from longrec.core.errors import UsageError
from longrec.export import vector_store as module
from longrec.export.push import open_vector_store, push
from longrec.export.vector_store import VectorStoreError
from longrec.models.common.added_score import PopularityScore

pytestmark = pytest.mark.slow  # the clients take seconds to import, Postgres to begin


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with postgres_server() as uri:
        yield uri


@pytest.fixture(scope="module")
def milvus(tmp_path_factory) -> Iterator[MilvusServer]:
    server = MilvusServer(tmp_path_factory.mktemp("milvus"))
    yield server
    server.stop()


@pytest.fixture(params=["qdrant", "milvus", "milvus-server", "postgres"])
def url(request, tmp_path) -> str:
    name = "".join(c for c in request.node.name if c.isalnum())[:50].lower()
    if request.param == "qdrant":
        need("qdrant_client")
        return f"qdrant://{tmp_path}/store/{name}"
    if request.param == "milvus":
        need("milvus_lite")
        return f"milvus://{tmp_path}/store/shop.db/{name}"
    if request.param == "milvus-server":
        return request.getfixturevalue("milvus").url.replace("items", name)
    return request.getfixturevalue("postgres") + f"&table={name}"


def name_of(url: str) -> str:
    return url.rpartition("table=")[2].rpartition("/")[2]


@pytest.mark.parametrize("text", [False, True])
def test_what_is_kept_is_found_and_replaced_as_a_whole(url: str, text: bool, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 16)
    one, other = items_of(1, text=text), items_of(2, n=20, text=text)
    told: list[int] = []
    keep(url, one, told.append)
    assert told == [16, 24]
    assert ids_found(url) == exact(one)
    score = found(url, VECTOR, 1)[0][1]
    assert score == pytest.approx(float((one.vectors @ VECTOR).max()), rel=1e-5)
    with pytest.raises(Killed):
        keep(url, other, die)
    assert ids_found(url) == exact(one)
    for items in (other, other, one):  # the same again, and back to the first
        keep(url, items)
        assert ids_found(url) == exact(items)


def test_what_a_push_cut_short_leaves_goes_with_the_next_one(url: str):
    for seed in (2, 3):
        with pytest.raises(Killed):
            keep(url, items_of(seed, n=4), die)
    keep(url, items_of(1, n=4))
    with pytest.raises(Killed):
        keep(url, items_of(4, n=4, dim=5), die)
    keep(url, items_of(2, n=4, dim=5))
    assert len([name for name in made(url) if name.startswith(name_of(url))]) == 1


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


def test_what_no_push_made_stays(url: str):
    make_another(url, name_of(url))
    with pytest.raises(UsageError, match=r"that no push made.*: choose another name"):
        keep(url, items_of(1))
    with pytest.raises(VectorStoreError) as raised:
        found(url, VECTOR)
    assert "\n" not in str(raised.value)
    if "postgres" not in url:
        alias = url + "2"
        make_another(alias, name_of(url) + "3", alias=name_of(alias))
        with pytest.raises(UsageError, match=r"leads to one, .*3': choose another name"):
            keep(alias, items_of(1))
        assert name_of(url) + "3" in made(url)


def test_a_table_whose_comment_speaks_of_pushes_stays(postgres: str):
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as connection:
        for number, comment in enumerate(["what longrec push reads", '"longrec push"', "[1]"]):
            name = f"spoken{number}"
            connection.execute(f"CREATE TABLE {name} (a int)")
            connection.execute(f"COMMENT ON TABLE {name} IS '{comment}'")
            with pytest.raises(UsageError, match="that no push made"):
                keep(f"{postgres}&table={name}", items_of(1))


@pytest.mark.parametrize("content", [b"\0{", b"", b"{}", b"[1]"])
def test_a_damaged_folder_of_qdrant_is_told_in_a_line(tmp_path: Path, content: bytes):
    need("qdrant_client")
    url = f"qdrant://{tmp_path}/store/items"
    keep(url, items_of(1))
    [vectors] = tmp_path.glob("store/collection/*/storage.sqlite")
    for file in (vectors, tmp_path / "store" / "meta.json"):
        if not content and file == vectors:  # a new database, for SQLite
            continue
        file.write_bytes(content)
        with pytest.raises(VectorStoreError, match="remove it and push again, or name") as raised:
            found(url, VECTOR)
        assert "\n" not in str(raised.value)


def test_what_is_not_there_or_of_another_size_is_told(url: str):
    with pytest.raises(VectorStoreError, match="nothing is kept there: bring it with"):
        found(url, VECTOR)
    keep(url, items_of(1, n=4))
    with pytest.raises(VectorStoreError) as raised:
        found(url, VECTOR[:5])
    assert "\n" not in str(raised.value)


def test_a_reader_sees_one_push_or_the_other(milvus: MilvusServer):
    one, other = items_of(1, n=100), items_of(2, n=100)
    keep(milvus.url, one)
    over, answers = threading.Event(), list[list[object]]()

    def read() -> None:
        with closing(open_vector_store(milvus.url)) as store:
            while not over.is_set():
                answers.append([item for item, _ in store.search(VECTOR, 10)])

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for items in (other, one, other):
            keep(milvus.url, items)
    finally:
        over.set()
        reader.join()
    assert answers
    assert all(answer in (exact(one), exact(other)) for answer in answers)


def test_a_server_that_is_gone_in_the_middle_is_told_and_the_next_push_is_whole(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "BATCH", 16)
    server = MilvusServer(tmp_path / "milvus")
    keep(server.url, items_of(1))
    with pytest.raises(VectorStoreError, match="see that Milvus runs there"):
        keep(server.url, items_of(2), lambda sent: server.stop())
    server.start()
    try:
        keep(server.url, items_of(2))
        assert ids_found(server.url) == exact(items_of(2))
        assert len(made(server.url)) == 1
    finally:
        server.stop()


def test_items_that_are_sent_again_are_there_once(milvus: MilvusServer):
    with closing(open_vector_store(milvus.url)) as store:
        send = store.client.upsert

        def twice(*given, **named) -> None:  # as the client does whose answer was lost
            send(*given, **named)
            send(*given, **named)

        store.client.upsert = twice
        store.replace(items_of(1), lambda sent: None)
        store.client.upsert = lambda *given, **named: None
        with pytest.raises(VectorStoreError, match="0 of 24 items are there; push again"):
            store.replace(items_of(2), lambda sent: None)
    assert ids_found(milvus.url) == exact(items_of(1))


@pytest.mark.parametrize(
    "away",
    [
        "qdrant://127.0.0.1:{}/items",
        "milvus://127.0.0.1:{}/items",
        "milvuss://127.0.0.1:{}/items",
        "postgresql://u:secret@127.0.0.1:{}/shop?table=items",
    ],
)
def test_a_store_that_is_away_or_silent_is_told_in_a_line(away: str, monkeypatch):
    for name in ("milvus.ANSWERED", "qdrant.ANSWERED", "pgvector.SECONDS"):
        monkeypatch.setattr(f"longrec.export.{name}", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for port in (9, silent.getsockname()[1]):
            with pytest.raises(VectorStoreError, match=r"; see that \w+ runs there") as raised:
                keep(away.format(port), items_of(1))
            assert f"127.0.0.1:{port}" in str(raised.value)
            assert "secret" not in str(raised.value)
            assert "\n" not in str(raised.value)


def test_models_without_vectors_are_refused_before_anything_is_asked():
    with pytest.raises(UsageError, match="has no vectors of them"):
        push(recommender("popularity"), "qdrant://127.0.0.1:9/items")
