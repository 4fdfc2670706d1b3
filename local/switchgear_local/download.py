"""Downloads a program from its project's own releases and checks it against the published SHA-256.

Must not: make a person wait on a machine without a route. Whether there is one is asked once, within seconds.
"""

from __future__ import annotations

import functools
import hashlib
import http.client
import socket
import tarfile
import threading
import time
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from .errors import BinariesError
from .versions import Program, architecture

_PROBE_LIMIT = 2.0
_READ_LIMIT = 60.0
_MAX_BYTES = 512 * 1024 * 1024
_CHUNK = 1 << 20
_HEARTBEAT = 10.0


def fetch(program: Program, target: Path, progress: Callable[[str], None], environ: Mapping[str, str]) -> None:
    """Write the program to `target`. Raises BinariesError: no route, a failed transfer or a wrong checksum."""
    url = _url(program)
    host = urllib.parse.urlsplit(url).hostname or ""
    if not has_route(host):
        raise BinariesError(f"no route to {host}")
    progress(f"downloading {program.name} {program.version} from {host}")
    part = target.with_name(target.name + ".download")
    try:
        digest = _save(url, part, progress)
        expected = _published_checksum(program, url)
        if digest != expected:
            raise BinariesError(f"{url} has the SHA-256 {digest}, published is {expected}")
        if program.family == "etcd":
            _extract(part, program.name, target)
        else:
            part.replace(target)
    except (OSError, EOFError, tarfile.TarError, zlib.error, http.client.HTTPException) as error:
        raise BinariesError(f"{url}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


@functools.cache
def has_route(host: str) -> bool:
    """True when a TCP connection to `host` (or to the configured proxy) succeeds within about two seconds."""
    proxy = urllib.request.getproxies().get("https")
    port = 443
    if proxy and not urllib.request.proxy_bypass(host):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
        host, port = parts.hostname or host, parts.port or 8080
    connected = threading.Event()

    def probe() -> None:
        try:
            socket.create_connection((host, port), timeout=_PROBE_LIMIT).close()
        except OSError:
            return
        connected.set()

    # In a thread of its own: name resolution has no time limit that we could set.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(_PROBE_LIMIT + 1)
    return connected.is_set()


def _url(program: Program) -> str:
    if program.family == "etcd":
        version = f"v{program.version}"
        archive = f"etcd-{version}-linux-{architecture()}.tar.gz"
        return f"https://github.com/etcd-io/etcd/releases/download/{version}/{archive}"
    return f"https://dl.k8s.io/release/v{program.version}/bin/linux/{architecture()}/{program.name}"


def _published_checksum(program: Program, url: str) -> str:
    if program.family != "etcd":
        return _text(url + ".sha256").split()[0].lower()
    folder, _, archive = url.rpartition("/")
    for line in _text(f"{folder}/SHA256SUMS").splitlines():
        fields = line.split()
        if len(fields) == 2 and fields[1].lstrip("*") == archive:
            return fields[0].lower()
    raise BinariesError(f"{folder}/SHA256SUMS does not name {archive}")


def _text(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_READ_LIMIT) as answer:  # noqa: S310 - fixed https addresses
        content: bytes = answer.read(_CHUNK)
    text = content.decode("ascii", errors="replace").strip()
    if not text:
        raise BinariesError(f"{url} is empty")
    return text


def _save(url: str, path: Path, progress: Callable[[str], None]) -> str:
    digest = hashlib.sha256()
    size = 0
    said = time.monotonic()
    with urllib.request.urlopen(url, timeout=_READ_LIMIT) as answer, path.open("wb") as file:  # noqa: S310
        while chunk := answer.read(_CHUNK):
            size += len(chunk)
            if size > _MAX_BYTES:
                raise BinariesError(f"{url} is larger than {_MAX_BYTES} bytes")
            digest.update(chunk)
            file.write(chunk)
            if time.monotonic() - said > _HEARTBEAT:
                said = time.monotonic()
                progress(f"downloading … {size >> 20} MiB")
    return digest.hexdigest()


def _extract(archive: Path, name: str, target: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and Path(member.name).name == name:
                source = tar.extractfile(member)
                assert source is not None
                with source, target.open("wb") as file:
                    while chunk := source.read(_CHUNK):
                        file.write(chunk)
                return
    raise BinariesError(f"{archive.name} holds no {name}")
