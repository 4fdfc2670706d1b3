"""The world's certificate authorities are read once in a test process.

httpx reads them for each client that it makes and for each `httpx.get`, 30 ms of a core, although hardly a test speaks
TLS with any of them. Contexts with authorities of a test's own are made as ever.
"""

from __future__ import annotations

import os
import ssl
from functools import cache
from typing import Any

import certifi

_make = ssl.create_default_context
_make_once = cache(_make)


def _create(*arguments: Any, **options: Any) -> ssl.SSLContext:
    known = {certifi.where(), os.environ.get("SSL_CERT_FILE")}
    if not arguments and list(options) == ["cafile"] and options["cafile"] in known:
        return _make_once(cafile=options["cafile"])
    return _make(*arguments, **options)


def pytest_configure() -> None:
    ssl.create_default_context = _create
