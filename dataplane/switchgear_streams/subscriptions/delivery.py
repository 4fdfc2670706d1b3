"""One webhook delivery: resolve, judge every address, connect to one that was judged, POST, read a short answer.

It must not follow redirects (a 3xx is a failure), and it keeps no connection: the next delivery is judged anew.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor

from switchgear_streams.subscriptions import targets
from switchgear_wire.upstream import Upstream, UpstreamError, UpstreamResponse, UpstreamUnavailable

TOTAL_SECONDS = 30.0
_DNS_SECONDS = 5.0
_CONNECT_SECONDS = 5.0
MAX_ANSWER = 65_536
_ADDRESSES = 3


class Undelivered(Exception):
    """The message says why; it names nothing secret."""


class Courier:
    """Shared by all deliveries of a server."""

    def __init__(self, allow_loopback: bool) -> None:
        self._allow_loopback = allow_loopback
        self._tls: ssl.SSLContext | None = None
        # Of its own: slow name servers must not hold up what the log and checkpoints do in threads.
        self._names = ThreadPoolExecutor(4, thread_name_prefix="webhook-dns")

    def close(self) -> None:
        self._names.shutdown(wait=False, cancel_futures=True)

    async def post(self, url: str, body: bytes, signature: bytes) -> bytes:
        """The body of a 2xx answer. Raises Undelivered for everything else, Refused for a URL that is not allowed."""
        target = targets.parse(url, self._allow_loopback)
        try:
            async with asyncio.timeout(TOTAL_SECONDS):
                return await self._post(target, body, signature)
        except TimeoutError:
            raise Undelivered(f"no answer within {TOTAL_SECONDS:g} s") from None
        except UpstreamError as error:
            raise Undelivered(str(error)) from None

    async def _post(self, target: targets.Target, body: bytes, signature: bytes) -> bytes:
        addresses = await self._resolve(target)
        upstream = self._upstream(target)
        try:
            response = await self._send(upstream, target, addresses, body, signature)
            answer = await _read(response)
        finally:
            upstream.close()
        if not 200 <= response.status < 300:
            raise Undelivered(f"the receiver answered {response.status}")
        return answer

    async def _resolve(self, target: targets.Target) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_DNS_SECONDS):
                found = await loop.run_in_executor(self._names, _lookup, target.host, target.port)
        except TimeoutError:
            raise Undelivered("the host's name was not resolved in time") from None
        except (OSError, UnicodeError):
            raise Undelivered("the host's name cannot be resolved") from None
        for address in found:
            if not targets.allowed(ipaddress.ip_address(address), self._allow_loopback):
                raise Undelivered("the host has an address that is not public")
        if not found:
            raise Undelivered("the host has no address")
        return found

    def _upstream(self, target: targets.Target) -> Upstream:
        if not target.tls:
            return Upstream(max_idle=0)
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return Upstream(max_idle=0, ssl=self._tls, server_hostname=target.host.rstrip("."))

    async def _send(
        self, upstream: Upstream, target: targets.Target, addresses: list[str], body: bytes, signature: bytes
    ) -> UpstreamResponse:
        headers = [
            (b"host", target.authority),
            (b"content-type", b"application/json"),
            (b"user-agent", b"switchgear-streams"),
            (b"webhook-signature", signature),
            (b"connection", b"close"),
        ]
        last = UpstreamUnavailable("no address", sent=False)
        for address in addresses[:_ADDRESSES]:
            try:
                return await upstream.request(
                    address, target.port, "POST", target.path, headers, body,
                    connect_timeout=_CONNECT_SECONDS, head_timeout=TOTAL_SECONDS, body_timeout=TOTAL_SECONDS,
                )  # fmt: skip
            except UpstreamUnavailable as error:
                if error.sent:
                    raise
                last = error
        raise last


def _lookup(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def _read(response: UpstreamResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for chunk in response.chunks():
        size += len(chunk)
        if size > MAX_ANSWER:
            response.abort()
            raise Undelivered(f"the answer is larger than {MAX_ANSWER} bytes")
        parts.append(chunk)
    return b"".join(parts)
