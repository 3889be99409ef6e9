"""What went wrong with a Redis, in words that say what to do, and show no password."""

from __future__ import annotations

import re

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ConnectionError,
    RedisError,
    TimeoutError,
)

from longrec.core.errors import DataError, LongrecError
from longrec.serving.stores.protocol import StoreFull, StoreUnavailable, UserDamaged
from longrec.serving.stores.redis_address import RedisAddress

MAY_BE_IN = (
    ". What was being written may be in the store or not; an event that has an event_id may be "
    "sent again, which is harmless"
)
_TRANSIENT = r"\b(LOADING|BUSY|MASTERDOWN|NOREPLICAS|TRYAGAIN|UNBLOCKED)\b"
"""In errors of a server that will soon answer otherwise."""
_CERTIFICATE = "?ssl_certfile=/path/client.pem&ssl_keyfile=/path/client.key"
_TLS = {
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not trusted: give the file of the authority "
    "that signed it, ?ssl_ca_certs=/path/ca.pem, and call it by a name that stands in the "
    "certificate",
    "CERTIFICATE_REQUIRED|certificate required": "it wants a certificate of its clients: "
    f"give one, {_CERTIFICATE}",
    "WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|record layer failure|wrong version number": "it "
    "speaks no TLS at this port: write redis:// instead of rediss://, or give its tls-port",
    "NO_CERTIFICATE_OR_CRL|NO_START_LINE|PEM lib|KEY_VALUES_MISMATCH": "a file of ?ssl_… is no "
    "certificate or key in PEM, or the key is of another certificate: give the right one",
}
"""What does not change by trying again, and the mend."""


_HINTS = {
    "redis": {
        "closed by server|reset by peer|Broken pipe|protected mode": " (without a password it "
        "answers its own machine alone: set requirepass; if it speaks TLS here: write rediss://)"
    },
    "rediss": {
        "Timeout connecting": " (if it speaks no TLS here: write redis://)",
        "EOF occurred|closed by server|reset by peer|Broken pipe": " (if it wants certificates of "
        f"its clients: {_CERTIFICATE})",
    },
}
"""What may be the cause of an error that a server gives as well while it ends."""


class TooFewReplicas(ConnectionError):
    """A write has not reached as many replicas as it must before it is acknowledged."""


def error_text(error: Exception) -> str:
    """Kind and text of an error; redis-py puts the first word of an answer into either."""
    return f"{type(error).__name__} {error}"


def is_transient(error: Exception) -> bool:
    """Whether the same call may soon succeed."""
    if isinstance(error, AuthenticationError | AuthorizationError) or _tls_words(error):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return re.search(_TRANSIENT, error_text(error)) is not None


def in_words(error: RedisError, address: RedisAddress, changing: bool) -> LongrecError:
    """The error to be raised for one of redis-py's.

    changing : whether it came of a call that changes something.
    """
    url, answer = address.public_url, str(error)
    for secret in address.secrets:
        answer = answer.replace(secret, "…")
    answer = answer[:300]
    if isinstance(error, AuthenticationError | AuthorizationError):
        # Nothing of it is shown: neither who nor by what.
        return LongrecError(
            f"{url} refuses the login: give user and password that it knows, "
            f"{url.partition(':')[0]}://user:password@…"
        )
    if mend := _tls_words(error):
        return StoreUnavailable(f"{url} cannot be reached: {mend}. What it said: {answer}")
    if is_transient(error):
        what = "does not acknowledge" if isinstance(error, TooFewReplicas) else "cannot be reached"
        hints = _HINTS["rediss" if url.startswith("rediss") else "redis"]
        hint = next((hint for pattern, hint in hints.items() if re.search(pattern, answer)), "")
        return StoreUnavailable(f"{url} {what}: {answer}{hint}{MAY_BE_IN if changing else ''}")
    text = error_text(error)
    if "DAMAGED" in text:
        return UserDamaged(
            f"{url}: what stands of a user's log does not fit its checksum, and nothing of this "
            "was written"
        )
    if "WRONGTYPE" in text:
        return no_store(address)
    if re.search(r"OutOfMemory|\bOOM\b", text):
        return out_of_memory(url)
    if "MISCONF" in text:
        return StoreFull(
            f"{url}: Redis cannot write to its disk, and nothing of this was written. Make room "
            f"there. It said: {answer}"
        )
    if re.search("ReadOnly|READONLY", text):
        words = (
            " has become a read-only replica, and nothing of this was written: give the URL of its "
            "master"
        )
    elif re.search(r"NoPermission|NOPERM|permission", text):
        words = (
            f": this user lacks a permission: {answer}. A store needs ACL SETUSER … "
            f"~{address.prefix.decode()}* +@all -@admin +info +config|get, and to compact "
            "+bgrewriteaof"
        )
    else:
        words = f": Redis answered: {answer}"
    return LongrecError(url + words)


def out_of_memory(url: str) -> StoreFull:
    """The error where Redis may take no more memory."""
    return StoreFull(
        f"{url}: Redis has used the memory that maxmemory allows, and nothing of this was written. "
        "Raise it (CONFIG SET maxmemory …, and in redis.conf) or make room"
    )


def no_store(address: RedisAddress) -> DataError:
    """The error where something else stands under the store's keys."""
    return DataError(
        f"{address.public_url}: what stands under {address.prefix.decode()!r} is no store of "
        "users; take another database or ?prefix=…"
    )


def _tls_words(error: Exception) -> str:
    """What is wrong with TLS and the mend; "" where nothing is."""
    text = str(error)
    return next((mend for pattern, mend in _TLS.items() if re.search(pattern, text)), "")
