"""What a Redis server must be set up for before longrec entrusts events to it.

It is asked at every connection: a server may have been started anew with other settings.

    setting                     power     process
    appendonly                  yes       yes
    maxmemory-policy            noeviction, both
    appendfsync                 always    everysec or always
    no-appendfsync-on-rewrite   no        any; with yes Redis syncs nothing while it compacts

Where CONFIG is forbidden, INFO tells the first two: enough for process, too little for power.
"""

from __future__ import annotations

import re
from typing import Any

from redis.exceptions import BusyLoadingError, ResponseError

from longrec.core.choices import Durability
from longrec.core.errors import LongrecError, UsageError

_WHY = {
    "appendonly": "what it acknowledged would be lost when it ends",
    "maxmemory-policy": "it would delete users when its memory is full",
    "appendfsync": "what it acknowledged could be lost in a power cut",
    "no-appendfsync-on-rewrite": "while it compacts nothing would be synced",
}


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
    good = _wanted(durability)
    commands = [("INFO",), *(("CONFIG", "GET", name) for name in good)]
    connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    text, *pairs = [_answer(connection) for _ in commands]
    if text is None:
        raise LongrecError(
            f"{url}: this user may not use INFO, by which longrec sees whether Redis keeps what it "
            "acknowledges: ACL SETUSER … +info +config|get"
        )
    info = parse_info(text)
    if info.get("loading") == "1":
        raise BusyLoadingError("Redis is loading its data")
    if info.get("aof_enabled") == "1" and _not_begun(info):
        raise BusyLoadingError("appendonly was just set, and Redis is still writing its first file")
    _check_kind(info, url)
    found = {}
    for name, pair in zip(good, pairs, strict=True):
        if pair is not None and len(pair) == 2:
            found[name] = pair[1].decode()
    config_forbidden = not found
    if config_forbidden:
        found["appendonly"] = "yes" if info.get("aof_enabled") == "1" else "no"
        if "maxmemory_policy" in info:
            found["maxmemory-policy"] = info["maxmemory_policy"]
    wrong = [name for name, value in found.items() if value not in good[name]]
    if wrong:
        raise LongrecError(
            f"{url} is not set up for durability {durability!r}: "
            + "; ".join(f"{name} is {found[name]!r}: {_WHY[name]}" for name in wrong)
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


def end_transaction(connection: Any, key: bytes, run: str) -> None:
    """End a transaction that is half in the append-only file of a server that was started anew.

    If Redis dies while it writes one, its next start may leave the beginning in the file. Were it
    not ended, it would take in all that is written after it, and a later start would drop that.
    Longrec writes no transaction but this one, which holds nothing; others on the server may.

    Parameters
    ----------
    connection : redis.Connection
    key : bytes
        Where the run is noted for which this was done.
    run : str
        The server's.
    """
    connection.send_packed_command(connection.pack_command("GET", key), check_health=False)
    noted = connection.read_response()
    if noted == run.encode():
        return
    note = ("SET", key, run)  # two of them: one alone is not written as a transaction
    commands = [("MULTI",), note, note, ("EXEC",)]
    connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    for _ in commands:
        try:
            connection.read_response()
        except ResponseError as error:
            # No memory: then nothing else is written either, and what is there can be read.
            if not re.search(r"OutOfMemory|\bOOM\b|MISCONF|ExecAbort|EXECABORT", _text(error)):
                raise


def parse_info(text: bytes) -> dict[str, str]:
    """The lines of INFO's answer."""
    pairs = re.findall(r"^(\w+):(.*?)\r?$", text.decode("utf-8", "replace"), re.MULTILINE)
    return dict(pairs)


def _wanted(durability: Durability) -> dict[str, tuple[str, ...]]:
    """Per setting the values that do, the one to set first."""
    good: dict[str, tuple[str, ...]] = {
        "appendonly": ("yes",),
        "maxmemory-policy": ("noeviction",),
        "appendfsync": ("everysec", "always"),
    }
    if durability == "power":
        good |= {"appendfsync": ("always",), "no-appendfsync-on-rewrite": ("no",)}
    return good


def _not_begun(info: dict[str, str]) -> bool:
    """Whether the first append-only file is being written: if it dies before, all is lost."""
    return info.get("aof_base_size") == "0" and (
        info.get("aof_rewrite_in_progress") == "1"
        or info.get("aof_rewrite_scheduled") == "1"
        or info.get("aof_last_bgrewrite_status") == "err"
    )


def _check_kind(info: dict[str, str], url: str) -> None:
    mode = info.get("redis_mode", "standalone")
    if mode != "standalone":
        raise UsageError(f"{url} is a Redis in mode {mode}; longrec needs a single server")
    if info.get("role") == "slave":
        master = f"{info.get('master_host')}:{info.get('master_port')}"
        raise LongrecError(f"{url} is a read-only replica: give the URL of its master, {master}")


def _answer(connection: Any) -> Any:
    """The next answer; None where the command is forbidden or unknown."""
    try:
        return connection.read_response()
    except ResponseError as error:
        if re.search(r"NOPERM|NoPermission|no permissions|unknown command", _text(error)):
            return None
        raise


def _text(error: Exception) -> str:
    return f"{type(error).__name__} {error}"
