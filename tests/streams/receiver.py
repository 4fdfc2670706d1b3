"""A real webhook receiver: an HTTP server in threads that keeps what it got and answers as it is told."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Answer = tuple[int, dict[str, Any]]


@dataclass
class Notification:
    body: dict[str, Any]
    raw: bytes
    signature: str

    def verify(self, jwks: dict[str, Any]) -> str:
        """Raises InvalidSignature. Returns the key's id."""
        fields = dict(part.split("=", 1) for part in self.signature.split(","))
        key = next(key for key in jwks["keys"] if key["kid"] == fields["kid"])
        public = Ed25519PublicKey.from_public_bytes(_raw(key["x"]))
        public.verify(_raw(fields["ed25519"]), fields["t"].encode() + b"." + self.raw)
        assert abs(int(fields["t"]) - time.time()) < 60
        return fields["kid"]


class Receiver:
    """`answer`: called with each notification, in the connection's thread."""

    def __init__(self, answer: Callable[[Notification], Answer] | None = None) -> None:
        self.answer = answer or (lambda _: (200, {"done": True}))
        self.got: list[Notification] = []
        self._changed = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                made = Notification(json.loads(raw), raw, self.headers["webhook-signature"])
                with receiver._changed:
                    receiver.got.append(made)
                    receiver._changed.notify_all()
                status, value = receiver.answer(made)
                content = json.dumps(value).encode()
                try:
                    self.send_response(status)
                    if 300 <= status < 400:
                        self.send_header("location", receiver.url)
                    self.send_header("content-length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    pass  # the sender was killed

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def wait(self, count: int, seconds: float = 30) -> list[Notification]:
        """At least `count` notifications."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.got) >= count, seconds), f"{len(self.got)} of {count}"
            return list(self.got)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _raw(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
