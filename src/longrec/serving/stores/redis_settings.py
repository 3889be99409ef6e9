"""What a Redis server must be set up for before longrec entrusts events to it.

It is asked at every connection: a server may have been started anew with other settings. Where
CONFIG is forbidden, INFO has the first two of `_SETTINGS`: enough for process, not for power.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from redis.exceptions import BusyLoadingError, ResponseError

from longrec.core.choices import Durability
from longrec.core.errors import LongrecError, UsageError
from longrec.serving.stores.redis_errors import error_text
from longrec.serving.stores.redis_layout import load_scripts


class IsReplica(LongrecError):
    """The server is a replica of another one, and takes no writes."""


class _Setting(NamedTuple):
    """Values that do for each durability (none: any), the one to set first; why no others."""

    power: tuple[str, ...]
    process: tuple[str, ...]
    why: str


_SETTINGS = {
    "appendonly": _Setting(("yes",), ("yes",), "what it acknowledged would be lost when it ends"),
    "maxmemory-policy": _Setting(
        ("noeviction",), ("noeviction",), "it would delete users when its memory is full"
    ),
    "appendfsync": _Setting(
        ("always",), ("everysec", "always"), "what it acknowledged could be lost in a power cut"
    ),
    "no-appendfsync-on-rewrite": _Setting(("no",), (), "while it compacts nothing would be synced"),
}
_FORBIDDEN = r"NOPERM|NoPermission|no permissions|unknown command"
"""In errors of commands that a user may not use, or that the server was set up without."""
_NO_ROOM = r"OutOfMemory|\bOOM\b|MISCONF|ExecAbort|EXECABORT"


def check_server(connection: Any, durability: Durability, url: str) -> str:
    """Refuse a server that is no store, or is not set up to keep what it acknowledges.

    Parameters
    ----------
    connection : redis.Connection
        Connected, logged in.

    Returns
    -------
    str
        Its run: another one after every start.

    Raises
    ------
    LongrecError
        The message names each setting, the value found and the mend.
    """
    good: dict[str, tuple[str, ...]] = {
        name: values
        for name, setting in _SETTINGS.items()
        if (values := setting.power if durability == "power" else setting.process)
    }
    asked = [("CONFIG", "GET", name) for name in good]
    text, *pairs = _ask(connection, [("INFO",), *asked], _FORBIDDEN)
    if text is None:
        raise LongrecError(
            f"{url}: this user may not use INFO, by which longrec sees whether Redis keeps what it "
            "acknowledges: ACL SETUSER … +info +config|get"
        )
    info = parse_info(text)
    _check_usable(info, url)
    found = {
        name: pair[1].decode() for name, pair in zip(good, pairs, strict=True) if pair and pair[1:]
    }
    config_forbidden = not found
    if config_forbidden:
        found["appendonly"] = "yes" if info.get("aof_enabled") == "1" else "no"
        if "maxmemory_policy" in info:
            found["maxmemory-policy"] = info["maxmemory_policy"]
    wrong = [name for name, value in found.items() if value not in good[name]]
    if wrong:
        raise LongrecError(
            f"{url} is not set up for durability {durability!r}: "
            + "; ".join(f"{name} is {found[name]!r}: {_SETTINGS[name].why}" for name in wrong)
            + ". Mend it: "
            + ", ".join(f"CONFIG SET {name} {good[name][0]}" for name in wrong)
            + "; and in redis.conf: "
            + ", ".join(f"{name} {good[name][0]}" for name in wrong)
        )
    if config_forbidden and (durability == "power" or "maxmemory-policy" not in found):
        raise LongrecError(
            f"{url}: CONFIG is forbidden to this user or at this server, so longrec cannot see "
            f"whether it is set up for durability {durability!r}: allow CONFIG GET (ACL SETUSER … "
            "+config|get), or open it with durability 'process'"
        )
    return info.get("run_id", "")


def begin_run(connection: Any, prefix: bytes, run: str) -> tuple[str, int]:
    """Note in the store, once, that a run of a server has begun (lua/begin_run.lua).

    That also ends a transaction that is half in the append-only file of a server that was started
    anew. If Redis dies while it writes one, its next start may leave the beginning in the file.
    Were it not ended, it would take in all that is written after it, and a later start would drop
    that. Longrec writes no transaction but this one; others on the server may.

    Parameters
    ----------
    connection : redis.Connection
    prefix : bytes
        Of the store's keys.
    run : str
        The server's.

    Returns
    -------
    run, writes
        The run that is noted now, and how many numbered calls had written when it began.
    """
    # No room: then nothing else is written either, and what is there can be read.
    digest, text = load_scripts()["begin_run"]
    unknown = f"{_NO_ROOM}|NOSCRIPT|NoScript"
    [found] = _ask(connection, [("EVALSHA", digest, 0, prefix, run)], unknown)
    if found is None:
        [found] = _ask(connection, [("EVAL", text, 0, prefix, run)], _NO_ROOM)
    if found is None:
        [found] = _ask(connection, [("GET", prefix + b"run")], _NO_ROOM)
    noted, _, writes = (found or b"").partition(b" ")
    return noted.decode("ascii", "replace"), as_number(writes)


def read_number(connection: Any, key: bytes) -> int:
    """A number that stands under a key."""
    return as_number(_ask(connection, [("GET", key)], _NO_ROOM)[0])


def as_number(found: bytes | None) -> int:
    """A value as a number; 0 where there is none, or none any more."""
    return int(found) if found is not None and found.isdigit() else 0


def parse_info(text: bytes) -> dict[str, str]:
    """The lines of INFO's answer."""
    pairs = re.findall(r"^(\w+):(.*?)\r?$", text.decode("utf-8", "replace"), re.MULTILINE)
    return dict(pairs)


def _check_usable(info: dict[str, str], url: str) -> None:
    """Refuse a server that is no master on its own; one that is starting, for now."""
    if info.get("loading") == "1":
        raise BusyLoadingError("Redis is loading its data")
    # Until the first append-only file is written, all is lost if Redis dies.
    if (info.get("aof_enabled"), info.get("aof_base_size")) == ("1", "0") and (
        info.get("aof_rewrite_in_progress") == "1"
        or info.get("aof_rewrite_scheduled") == "1"
        or info.get("aof_last_bgrewrite_status") == "err"
    ):
        raise BusyLoadingError("appendonly was just set, and Redis is still writing its first file")
    mode = info.get("redis_mode", "standalone")
    if mode != "standalone":
        raise UsageError(f"{url} is a Redis in mode {mode}; longrec needs a single server")
    if info.get("role") == "slave":
        master = f"{info.get('master_host')}:{info.get('master_port')}"
        raise IsReplica(f"{url} is a read-only replica: give the URL of its master, {master}")


def _ask(connection: Any, commands: list[tuple[Any, ...]], tolerated: str) -> list[Any]:
    """The answers to commands; None for an error in which the pattern `tolerated` is found."""
    connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    answers: list[Any] = []
    for _ in commands:
        try:
            answers.append(connection.read_response())
        except ResponseError as error:
            if not re.search(tolerated, error_text(error)):
                raise
            answers.append(None)
    return answers
