"""Where clients find a server: its own URLs, for Location, callbacks and JWKS. Pure."""

from __future__ import annotations

import re

from switchgear_streams.settings import Settings
from switchgear_wire.request import Request

# In a path, what is no character of a URL's path, or would end it.
_STRANGE = re.compile(rb"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9/._~%:@!$&'()*+,;=-]")


class Addresses:
    """As the settings say, else as the request's Host says."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def of(self, request: Request) -> bytes:
        """What a request is about, below the root path."""
        root = self._settings.public_root_url
        path = _STRANGE.sub(lambda found: b"%%%02X" % found[0][0], request.path)
        if root is not None:
            return root.encode() + path[len(self._settings.root_path) :]
        return self.public(request) + path

    def public(self, request: Request) -> bytes:
        """Scheme and host."""
        settings = self._settings
        if settings.public_url is not None:
            return settings.public_url.encode()
        host = request.headers.get(b"host") or b"%b:%d" % (settings.host.encode(), settings.port)
        return b"http://" + host

    @property
    def fixed_root(self) -> str | None:
        """Where the root path is, if that does not depend on the request."""
        settings = self._settings
        if settings.public_root_url is not None:
            return settings.public_root_url
        return None if settings.public_url is None else settings.public_url + settings.root_path

    def root(self, request: Request) -> str:
        """Where the root path is."""
        return self.fixed_root or self.public(request).decode("latin-1") + self._settings.root_path
