"""Mistakes of a call: each is told in one line, has its exit status, and leaves nothing."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.running import longrec, make_run
from serving.maintenance.small_stores import fill, serve

from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Event

STREAM = "bench stream --models last-item --folder {tmp}"
SERVE = "bench serve --models last-item --catalogs 40 --folder {tmp}"

# {run}, {h} and {log} are a run, its histories and their log; {store} and {backup} a store and its
# backup; {taken} a folder with a store's file; {port} a port that is taken; {tmp} an empty folder.
# NAME=VALUE before a verb is a variable of the environment.
MISTAKES = [
    # the call
    ("bake", 2, "No such command"),
    ("--threads 0 models", 2, "threads"),
    ("--threads 1 --threads 2 models", 2, "--threads is given twice"),
    ("evaluate {run} --baselines --no-baselines", 2, "--baselines/--no-baselines is given twice"),
    ("recommend {run} --all --where a=1 --where b=1", 2, "--where is given twice"),
    ("recommend {run} --all -k 3 --top 4", 2, "-k/--top is given twice"),
    ("prepare {log} --out {tmp}/\udcff", 2, "\\udcff', which is no text: its bytes are not UTF-8"),
    ("models elastik", 2, "Did you mean"),
    ("data get {{x}}[red] --out {tmp}", 2, "{x}[red]"),
    # prepare
    ("prepare {log} --out {tmp}/h --extend {tmp}/none", 1, "no such folder"),
    ("prepare {log} --out {tmp}/h --extend {h} --dedup same-item", 2, "do not combine with extend"),
    ("prepare {tmp}/none.csv --out {tmp}/h", 1, "none.csv"),
    ("prepare {log} --out {tmp}/h --user uid", 2, "uid"),
    ("prepare {log} --out {h}", 2, "--overwrite"),
    ("prepare {run}/config.json --out {tmp}/h", 1, "config.json"),
    ("prepare {log} --out {tmp}/h --k-core -1", 2, "k-core"),
    # train
    ("train {h} --out {tmp}/r --model elastik", 2, "Did you mean 'elastic'"),
    ("train {h} --out {tmp}/r --set dims=8", 2, "Did you mean dim"),
    ("train {h} --out {tmp}/r --set dim=x", 2, "dim is 'x'"),
    ("train {h} --out {tmp}/r --set dim=0", 2, "dim is 0"),
    ("train {h} --out {tmp}/r --set dim", 2, "KEY=VALUE"),
    ("train {h} --out {tmp}/r --set dim=8 --set dim=9", 2, "twice"),
    ("train {h} --out {tmp}/r --context 3 --set context=4", 2, "twice"),
    ("train {h} --out {tmp}/r --epochs 3 --set max_epochs=4", 2, "max_epochs is given twice"),
    ("train {h} --out {tmp}/r --set device=cpu", 2, "device is no setting"),
    ("train {h} --out {tmp}/r --lr .01", 2, "Here that is learning_rate: --set learning_rate="),
    ("train {h} --out {tmp}/r --dim 8", 2, "--dim. It is a setting: --set dim="),
    (
        "train {h} --out {tmp}/r --set lr=.01",
        2,
        "Here that is learning_rate: --set learning_rate=.01",
    ),
    ("train {h} --out {tmp}/r --set batch_size=64", 2, "Here that is batch_tokens. A batch is"),
    ("train {h} --out {tmp}/r --set hidden_size=32", 2, "Here that is dim: --set dim=32"),
    ("train {h} --out {tmp}/r --set split=random", 2, "--set protocol=leave-one-out, global-time"),
    ("train {h} --out {tmp}/r --model popularity --set n_layers=2", 2, "this model does not have"),
    ("train {h} --out {tmp}/r --set seed=18446744073709551616", 2, "seed is 18446744073709551616;"),
    ("train {h} --out {tmp}/r --config {tmp}/none.toml", 1, "the config cannot be read"),
    (
        "recommend {run} --user \udcff",
        2,
        "the call has '\\udcff', which is no text: its bytes are not UTF-8",
    ),
    ("train {h} --out {run} --resume --overwrite", 2, "give one of them"),
    ("--threads 18446744073709551616 models", 2, "1024"),
    ("compare {h} --models popularity --budget 1 --seeds 1001 --out {tmp}/c", 2, "1000"),
    ("compare {h} --models popularity --budget 1 --out {h} --overwrite", 2, "holds other files"),
    ("train {h} --out {tmp}/r --set protocol=x", 2, "protocol is 'x'; it must be 'leave-one-out'"),
    ("train {h} --out {tmp}/r --device cuda:99", 2, "cannot be used"),
    (
        "train {h} --out {tmp}/r --model elastic-paper --set memory_slots=16777216 --set dim=4096 "
        "--set layers=1",  # 256 GiB
        1,
        "not enough memory",
    ),
    ("train {h} --out {tmp}/r --set dim=4000000000", 2, "dim is 4000000000; it must"),
    ("train {h}", 2, "Missing option"),
    ("train {tmp}/none --out {tmp}/r", 1, "no such folder"),
    ("train {log} --out {tmp}/r", 1, "is a file; a histories folder is a folder that"),
    ("train {h} --out {run}", 2, "holds a trained recommender"),
    ("train {h} --out {run} --resume", 2, "ended after 1 epochs"),
    ("train {h} --out {tmp}/r --warm-start {tmp}/none", 1, "no such folder"),
    ("train {h} --out {run} --warm-start {run}", 2, "another folder"),
    ("train {h} --out {tmp}/r --warm-start {run} --model sasrec", 2, "goes on with the same model"),
    ("train {h} --out {tmp}/r --warm-start {run} --set dim=16", 2, "built with dim=8, not 16"),
    ("train {h} --out {tmp}/r --set protocol=all", 2, "nothing says how long to train"),
    ("train {h} --out {run} --final", 2, "holds a trained recommender"),
    # refit
    ("refit {run}", 2, "Missing option"),
    ("refit {tmp}/none --out {tmp}/r", 1, "no such folder"),
    ("refit {run} --out {run}", 2, "holds a trained recommender; choose another"),
    ("refit {run} --out {tmp}/r --data {tmp}/none", 1, "no such folder"),
    # evaluate
    ("evaluate {run} --fast", 2, "No such option"),
    ("evaluate {tmp}/none", 1, "no such folder"),
    ("evaluate {run} --split all", 2, "split"),
    ("evaluate {run} --protocol x", 2, "protocol"),
    ("evaluate {run} --ks 5 ten", 2, "--ks has 'ten'; give whole numbers"),
    ("evaluate {run} --protocol prequential", 2, "prequential"),
    # recommend
    ("recommend {h} --all", 1, "not a recommender"),
    ("recommend {run}", 2, "give one of"),
    ("recommend {run} --user 100 --all", 2, "give one of"),
    ("recommend {run} --all 100", 2, "unexpected extra argument(s) (100)"),
    ("recommend {run} --user 100 --among-file - --exclude-file -", 2, "can be one file only"),
    ("recommend {run} --user 100 --among i01 --among-file x", 2, "give either --among ITEM"),
    ("recommend {run} --user 100 --where x=1", 2, "keeps none: give it as items="),
    ("recommend {run} --user 100 --json --format csv", 2, "two formats: give one"),
    ("recommend {run} --user-file {tmp}/none.csv", 1, "none.csv: No such file"),
    # similar
    ("similar {run}", 2, "give one of --item"),
    ("similar {run} --item nothing", 2, "is unknown to the model"),
    ("similar {run} --item i01 -k 0", 2, "-k"),
    ("recommend {run} --history i01 --data {h}", 2, "leave --data out"),
    ("recommend {run} --user 100 -k 0", 2, "-k"),
    ("recommend {run} --user 100 --format xml", 2, "xml"),
    ("recommend {run} --all --out {tmp}/x.txt", 2, "a table is for"),
    ("recommend {run} --all --out {tmp}/no/x.csv", 2, "no folder"),
    # explain
    ("explain {run} --item 1", 2, "give either --user"),
    ("explain {run} --item 1 --user a b", 2, "unexpected extra argument(s) (b)"),
    ("explain {run} --item 1 --history 1 --store lmdb:///x", 2, "--history brings its own"),
    ("explain {run} --item 1 --user 1 --store lmdb:///x --data x", 2, "give one of them"),
    ("explain {run} --user 1", 2, "Missing option"),
    # index
    ("index {run} --kind best", 2, "kind"),
    # compare
    ("compare {h} --models elastik --budget 2 --out {tmp}/c", 2, "there is no model 'elastik'"),
    (
        "compare {h} --models elastic:dims=3 --budget 2 --out {tmp}/c",
        2,
        "elastic:dims=3: model 'elastic' has",
    ),
    ("compare {h} --models elastic:dim=x --budget 2 --out {tmp}/c", 2, "elastic:dim=x: dim is 'x'"),
    ("compare {h} --models elastic:dim --budget 2 --out {tmp}/c", 2, "'dim' is no KEY=VALUE"),
    ("compare {h} --models elastic:dim=8:dim=9 --budget 2 --out {tmp}/c", 2, "gives 'dim' twice"),
    (
        "compare {h} --models elastic:max_minutes=8 --budget 2 --out {tmp}/c",
        2,
        "max_minutes is set by the budget",
    ),
    (
        "compare {h} --models elastic:seed=8 --budget 2 --out {tmp}/c",
        2,
        "seed is set by the number of seeds",
    ),
    (
        "compare {h} --models elastic:protocol=global-time --budget 2 --out {tmp}/c",
        2,
        "under one protocol",
    ),
    (
        "compare {h} --models elastic,elastic --budget 2 --out {tmp}/c",
        2,
        "'elastic' is named twice",
    ),
    ("compare {h} --models , --budget 2 --out {tmp}/c", 2, "no model to compare"),
    ("compare {h} --models elastic --budget 0 --out {tmp}/c", 2, "budget is 0.0 minutes"),
    ("compare {h} --models elastic --budget 2 --seeds 0 --out {tmp}/c", 2, "seeds"),
    ("compare {h} --models elastic --budget 2 --set seed=1 --out {tmp}/c", 2, "seed is set by"),
    (
        "compare {h} --models sasrec --budget 2 --set memory_slots=4 --out {tmp}/c",
        2,
        "sasrec: model 'sasrec' has no setting 'memory_slots'",
    ),
    (
        "compare {h} --models popularity --budget 2 --set dmi=4 --out {tmp}/c",
        2,
        "popularity: model 'popularity' has no setting 'dmi'",
    ),
    # serve
    ("serve {run} --store {tmp}/users --host 0.0.0.0", 2, "--keys FILE"),
    ("serve {run} --store {tmp}/users --port {port}", 1, "cannot be listened on"),
    ("serve {tmp}/nothing --store {tmp}/users --port 0", 1, "nothing"),
    ("serve {run} --store magic://x --port 0", 2, "magic://"),
    ("serve {run} --store {tmp}/users --max-body 5", 2, "at least 1024"),
    ("serve {run} --store {tmp}/users --durability disk", 2, "durability"),
    ("LONGREC_API_KEYS=short serve {run} --store {tmp}/users", 2, "has 5 characters"),
    # consume
    ("consume clicks {run} --store {tmp}/users", 2, "kafka://broker:9092/topic"),
    ("consume kafka://me:secret@h/t {run} --store {tmp}/users", 2, "--client"),
    ("consume redis://h/0 {run} --store {tmp}/users", 2, "names no stream"),
    ("consume kafka://h/t {run} --store {tmp}/users --from monday", 2, "--from is 'monday'"),
    ("consume kafka://h/t {run} --store {tmp}/users --map user=a*b", 2, "a number"),
    ("consume kafka://h/t {run} --store {tmp}/users --format avro", 2, "--schema FILE"),
    ("consume kafka://h/t {run} --store {tmp}/users --format fields", 2, "fields is for Redis"),
    ("consume redis://h/0/t {run} --store {tmp}/users --dead-letters {tmp}", 2, "is no file"),
    # info
    ("info {tmp}/none", 1, "none: no such folder"),
    ("info {log}", 1, "is a file; info takes a folder that longrec made"),
    ("info {backup}", 1, "is a backup of a store; info takes histories, runs and stores"),
    ("info ftp://host/0", 2, "is no store"),
    ("info", 2, "Missing argument"),
    # store
    ("store info {tmp}/none", 1, "no store of users"),
    ("store info ftp://host/0", 2, "no store"),
    ("store info", 2, "Missing argument"),
    ("store backup {store} {backup}", 2, "new folder"),
    ("store restore {tmp}/none {tmp}/new", 1, "no such folder; `longrec store backup"),
    ("store restore {backup} {store}", 2, "3 users and 29 events"),
    ("store restore {backup} sqlite://{tmp}/none/new", 2, "stores in SQLite were of"),
    ("store restore sqlite://{tmp}/none {tmp}/new", 1, "no such file"),
    ("store verify {store} --run {run}", 2, "no records of this elastic"),
    ("store verify {store} --run {tmp}/none", 1, "no such folder"),
    ("store compact {tmp}/none", 1, "no store of users"),
    ("store compact sqlite://{tmp}/none", 2, "longrec store restore sqlite://"),
    # bench stream
    ("bench stream --models elastik --folder {tmp}", 2, "Did you mean 'elastic'"),
    ("bench stream --models hydrarec,hydrarec --folder {tmp}", 2, "different names"),
    ("bench stream --models elastic-paper --folder {tmp}", 2, "For a stream, train elastic"),
    (f"{STREAM} --histories 100,0", 2, "histories has 0"),
    (f"{STREAM} --histories 100,many", 2, "--histories has 'many'; give whole numbers"),
    (f"{STREAM} --histories 9,9", 2, "histories needs different values"),
    (
        f"{STREAM} --durability power,disk",
        2,
        "durabilities has 'disk', which is unknown; choose power, process",
    ),
    (f"{STREAM} --clients 0", 2, "clients has 0"),
    (f"{STREAM} --seconds 0", 2, "seconds is 0"),
    (f"{STREAM} --seconds nan", 2, "seconds is nan"),
    (f"{STREAM} --items 19", 2, "at least 20"),
    ("bench stream --models last-item --folder {tmp}/none", 2, "no such folder"),
    (f"{STREAM} --store {{tmp}}/none/store", 2, "no such folder"),
    (f"{STREAM} --store lmdb://{{taken}}", 2, "is not empty"),
    (f"{STREAM} --store sqlite://{{tmp}}/store", 2, "is not measured here"),
    (f"{STREAM} --store redis://:hunter2@host:port/0", 2, "cannot be read"),
    (f"{STREAM} --out {{tmp}}/none/found.json", 2, "name a .json file in a folder"),
    (f"{STREAM} --out {{tmp}}/found.csv", 2, "name a .json file in a folder"),
    ("bench stream {taken} --models hydrarec", 2, "leave --models and --items out"),
    # bench serve
    (
        f"{SERVE} --transports python,grpc",
        2,
        "transports has 'grpc', which is unknown; choose python, http",
    ),
    (f"{SERVE} --transports http,http", 2, "transports needs different values"),
    (
        "bench serve --models last-item --catalogs 40,many",
        2,
        "--catalogs has 'many'; give whole numbers",
    ),
    ("bench serve --models last-item --catalogs 40,40", 2, "different names or catalogs"),
    ("bench serve --models last-item --catalogs 40,19", 2, "items is 19"),
    (f"{SERVE} --histories 0", 2, "histories has 0"),
    ("bench serve --models elastik --catalogs 40", 2, "Did you mean 'elastic'"),
    ("bench serve --models last-item --catalogs 40 --folder {tmp}/none", 2, "no such folder"),
    (f"{SERVE} --out {{tmp}}/found.csv", 2, "name a .json file in a folder"),
    ("bench serve {taken} --catalogs 40", 2, "leave --models and --catalogs out"),
    # bench cost
    ("bench cost --models elastik", 2, "models has 'elastik', which is unknown; choose bert4rec"),
    ("bench cost --mixers sasrec", 2, "mixers has 'sasrec', which is unknown; choose"),
    ("bench cost --models none", 2, "nothing is left to measure"),
    ("bench cost --lengths 4,x", 2, "--lengths has 'x'; give whole numbers"),
    ("bench cost --lengths 4,0", 2, "lengths has 0; each must be at least 1"),
    ("bench cost --lengths 4,4", 2, "lengths needs different values"),
    ("bench cost --slots 1000", 2, "square"),
    ("bench cost --threads 1000", 2, "may use"),
    ("bench cost --cap 0", 2, "cap is 0"),
    ("bench cost --mixers softmax --out {taken}", 2, "name a new or an empty folder"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder of what no call may change."""
    return tmp_path_factory.mktemp("mistakes")


@pytest.fixture(scope="module")
def named(made: Path) -> Iterator[dict[str, object]]:
    """What the words in braces stand for."""
    log, histories, run = make_run(made)
    taken = made / "taken"
    taken.mkdir()
    (taken / "store-1.mdb").write_bytes(b"users")
    events = [Event(n, b"item%d" % (n % 7), b"id%d" % n) for n in range(20)]
    store = open_store(f"lmdb://{made}/store")
    serve(store)
    fill(store, {b"a": events, b"b": events[:3], b"c": events[3:9]})
    assert longrec("store", "backup", store.url, made / "backup") == 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield {
            **{"run": run, "h": histories, "log": log, "taken": taken},
            **{"store": store.url, "backup": made / "backup", "port": server.getsockname()[1]},
        }
    store.close()


@pytest.mark.parametrize(("call", "status", "words"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_a_mistake_is_told_in_a_line(
    call: str, status: int, words: str, named, made, tmp_path, monkeypatch, capsys
) -> None:
    argv = [word.format(**named, tmp=tmp_path) for word in call.split()]
    while "=" in argv[0]:
        monkeypatch.setenv(*argv.pop(0).split("="))
    before = sorted(made.rglob("*"))
    capsys.readouterr()
    assert longrec(*argv) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    assert words in re.sub(r"[│\s]+", " ", printed.err)
    assert "hunter2" not in printed.err
    assert not list(tmp_path.iterdir()), "nothing is left behind"
    assert sorted(made.rglob("*")) == before


@pytest.mark.parametrize("scheme", ["s3", "S3", "https"])
@pytest.mark.parametrize(
    "words",
    [
        *(["prepare", "URL", "--out", "x"], ["prepare", "log.csv", "--out", "URL"]),
        *(["train", "URL", "--out", "x"], ["train", "h", "--out", "URL"], ["evaluate", "URL"]),
        *(["recommend", "URL", "--all"], ["refit", "URL", "--out", "x"], ["info", "URL"]),
        *(["push", "URL", "qdrant:///x/y"], ["export", "URL", "x"], ["serve", "URL"]),
    ],
    ids=" ".join,
)
def test_a_password_in_an_address_is_never_shown(capsys, scheme: str, words: list[str]):
    url = f"{scheme}://shop:hunter2@bucket/x"
    assert longrec(*[url if word == "URL" else word for word in words]) in (1, 2)
    said = capsys.readouterr()
    assert "hunter2" not in said.err + said.out


def test_a_password_in_an_address_is_in_no_error():
    from longrec.artifact.artifact import Artifact
    from longrec.core.errors import LongrecError
    from longrec.data.prepare import prepare

    for call in (
        lambda url: Artifact.load(url),
        lambda url: prepare("log.csv", url),
        lambda url: prepare(url, "x"),
    ):
        with pytest.raises(LongrecError) as told:
            call("s3a://shop:hunter2@bucket/x")
        assert "hunter2" not in str(told.value)
