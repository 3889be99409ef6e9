"""Mistakes on the command line of `longrec bench`: told before anything is measured or made."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.command import longrec_bench

from longrec.core.errors import UsageError

COST = [
    ("--models elastik", "models has 'elastik', which is unknown; choose bert4rec"),
    ("--mixers sasrec", "mixers has 'sasrec', which is unknown; choose"),
    ("--models none", "nothing is left to measure"),
    ("--lengths 4,x", "lengths is '4,x'; give whole numbers"),
    ("--lengths 4,0", "lengths has 0; each must be at least 1"),
    ("--lengths 4,4", "lengths needs different values"),
    ("--slots 1000", "square"),
    ("--threads 1000", "may use"),
    ("--cap 0", "cap is 0"),
    ("--mixers softmax --out {tmp}", "name a new or an empty folder"),
]
SERVING = [
    ("--models elastik", "Did you mean 'elastic'"),
    ("--models hydrarec,hydrarec", "different names"),
    ("--models elastic-paper", "For a stream, train elastic"),
    ("--histories 100,0", "histories has 0"),
    ("--histories 100,many", "histories is '100,many'; give whole numbers"),
    ("--histories 9,9", "histories needs different values"),
    ("--durability power,disk", "durabilities has 'disk', which is unknown; choose power, process"),
    ("--clients 0", "clients has 0"),
    ("--seconds 0", "seconds is 0"),
    ("--seconds nan", "seconds is nan"),
    ("--folder {tmp}/none", "no such folder"),
    ("--out {tmp}/none/found.json", "name a .json file in a folder"),
    ("--out {tmp}/found.csv", "name a .json file in a folder"),
]
STREAM = [
    ("--items 19", "at least 20"),
    ("--store {tmp}/none/store", "no such folder"),
    ("--store lmdb://{tmp}/taken", "is not empty"),
    ("--store sqlite://{tmp}/store", "is not measured here"),
    ("--store redis://:secret@host:port/0", "cannot be read"),
    ("{tmp}/taken --models hydrarec", "leave --models and --items out"),
]
SERVE = [
    ("--transports python,grpc", "transports has 'grpc', which is unknown; choose python, http"),
    ("--transports http,http", "transports needs different values"),
    ("--catalogs 40,many", "catalogs is '40,many'"),
    ("--catalogs 40,40", "different names or catalogs"),
    ("--catalogs 40,19", "items is 19"),
    ("{tmp}/taken --catalogs 40", "leave --models and --catalogs out"),
]
CASES = [
    *(("cost", *case) for case in COST),
    *(("stream", *case) for case in SERVING + STREAM),
    *(("serve", *case) for case in SERVE),
]


@pytest.mark.parametrize(("command", "argv", "words"), CASES)
def test_mistakes(command: str, argv: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "store-1.mdb").write_bytes(b"users")
    given = argv.format(tmp=tmp_path).split()
    if command != "cost":
        given += [] if "--models" in argv else ["--models", "last-item"]
        given += [] if "{tmp}" in argv else ["--folder", str(tmp_path)]
    if command == "serve" and "--catalogs" not in argv:
        given += ["--catalogs", "40"]
    with pytest.raises(UsageError) as raised:
        longrec_bench(command, *given)
    assert words in str(raised.value)
    assert "secret" not in str(raised.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["store-1.mdb", "taken"]
