"""Addresses of Redis: of a server, or of a master that Sentinels know.

    redis://user:password@host:6379/0            rediss://… with TLS
    redis+sentinel://user:password@host:26379,host:26379/NAME/0    rediss+sentinel://… with TLS

NAME is what the Sentinels call the master. User and password are the servers'; those of the
Sentinels, where they have any, are `?sentinel_username=` and `?sentinel_password=`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from redis.connection import parse_url

from longrec.core.errors import UsageError

PREFIX = "longrec:"

_OPTIONS = {
    *("host", "port", "db", "username", "password", "connection_class", "client_name"),
    *("socket_timeout", "socket_connect_timeout", "socket_keepalive", "health_check_interval"),
}
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS_OPTIONS = {
    *(*_FILES, "ssl_ca_path", "ssl_cert_reqs", "ssl_check_hostname"),
    *("ssl_password", "ssl_min_version", "ssl_ciphers"),
}
_OWN = ("prefix", "replicas", "sentinel_username", "sentinel_password")
"""Options that redis-py's connections do not take."""


class RedisAddress(NamedTuple):
    """A Redis URL taken apart.

    public_url : the URL without credentials and options;
    prefix : what all keys begin with;
    options : what redis-py's connections take;
    replicas : how many replicas must have a write before it is acknowledged; None: all there are;
    sentinels : hosts and ports of Sentinels, none: the options say where the server is;
    master : what they call it; login : what Sentinels are logged in with.
    """

    public_url: str
    prefix: bytes
    options: dict[str, Any]
    replicas: int | None = 0
    sentinels: Sequence[tuple[str, int]] = ()
    master: str = ""
    login: dict[str, str] = {}  # noqa: RUF012  nobody changes it

    def __repr__(self) -> str:  # without the options, which have the password
        return f"RedisAddress({self.public_url!r})"

    @property
    def secrets(self) -> list[str]:
        """What must not be shown."""
        found = self.options.get("password"), self.login.get("password")
        return [password for password in found if password]

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Take a URL apart; its errors, UsageError, show no part of a password."""
        scheme = url.partition("://")[0]
        watched = scheme.endswith("+sentinel")
        readable = True
        try:
            parts = urlsplit(url)
            if parts.fragment or "@" in parts.path + parts.query:  # of a password, not encoded
                raise ValueError
            query = parse_qsl(parts.query)
            rest = urlencode([(name, value) for name, value in query if name not in _OWN])
            own = {name: value for name, value in query if name in _OWN}
            replicas = int(own["replicas"]) if "replicas" in own else None if watched else 0
            sentinels, master = _sentinels(parts) if watched else ([], "")
            if watched:
                login, at, _ = parts.netloc.rpartition("@")
                database = parts.path.strip("/").partition("/")[2]
                parts = SplitResult(
                    scheme.partition("+")[0], login + at + "localhost", database, "", ""
                )
            options: dict[str, Any] = parse_url(  # type: ignore[no-untyped-call]
                urlunsplit(parts._replace(query=rest))
            )
            options.setdefault("db", int(parts.path.strip("/") or 0))
            host, port = parts.hostname or "localhost", parts.port or 6379
        except ValueError:  # its own text may have parts of a password: nothing is raised from it
            readable = False
        if not readable or (replicas or 0) < 0:
            example = "host:26379,host:26379/NAME/0" if watched else "host:6379/0"
            raise UsageError(
                f"the URL {scheme}://… cannot be read: write {scheme}://user:password@{example}, "
                "what is special in the password percent-encoded, and numbers as numbers"
            )
        where = ",".join(_shown(*one) for one in sentinels or [(host, port)])
        name = f"{master}/" if watched else ""
        public_url = f"{scheme}://{where}/{name}{options['db']}"
        prefix = own.get("prefix", PREFIX)
        if prefix != PREFIX:
            public_url += "?" + urlencode({"prefix": prefix})
        tls = scheme.startswith("rediss")
        _check_options(public_url, options, tls)
        if tls and options.get("ssl_cert_reqs") != "none":
            options.setdefault("ssl_check_hostname", True)  # redis-py before 6 does not by default
        if watched:
            del options["host"]
        login_names = ("username", "password")
        login_of = {key: own[f"sentinel_{key}"] for key in login_names if f"sentinel_{key}" in own}
        if login_of and not watched:
            raise UsageError(f"{public_url}: sentinel_… is an option of redis+sentinel://")
        return cls(public_url, prefix.encode(), options, replicas, sentinels, master, login_of)


def _sentinels(parts: SplitResult) -> tuple[list[tuple[str, int]], str]:
    """Where Sentinels are, and what they call the master; ValueError where that is not said."""
    found = []
    for one in parts.netloc.rpartition("@")[2].split(","):
        place = urlsplit(f"//{one}")
        if not place.hostname or place.path or place.query:
            raise ValueError
        found.append((place.hostname, place.port or 26379))
    master = unquote(parts.path.strip("/").partition("/")[0])
    if not re.fullmatch(r"[\w.-]+", master):  # what sentinel.conf takes as a name
        raise ValueError
    return found, master


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_options(public_url: str, options: dict[str, Any], tls: bool) -> None:
    """Refuse options that there are not, and files that are not there."""
    for name in options:
        if name not in _OPTIONS and not (tls and name in _TLS_OPTIONS):
            raise UsageError(
                f"{public_url}: {name!r} is no option of a store's URL; there are prefix, "
                "replicas, socket_timeout, socket_connect_timeout, socket_keepalive, "
                "health_check_interval, client_name, sentinel_username and sentinel_password of "
                f"redis+sentinel://, and of rediss:// {', '.join(sorted(_TLS_OPTIONS))}"
            )
    for name in _FILES:
        if name in options and not Path(options[name]).is_file():
            raise UsageError(
                f"{public_url}: {name} is {options[name]!r}, and there is no such file"
            )
