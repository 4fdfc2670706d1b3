"""The bootstrap admin token: one secret in a file, compared in constant time.

The file is read again when it changes, so that a token can be replaced without a restart. A file that has become
unreadable keeps the last good token. The token is never logged; only its SHA-256 is kept in memory.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from switchgear_api.problems import Problem

MIN_LENGTH = 16
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="switchgear"'}


class TokenFileError(Exception):
    """The token file cannot be used; the message says how to fix it."""


class AdminToken:
    """Checks the `Authorization` header of requests against the token in `path`.

    Raises TokenFileError when the file cannot be read or its token is shorter than MIN_LENGTH characters.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._stat()
        self._digest = self._read()

    def check(self, authorization: str | None) -> None:
        """Raises Problem 401 unless the header is `Bearer <the token>`."""
        if not authorization:
            message = "Send the admin token as 'Authorization: Bearer <token>'."
            raise Problem(401, "MISSING_TOKEN", message, headers=_CHALLENGE)
        scheme, _, token = authorization.partition(" ")
        self._refresh()
        given = hashlib.sha256(token.strip().encode()).digest()
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, self._digest):
            raise Problem(401, "INVALID_TOKEN", "The token is not valid.", headers=_CHALLENGE)

    def _refresh(self) -> None:
        try:
            stamp = self._stat()
            if stamp != self._stamp:
                self._digest = self._read()
                self._stamp = stamp
        except TokenFileError:
            return

    def _stat(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise TokenFileError(f"the admin token file {self._path} cannot be read: {error.strerror}") from error
        return found.st_mtime_ns, found.st_size

    def _read(self) -> bytes:
        try:
            token = self._path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise TokenFileError(f"the admin token file {self._path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise TokenFileError(f"the admin token file {self._path} is not text") from error
        if len(token) < MIN_LENGTH:
            raise TokenFileError(
                f"the admin token in {self._path} has {len(token)} characters; use at least {MIN_LENGTH} random ones"
            )
        return hashlib.sha256(token.encode()).digest()
