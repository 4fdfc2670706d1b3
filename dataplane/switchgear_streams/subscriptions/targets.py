"""Where webhooks may go: rules against making the server call its own surroundings. Pure.

A host name is judged here by its form; the addresses it resolves to are judged at each delivery (`allowed`), which then
connects to exactly the address that was judged.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from switchgear_streams.subscriptions.errors import Refused

MAX_URL = 2048
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_INSIDE = (".localhost", ".local", ".internal", ".localdomain", ".home.arpa", ".svc", ".cluster.local")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Target:
    """`host` without brackets; `authority` as for the Host header; `path` with its query."""

    tls: bool
    host: str
    port: int
    authority: bytes
    path: bytes


def parse(url: str, allow_loopback: bool) -> Target:
    """Judge a webhook's URL. Raises Refused 400 WEBHOOK_URL_REJECTED."""
    if len(url) > MAX_URL or not url.isascii() or any(not "!" <= character <= "~" for character in url):
        raise _rejected(f"must be at most {MAX_URL} visible ASCII characters")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _rejected("cannot be read") from None
    if parts.scheme not in ("https", "http") or not host or "\\" in url:
        raise _rejected("must be like https://host/path")
    if "@" in parts.netloc or "#" in url:
        raise _rejected("must have neither user information nor a fragment")
    if port == 0:
        raise _rejected("has port 0")
    loopback = _judge_host(host, allow_loopback)
    tls = parts.scheme == "https"
    if not tls and not (loopback and allow_loopback):
        raise _rejected("must be https")
    return Target(tls, host, port or (443 if tls else 80), parts.netloc.encode(), _path(parts))


def _path(parts: SplitResult) -> bytes:
    path = parts.path or "/"
    return (path + ("?" + parts.query if parts.query else "")).encode()


def _judge_host(host: str, allow_loopback: bool) -> bool:
    """Whether it is the loopback. Raises Refused."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        if not allowed(address, allow_loopback):
            raise _rejected("names an address that is not public")
        return address.is_loopback
    name = host.rstrip(".").lower()
    if len(name) > 253 or not _NAME.fullmatch(host):
        raise _rejected("has no valid host name")
    last = name.rsplit(".", 1)[-1]
    if last.isdigit() or re.fullmatch(r"0x[0-9a-f]*", last):
        raise _rejected("has a number for a host name; write addresses as four decimal numbers")
    if name == "localhost":
        if not allow_loopback:
            raise _rejected("names this machine")
        return True
    if "." not in name or name.endswith(_INSIDE):
        raise _rejected("names a host that is not public")
    return False


def allowed(address: Address, allow_loopback: bool) -> bool:
    """May the server connect there? Addresses within addresses (mapped, 6to4, NAT64, Teredo) are judged as well."""
    if allow_loopback and address.is_loopback:
        return True
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        inner = _inner(address)
        if inner is not None and not allowed(inner, False):
            return False
        if address.ipv4_mapped is not None:
            return True
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or address in _COMPATIBLE:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _rejected(problem: str) -> Refused:
    return Refused(400, "WEBHOOK_URL_REJECTED", f"The webhook's URL {problem}.")
