"""One random script is answered alike by the library, streams on every store, and servers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from congruence.exported import Exported
from congruence.parties import PARTIES, Library, LocalServer, Place
from congruence.playing import play
from congruence.scripts import Simply, script
from congruence.systems import LATER, STREAMING, recommender, register
from serving.redis_server import RedisServer
from serving.small_streams import quick_engine

from longrec.export.folder import TORCH, torch_version
from longrec.models import SequenceModel
from longrec.serving.stream import stream as module

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:no item is left|.*items are left|.*users? gets? :UserWarning"
    ),
    pytest.mark.filterwarnings("ignore:.*was trained on the last 6 events:UserWarning"),
]
GROWING = ("elastic", "sasrec", "two-interests")
"""Systems whose catalogs grow where time is short: for each size an engine is made."""
OTHERS = ("elastic by time", "last-item and followers")
"""Systems that everybody plays with where time is short."""


GRAPHS = pytest.mark.skipif(torch_version() < TORCH, reason="this PyTorch is too old to export")
EXPORTED = (
    "last-item",
    pytest.param("sasrec trained on 6 events", marks=(GRAPHS, pytest.mark.slow)),
    pytest.param("elastic by time", marks=(GRAPHS, pytest.mark.long)),
    pytest.param("two-interests", marks=(GRAPHS, pytest.mark.long)),
)
"""Systems that are exported; graphs of states take a minute to make."""


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        # Making an engine takes longer than playing a script; processes make theirs in earnest.
        patch.setattr(module, "Engine", quick_engine)
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[LocalServer]:
    with closing(LocalServer(tmp_path_factory.mktemp("server"))) as server:
        yield server


@pytest.fixture(scope="module")
def redis(tmp_path_factory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


def play_with(
    name: str,
    seed: int,
    parties: Sequence[str],
    folder: Path,
    server: LocalServer,
    redis: RedisServer | None = None,
    grows: bool = True,
    length: int = 40,
) -> None:
    """Let some parties play the script of a seed, which decides the policy on seen items, too."""
    rec = recommender(name, exclude_seen=seed % 2 == 0)
    grows &= isinstance(rec.model, SequenceModel)  # what counts is trained again
    steps = [step for step in script(seed, length) if grows or step != Simply("grow")]
    with ExitStack() as stack:
        others = {}
        for number, party in enumerate(parties):
            own = folder / party
            own.mkdir(parents=True)
            place = Place(own, "" if redis is None else redis.empty(number), server)
            others[party] = stack.enter_context(closing(PARTIES[party](rec, place)))
        play(steps, Library(rec, folder), others)


@pytest.mark.parametrize("name", [name for name in STREAMING if name not in LATER])
def test_a_stream_answers_as_the_library_does(name: str, tmp_path: Path, server):
    """With a short script, which has every kind of step, too."""
    seed = list(STREAMING).index(name)
    play_with(name, seed, ["lmdb"], tmp_path, server, grows=name in GROWING, length=24)


@pytest.mark.parametrize("name", OTHERS)
def test_servers_and_shared_stores_answer_alike(name: str, tmp_path: Path, server, redis):
    play_with(name, 100, ["http", "redis"], tmp_path, server, redis, grows=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", STREAMING)
def test_all_answer_alike(name: str, tmp_path: Path, server, redis):
    """The server's stream is on LMDB; alone such a one plays above, and those `LATER` do here."""
    seed = 200 + list(STREAMING).index(name)
    parties = ["lmdb"] if name in LATER else ["http", "redis"]
    play_with(name, seed, parties, tmp_path, server, redis)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "party"),
    [
        ("elastic by time", "process"),
        ("last-item", "process"),
        ("sasrec", "process on redis"),
    ],
)
def test_a_killed_process_answers_alike(name: str, party: str, tmp_path: Path, server, redis):
    play_with(name, 300, [party], tmp_path, server, redis)


@pytest.mark.parametrize("name", EXPORTED)
def test_an_export_answers_alike(name: str, tmp_path: Path):
    rec = recommender(name, exclude_seen=False)
    steps = [step for step in script(400) if step != Simply("grow")]
    play(steps, Library(rec, tmp_path), {"export": Exported(rec, tmp_path)})
