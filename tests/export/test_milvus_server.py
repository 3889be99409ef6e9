"""A real server of Milvus (2.3, from the package `milvus`, 58 MB, for this alone)."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from export.small_pushes import VECTOR, exact, items_of, keep, made

from longrec.export.push import open_vector_store

pytestmark = pytest.mark.long  # a push takes 8 seconds of a server
PUSHES = """
import sys
from export.small_pushes import items_of, keep
keep(sys.argv[1], items_of(2, n=4000), lambda sent: print("sent", flush=True))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    milvus = pytest.importorskip("milvus", reason="pip install milvus==2.3.5")
    with TemporaryDirectory(prefix="milvus-", ignore_cleanup_errors=True) as folder:
        started = milvus.MilvusServer(data_dir=folder)
        started.start()
        yield f"milvus://127.0.0.1:{started.listen_port}/items"
        started.stop()


def test_a_push_that_is_killed_changes_nothing_and_a_reader_sees_one_or_the_other(server: str):
    one, other = items_of(1, n=4000), items_of(2, n=4000)
    keep(server, one)
    over, answers = threading.Event(), list[list[object]]()

    def read() -> None:
        with closing(open_vector_store(server)) as store:
            while not over.is_set():
                answers.append([item for item, _ in store.search(VECTOR, 10)])
                over.wait(0.05)  # not all of the processor, which makes the index too

    reader = threading.Thread(target=read)
    reader.start()
    try:
        paths = [str(Path(__file__).parents[1])]
        code = f"import sys\nsys.path[:0] = {paths}\n{PUSHES}"
        with subprocess.Popen(
            [sys.executable, "-c", code, server], stdout=subprocess.PIPE
        ) as pushing:
            assert pushing.stdout is not None
            pushing.stdout.readline()
            pushing.send_signal(signal.SIGKILL)
        assert len(made(server)) == 2
        assert answers[-1] == exact(one)
        for items in (other, one, one):
            keep(server, items)
            assert len(made(server)) == 1
    finally:
        over.set()
        reader.join()
    assert all(answer in (exact(one), exact(other)) for answer in answers)
    assert {tuple(answer) for answer in answers} == {tuple(exact(one)), tuple(exact(other))}
