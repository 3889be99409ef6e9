"""The bytes of messages as documents: JSON, Avro, or the fields of an entry of a Redis stream."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

from longrec.core.choices import MessageFormat
from longrec.core.errors import DataError, UsageError, absent
from longrec.ingest.source import Message

HEADER = 5
"""Bytes that a schema registry's clients put in front: 0, and the schema's number in four."""
MOST_NUMBER = (1 << 32) - 1

Decode = Callable[[Message], Mapping[str, Any]]
_Reader = Callable[[bytes], Mapping[str, Any]]


class BadMessage(DataError):
    """A message that is no document of its format."""


def make_decoder(kind: MessageFormat, schemas: Sequence[str] = (), field: str = "value") -> Decode:
    """What makes documents of messages; it raises BadMessage for those that are none.

    Parameters
    ----------
    kind : what the messages are.
    schemas : of avro the file with the schema (.avsc) that the messages were written with; of
        avro-registry one for each schema that they name, "NUMBER=FILE" with the registry's number.
    field : of an entry of a Redis stream, that which holds the JSON or Avro.

    Raises
    ------
    UsageError
        When a schema is missing, or not needed, or fastavro is not installed.
    DataError
        When a file holds no schema.
    """
    if kind == "avro":
        if len(schemas) != 1:
            raise UsageError(f"--format avro needs one schema, not {len(schemas)}: --schema FILE")
        read = _avro(Path(schemas[0]))
        return lambda message: read(_bytes(message, field))
    if kind == "avro-registry":
        return _of_registry({number: _avro(path) for number, path in _numbered(schemas)}, field)
    if schemas:
        raise UsageError("--schema is for --format avro and avro-registry")
    return _fields if kind == "fields" else lambda message: _json(_bytes(message, field))


def _numbered(schemas: Sequence[str]) -> list[tuple[int, Path]]:
    """Files of schemas with their numbers in the registry."""
    found: dict[int, Path] = {}
    for given in schemas:
        number, _, path = given.partition("=")
        digits = number.isascii() and number.isdigit() and len(number) <= 10
        if not digits or int(number) > MOST_NUMBER or not path:
            raise UsageError(
                f"--schema is {given!r}; --format avro-registry needs the registry's number of "
                "each schema, --schema 7=FILE: a message of another one would be read wrongly"
            )
        if int(number) in found:
            raise UsageError(f"--schema has number {int(number)} twice")
        found[int(number)] = Path(path)
    if not found:
        raise UsageError(
            "--format avro-registry needs the schemas: --schema 7=FILE, its number first"
        )
    return list(found.items())


def _of_registry(readers: Mapping[int, _Reader], field: str) -> Decode:
    def decode(message: Message) -> Mapping[str, Any]:
        value = _bytes(message, field)
        if len(value) < HEADER or value[0] != 0:
            raise BadMessage("the message does not begin as a schema registry's do: --format avro")
        number = int.from_bytes(value[1:HEADER], "big")
        if (read := readers.get(number)) is None:
            raise BadMessage(
                f"the message is of schema {number}: give it as --schema {number}=FILE"
            )
        return read(value[HEADER:])

    return decode


def _bytes(message: Message, field: str) -> bytes:
    """What a message holds."""
    value = message.value
    if isinstance(value, Mapping):
        value = value.get(field.encode())
        if value is None:
            raise BadMessage(f"the entry has no field {field!r}: name the one to read with --field")
    if not value:
        raise BadMessage("the message is empty")
    return value


def _fields(message: Message) -> Mapping[str, Any]:
    if not isinstance(message.value, Mapping):
        raise BadMessage("the message is empty")
    try:
        return {name.decode(): value.decode() for name, value in message.value.items()}
    except UnicodeDecodeError:
        raise BadMessage("the entry has bytes that are not UTF-8") from None


def _json(value: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(value.decode(), parse_constant=_no_number)
    except UnicodeDecodeError:
        raise BadMessage("the message has bytes that are not UTF-8") from None
    except RecursionError:
        raise BadMessage("the message is JSON that is nested too deep") from None
    except ValueError:
        raise BadMessage("the message is no JSON") from None
    if not isinstance(document, dict):
        raise BadMessage("the message is JSON and no object {…}")
    return document


def _no_number(word: str) -> NoReturn:
    raise ValueError(word)


def _avro(path: Path) -> _Reader:
    try:
        import fastavro
    except ModuleNotFoundError as error:
        raise absent("Avro", error, "kafka") from error
    try:
        schema = fastavro.parse_schema(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"--schema {path} cannot be read: {error.strerror}") from error
    except Exception as error:  # whatever fastavro says of a schema that is none
        raise DataError(f"{path} holds no Avro schema: {type(error).__name__}") from error

    def read(value: bytes) -> Mapping[str, Any]:
        body = BytesIO(value)
        try:
            document = fastavro.schemaless_reader(body, schema, None)
        except Exception as error:  # it raises what its parts happen to raise
            raise BadMessage(f"the message is not of this schema: {type(error).__name__}") from None
        if body.read(1):
            raise BadMessage("the message is longer than this schema says")
        if not isinstance(document, dict):
            raise BadMessage("the schema is of no record")
        return document

    return read
