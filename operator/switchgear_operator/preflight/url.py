"""Database URLs: syntax, and which options we pass to libpq. Pure; never echoes the URL.

Options that make libpq read files or services of the operator's own machine are refused: the URL comes from
a user of the cluster, the files would be ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

_ALLOWED: Final = frozenset(
    {
        "application_name",
        "channel_binding",
        "client_encoding",
        "connect_timeout",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "options",
        "require_auth",
        "ssl_max_protocol_version",
        "ssl_min_protocol_version",
        "sslcompression",
        "sslmode",
        "sslnegotiation",
        "sslsni",
        "target_session_attrs",
        "tcp_user_timeout",
    }
)
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


class UrlInvalid(ValueError):
    """The URL cannot be used; the text says why and what to do, without any part of the URL's secrets."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads, without credentials: two URLs with the same target reach the same database."""

    hosts: tuple[tuple[str, int], ...]
    database: str


def target(url: str) -> Target:
    """Checks a URL's syntax. Raises `UrlInvalid`."""
    if url != url.strip() or "\n" in url or "\0" in url:
        raise UrlInvalid("the URL in the Secret has white space around it or a line break in it: store it without")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UrlInvalid("not a URL: use postgresql://user:password@host:5432/database") from None
    if parts.scheme not in ("postgres", "postgresql"):
        raise UrlInvalid("must begin with postgresql:// (postgresql://user:password@host:5432/database)")
    _check_options(parts.query)
    userinfo, at, address = parts.netloc.rpartition("@")
    if not at or not userinfo.partition(":")[0]:
        raise UrlInvalid("no user: use postgresql://user:password@host:5432/database")
    if "@" in userinfo or "/" in userinfo:
        raise UrlInvalid("the user or password has an unescaped '@' or '/': write them as %40 and %2F")
    database = unquote(parts.path.removeprefix("/"))
    if not database or "/" in database:
        raise UrlInvalid("no database name: add it after the host (postgresql://user:password@host:5432/database)")
    if parts.fragment or "#" in url:
        raise UrlInvalid("has an unescaped '#': write it as %23")
    return Target(tuple(_host(text) for text in address.split(",")), database)


def _check_options(query: str) -> None:
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "sslrootcert" and value == "system":
            continue
        if name not in _ALLOWED:
            shown = name[:40] if name.replace("_", "").isalnum() else "?"
            raise UrlInvalid(f"option {shown!r} is not supported in the URL: remove it")
        if name == "sslmode" and value not in _SSL_MODES:
            raise UrlInvalid(f"sslmode must be one of {', '.join(_SSL_MODES)}")


def _host(text: str) -> tuple[str, int]:
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise UrlInvalid("an IPv6 address must be written in brackets, [::1]:5432")
        port = rest[1:]
    elif ":" in text:
        host, _, port = text.rpartition(":")
    host = unquote(host)
    if not host or host.startswith(("/", "@")):
        raise UrlInvalid("no host: a socket path cannot be reached from a pod; use postgresql://user:password@host/…")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UrlInvalid("the port must be a number from 1 to 65535")
    return (host.lower(), int(port) if port else 5432)


def ports(url: str | None) -> tuple[int, ...]:
    """The ports a URL leads to, sorted; none for a URL that cannot be used."""
    if url is None:
        return ()
    try:
        return tuple(sorted({port for _, port in target(url).hosts}))
    except UrlInvalid:
        return ()


def address(url: str) -> str:
    """Host, port and database for people to read, without credentials and options."""
    try:
        found = target(url)
    except UrlInvalid:
        return "an unknown database"
    return ",".join(f"{host}:{port}" for host, port in found.hosts) + "/" + found.database


def with_credentials(url: str, other: str) -> str | None:
    """`url`'s database with `other`'s user, password and options; None unless both lead to the same hosts."""
    try:
        same = target(url).hosts == target(other).hosts
    except UrlInvalid:
        return None
    return urlunsplit(urlsplit(other)._replace(path=urlsplit(url).path)) if same else None


def same_database(first: str, second: str) -> bool:
    """Whether two URLs differ at most in user, password and options."""
    try:
        return target(first) == target(second)
    except UrlInvalid:
        return False
