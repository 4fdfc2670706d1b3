"""Who may ask a service, and how much: its secret, its connections, its appends a second.

What it must not do: know routes; `service` asks it, in the order in which that must be asked.
"""

from __future__ import annotations

import hmac
import time

from switchgear_streams import answers, measures
from switchgear_streams.limits import Others, Rate, Seats
from switchgear_streams.settings import Settings
from switchgear_wire.metrics import Registry
from switchgear_wire.request import Request
from switchgear_wire.response import Response

RETRY = b"retry-after: 1\r\n"
_NO_LIMIT = 2_000_000
"""The default of --max-streams, which guards the memory of one process, not a customer's bill."""


def unauthorised() -> Response:
    return answers.problem(
        401,
        "UNAUTHORIZED",
        "Send the service's secret as Authorization: Bearer <secret>.",
        b"www-authenticate: Bearer\r\n",
    )


class Gate:
    """That of one service. `others`: what its other processes hold."""

    def __init__(self, settings: Settings, metrics: Registry, others: Others) -> None:
        self._settings = settings
        self._bearer = None if settings.secret is None else b"Bearer " + settings.secret
        self._unauthorized = metrics.counter("streams_unauthorized_total", "Requests without the right secret.")
        self._limited = metrics.counter("streams_limited_total", "Requests refused by a limit of the service.")
        rate, most = settings.max_append_rate, settings.max_connections
        self._rate = None if rate is None else Rate(rate)
        self._seats = None if most is None else Seats(most, others=others)
        self.locked = settings.secret is not None
        """Is there a secret to be shown?"""
        self.throttles = rate is not None
        """Is there a limit of appends?"""
        self.seats = most is not None
        """Are connections counted?"""
        if self._seats is not None:
            measures.watch_connections(metrics, self._seats)

    # -- the secret --

    def allowed(self, request: Request) -> bool:
        bearer = self._bearer
        if bearer is None:
            return True
        given = request.headers.get(b"authorization", b"")
        if hmac.compare_digest(given, bearer):  # as most clients write it
            return True
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer":
            token = b""
        return hmac.compare_digest(b"Bearer " + token.strip(), bearer)

    def unauthorised(self) -> Response:
        self._unauthorized.value += 1
        return unauthorised()

    # -- limits --

    @property
    def limited(self) -> bool:
        """Is there any limit for several processes to share?"""
        limits = self._settings
        some = (limits.max_bytes, limits.max_append_rate, limits.max_live_reads, limits.max_connections)
        return any(one is not None for one in some) or limits.max_streams < _NO_LIMIT

    def refused(self, answer: Response) -> Response:
        self._limited.value += 1
        return answer

    def throttled(self) -> Response | None:
        """The answer to an append that is one too many in this second."""
        rate = self._rate
        if rate is None or rate.take(time.monotonic()):
            return None
        message = f"This service takes {rate.per_second} appends a second."
        return self.refused(answers.problem(429, "RATE_LIMITED", message, RETRY))

    @property
    def appends(self) -> int:
        """How many were let through."""
        return 0 if self._rate is None else self._rate.taken

    def appended_elsewhere(self, number: int) -> None:
        """So many appends of this service were accepted by other processes."""
        if self._rate is not None:
            self._rate.elsewhere(number, time.monotonic())

    # -- connections --

    @property
    def taken(self) -> int:
        """Connections that count."""
        return 0 if self._seats is None else self._seats.taken

    def admit(self, request: Request) -> bool:
        """Only those with the secret count, so that strangers cannot take a service's connections."""
        return self._seats is None or not self.allowed(request) or self._seats.take(request)

    def crowded(self, request: Request) -> Response:
        """The answer on a connection that is one too many."""
        most = 0 if self._seats is None else self._seats.most
        request.keep_alive = False
        message = f"{most} connections use this service, as many as may; use them again, or wait."
        return self.refused(answers.problem(429, "TOO_MANY_SERVICE_CONNECTIONS", message, RETRY))

    def seated(self, request: Request) -> bool:
        """Does the connection of this request have a seat?"""
        return self._seats is not None and request.lease is self._seats

    def seat(self, request: Request) -> None:
        """It had one in another process, which it keeps."""
        if self._seats is not None:
            self._seats.keep(request)
