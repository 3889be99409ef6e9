"""Messages as documents, letters of those that are none, and sources' URLs."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path

import pytest

from longrec.core.errors import DataError, UsageError
from longrec.ingest.address import SourceAddress
from longrec.ingest.dead_letters import DeadLetter, DeadLetters
from longrec.ingest.decoding import BadMessage, make_decoder
from longrec.ingest.open import open_source
from longrec.ingest.source import Message, parse_begin


def message(value, offset="3") -> Message:
    return Message(value, b"\xff", 17.5, "t[0]", offset, f"t-0-{offset}", None)


@pytest.mark.parametrize(
    "value",
    [None, b"", b"{", b"[1]", b"1", b"\xff", b'{"a": NaN}', b"[" * 100_000, b"\x00" * 9],
    ids=str,
)
def test_json_that_is_no_object_is_told(value):
    with pytest.raises(BadMessage):
        make_decoder("json")(message(value))


def test_json_and_fields_are_read():
    assert make_decoder("json")(message(b'{"a": {"b": 1}}')) == {"a": {"b": 1}}
    entry = message({b"a": "ü".encode(), b"data": b'{"x": 1}'})
    assert make_decoder("fields")(entry) == {"a": "ü", "data": '{"x": 1}'}
    assert make_decoder("json", field="data")(entry) == {"x": 1}
    with pytest.raises(BadMessage, match="'value'"):
        make_decoder("json")(entry)
    with pytest.raises(BadMessage, match="UTF-8"):
        make_decoder("fields")(message({b"a": b"\xff"}))


def test_avro_is_read_with_and_without_a_registrys_header(tmp_path: Path):
    fastavro = pytest.importorskip("fastavro")
    schema = {
        "type": "record",
        "name": "Event",
        "fields": [{"name": "user", "type": "string"}, {"name": "n", "type": "long"}],
    }
    path = tmp_path / "event.avsc"
    path.write_text(json.dumps(schema))
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), {"user": "ann", "n": 7})
    body = out.getvalue()
    plain = make_decoder("avro", [str(path)])
    framed = make_decoder("avro-registry", [f"9={path}"])
    assert plain(message(body)) == {"user": "ann", "n": 7}
    assert framed(message(b"\0\0\0\0\x09" + body)) == {"user": "ann", "n": 7}
    for decode, wrong in [
        *(
            (plain, one)
            for one in (body + b"x", body[:-1], b"", b"\xff" * 40, b"\0\0\0\0\x09" + body)
        ),
        *((framed, one) for one in (body, b"\0\0")),
    ]:
        with pytest.raises(BadMessage):
            decode(message(wrong))
    path.write_text('{"type": "what"}')
    with pytest.raises(DataError, match="no Avro schema"):
        make_decoder("avro", [str(path)])


def test_a_schema_goes_with_avro():
    with pytest.raises(UsageError, match="--schema"):
        make_decoder("avro")
    with pytest.raises(UsageError, match="--schema"):
        make_decoder("json", ["x.avsc"])


def test_a_schema_that_was_changed_is_never_read_as_another(tmp_path: Path):
    fastavro = pytest.importorskip("fastavro")
    names, given, messages = ("user", "item"), [], []
    for number, fields in ((7, names), (8, names[::-1])):
        schema = {
            "type": "record",
            "name": "Event",
            "fields": [{"name": name, "type": "string"} for name in fields],
        }
        path, out = tmp_path / f"{number}.avsc", io.BytesIO()
        path.write_text(json.dumps(schema))
        fastavro.schemaless_writer(out, fastavro.parse_schema(schema), {"user": "ann", "item": "x"})
        given.append(f"{number}={path}")
        messages.append(message(b"\0" + number.to_bytes(4, "big") + out.getvalue()))
    both = make_decoder("avro-registry", given)
    assert [both(one) for one in messages] == [{"user": "ann", "item": "x"}] * 2
    first = make_decoder("avro-registry", given[:1])
    assert first(messages[0])["user"] == "ann"
    with pytest.raises(BadMessage, match="is of schema 8: give it as --schema 8=FILE"):
        first(messages[1])
    for wrong in ([], [str(path)], ["x=y"], ["-1=y"], ["7="], [f"{1 << 32}=y"], [*given, given[0]]):
        with pytest.raises(UsageError, match="--schema"):
            make_decoder("avro-registry", wrong)


def test_letters_are_kept_whole_and_once(tmp_path: Path):
    path = tmp_path / "dead.jsonl"
    letters = [
        DeadLetter(message(b"{", "1"), "format", "the message is no JSON"),
        DeadLetter(message(b"\xff\x00", "2"), "format", "bytes"),
        DeadLetter(message({b"a": b"b"}, "3"), "event", "there is no user"),
    ]
    DeadLetters(path).keep(letters[:2])
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    with path.open("ab") as file:
        file.write(b'{"partition": "t[0]", "off')  # whoever wrote was killed
    again = DeadLetters(path)
    again.keep(letters)
    again.keep(letters)
    lines = path.read_text().splitlines()
    assert len(lines) == 4
    documents = [json.loads(line) for line in (*lines[:2], lines[3])]
    assert [one["offset"] for one in documents] == ["1", "2", "3"]
    assert documents[0]["value"] == "{"
    assert documents[0]["key"] == {"base64": "/w=="}
    assert documents[1]["value"] == {"base64": "/wA="}
    assert documents[2]["value"] == {"a": "b"}
    assert documents[0]["reason"] == "the message is no JSON"


def test_a_letter_has_every_field_whatever_its_name(tmp_path: Path):
    path, fields = tmp_path / "dead.jsonl", {b"\xff": b"1", b"\xfe": b"2", b"a": b"\xff"}
    DeadLetters(path).keep([DeadLetter(message(fields), "format", "bytes")])
    assert json.loads(path.read_text())["value"] == {
        "\\xff": "1",
        "\\xfe": "2",
        "a": {"base64": "/w=="},
    }


@pytest.mark.parametrize("other", [{"value": b"}"}, {"time": 5.0}, {"key": b"k"}])
def test_another_message_at_a_known_place_has_a_letter_of_its_own(tmp_path: Path, other):
    """As of a topic that was made anew, or another broker's of the same name."""
    path, first = tmp_path / "dead.jsonl", message(b"{", "1")
    for one in (first, first._replace(**other), first):
        DeadLetters(path).keep([DeadLetter(one, "format", "the message is no JSON")])
    assert [json.loads(line)["offset"] for line in path.read_text().splitlines()] == ["1", "1"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_that_is_full_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from longrec.ingest import dead_letters

    path, full = tmp_path / "dead.jsonl", os.open("/dev/full", os.O_WRONLY)
    letters = DeadLetters(path)
    letters.keep([DeadLetter(message(b"a", "1"), "format", "x")])
    before, write = path.read_bytes(), os.pwrite
    parts = iter([lambda f, d, at: write(f, d[:5], at), lambda f, d, at: os.write(full, d)])
    monkeypatch.setattr(dead_letters.os, "pwrite", lambda f, d, at: next(parts)(f, d, at))
    with pytest.raises(OSError, match="No space"):
        letters.keep([DeadLetter(message(b"b", "2"), "format", "x")])
    monkeypatch.undo()
    os.close(full)
    assert path.read_bytes() == before
    letters.keep([DeadLetter(message(b"b", "2"), "format", "x")])
    assert len(path.read_text().splitlines()) == 2


def test_urls_of_sources():
    address = SourceAddress.parse("kafka://a:9092,[::1]:9093/clicks,buys")
    assert address == ("kafka", "a:9092,[::1]:9093", ("clicks", "buys"))
    address = SourceAddress.parse("redis://me:s%2Fecret@host:6379/2/shop%2Fa,b?socket_timeout=3")
    assert address.server == "redis://me:s%2Fecret@host:6379/2?socket_timeout=3"
    assert address.names == ("shop/a", "b")
    assert "ecret" not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "clicks",
            "http://a/b",
            "kafka://",
            "kafka://a:9092",
            "kafka://a:9092/",
            "kafka:///t",
        ),
        *("kafka://me:secret@a/t", "kafka://a:b/t", "kafka://a/t t", "redis://h", "redis://h/0"),
        *("redis://me:secret@h/t", "redis://me:secret@h/0/,"),
    ],
)
def test_what_is_no_source_is_refused_without_its_password(url):
    with pytest.raises(UsageError) as told:
        SourceAddress.parse(url)
    assert "secret" not in str(told.value)


def test_where_a_group_begins():
    assert parse_begin("latest") == "latest"
    assert parse_begin("1970-01-02") == 86_400
    assert parse_begin("1970-01-01T01:00+01:00") == 0
    with pytest.raises(UsageError, match="--from"):
        parse_begin("yesterday")


@pytest.mark.parametrize("broker", ["h:99999", "h:65536", "h:0"])
def test_a_port_that_is_none_is_told(broker: str):
    with pytest.raises(UsageError, match="is no broker; write host:9092"):
        SourceAddress.parse(f"kafka://{broker}/t")


@pytest.mark.parametrize("group", ["", "a\0b", "x" * 250, "a\nb", "\udcff"])
@pytest.mark.parametrize("url", ["kafka://h:9092/t", "redis://h:6379/0/s"])
def test_a_group_that_has_no_name_is_told(url: str, group: str):
    """Kafka's client would end the process by an assertion."""
    with pytest.raises(UsageError, match="--group is"):
        open_source(SourceAddress.parse(url), group, "earliest", 30.0, None, None)


def test_a_full_disk_names_the_file_of_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from longrec.core.files import disk_full
    from longrec.ingest import dead_letters

    def full(*written: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(dead_letters.os, "pwrite", full)
    with pytest.raises(OSError, match="No space") as told:
        DeadLetters(tmp_path / "dead.jsonl").keep([DeadLetter(message(b"a", "1"), "format", "x")])
    assert "dead.jsonl: the disk is full" in disk_full(told.value)
