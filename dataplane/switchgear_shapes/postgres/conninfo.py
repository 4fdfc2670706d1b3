"""A database URL → libpq parameters. Pure. Nothing here prints a password."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

_KNOWN = frozenset(
    {
        "sslmode",
        "sslrootcert",
        "sslcert",
        "sslkey",
        "sslnegotiation",
        "channel_binding",
        "gssencmode",
        "target_session_attrs",
        "options",
        "connect_timeout",
        "host",
        "port",
    }
)
PREFER_IPV6 = "prefer_ipv6"
"""Our own parameter: addresses of this kind are tried first. Not for libpq."""
_SSL_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})


class BadUrl(ValueError):
    """The text is no usable database URL; the message never repeats it."""


@dataclass(frozen=True)
class Conninfo:
    """libpq connection parameters, the password among them."""

    params: dict[str, str]

    def __repr__(self) -> str:
        return f"Conninfo({self.params.get('host')}:{self.params.get('port')}/{self.params.get('dbname')})"

    def render(self, **extra: str) -> bytes:
        """The parameters (with `extra` laid over them) as libpq's key/value text."""
        merged = self.params | extra
        return " ".join(
            f"{key}='{value.replace(chr(92), chr(92) * 2).replace(chr(39), chr(92) + chr(39))}'"
            for key, value in merged.items()
            if key != PREFER_IPV6
        ).encode()


def parse_url(url: str) -> Conninfo:
    """Parse `postgresql://user:password@host:port/database?sslmode=…`. Raises BadUrl."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadUrl("is no valid URL: check the host and port") from None
    if parts.scheme not in ("postgresql", "postgres"):
        raise BadUrl("must begin with postgresql://")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if "replication" in query:
        raise BadUrl("must not have the parameter replication; the server sets it itself")
    params = {key: value for key, value in query.items() if key in _KNOWN}
    if params.get("sslmode", "prefer") not in _SSL_MODES:
        raise BadUrl(f"has an unknown sslmode; use one of {', '.join(sorted(_SSL_MODES))}")
    if parts.hostname:
        params["host"] = unquote(parts.hostname)
    if not params.get("host"):
        raise BadUrl("has no host")
    if port is not None:
        params["port"] = str(port)
    params.setdefault("port", "5432")
    if not parts.username:
        raise BadUrl("has no user")
    params["user"] = unquote(parts.username)
    if parts.password is not None:
        params["password"] = unquote(parts.password)
    params["dbname"] = unquote(parts.path.removeprefix("/")) or params["user"]
    if any("\0" in value for value in params.values()):
        raise BadUrl("has a NUL character")
    return Conninfo(params)
