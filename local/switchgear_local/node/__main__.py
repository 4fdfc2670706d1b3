"""Starts the process node: `python -m switchgear_local.node --kubeconfig FILE --data-dir DIR`.

SIGTERM and SIGINT stop the pods' processes gracefully and then the node, status 0; a second one cuts the grace short.
A problem with the settings ends with status 2, a failure of the node with status 1 (the pods live on).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import ipaddress
import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from switchgear_model import logs

from . import addresses, objects, registration
from .addresses import Block
from .api import Api
from .binder import Binder
from .errors import NodeError
from .events import Events
from .kubelet import Kubelet, directories
from .logs_server import LogsServer, tls_context
from .pod import NodeContext
from .provisioner import Provisioner

log = logging.getLogger("switchgear_local.node")


@dataclass(frozen=True)
class Settings:
    """The node's settings; seconds for times."""

    kubeconfig: Path
    data_dir: Path
    name: str
    host_ip: str
    port: int
    tls_cert: Path | None
    tls_key: Path | None
    client_ca: Path | None
    stop_pods_on_exit: bool
    stop_timeout: float
    log_level: str


def parse(arguments: Sequence[str]) -> Settings:
    """Settings from the command line; exits with status 2 and every problem when they are wrong."""
    parser = argparse.ArgumentParser("switchgear-node", description="A Kubernetes node that runs pods as processes.")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="credentials of ServiceAccount switchgear-node")
    parser.add_argument("--data-dir", type=Path, required=True, help="where pods and volumes are kept")
    parser.add_argument("--name", default=objects.NODE_NAME, help="the Node's name (default: %(default)s)")
    parser.add_argument("--host-ip", default="127.0.0.1", help="the node's loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port for kubectl logs (default: a free one)")
    parser.add_argument("--tls-cert", type=Path, help="serving certificate for kubectl logs")
    parser.add_argument("--tls-key", type=Path, help="its key")
    parser.add_argument("--client-ca", type=Path, help="CA of the API server's kubelet client certificate")
    parser.add_argument(
        "--stop-pods-on-exit",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="end the pods' processes on SIGTERM (default), or leave them for the next start",
    )
    parser.add_argument("--stop-timeout", type=float, default=40.0, help="seconds for that (default: %(default)s)")
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info")
    settings = Settings(**vars(parser.parse_args(arguments)))
    problems = list(_problems(settings))
    if problems:
        parser.error("; ".join(problems))
    return settings


def _problems(settings: Settings) -> Iterator[str]:
    files = {"--tls-cert": settings.tls_cert, "--tls-key": settings.tls_key, "--client-ca": settings.client_ca}
    given = {name: path for name, path in files.items() if path is not None}
    if given and len(given) < len(files):
        yield f"{', '.join(files)} are needed together; missing: {', '.join(sorted(set(files) - set(given)))}"
    for name, path in {"--kubeconfig": settings.kubeconfig, **given}.items():
        if not path.is_file():
            yield f"{name}: {path} is not a file"
    if not 0 <= settings.port <= 65535:
        yield "--port must be from 0 to 65535"
    if settings.stop_timeout < 0:
        yield "--stop-timeout must not be negative"
    try:
        if not ipaddress.IPv4Address(settings.host_ip).is_loopback:
            yield "--host-ip must be in 127.0.0.0/8"
    except ValueError:
        yield f"--host-ip: {settings.host_ip!r} is not an IPv4 address"


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[str]:
    """The data directory, held by this process alone; yields its id. Raises NodeError when another node holds it."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(data_dir / "node.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NodeError("DATA_DIR_IN_USE", f"another node uses {data_dir}; stop it or give another") from None
        file = data_dir / "id"
        if not file.exists():
            _write(file, uuid.uuid4().hex)
        yield file.read_text().strip()
    finally:
        os.close(fd)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)


def claim_block(data_dir: Path, node_id: str) -> Block:
    """The address block of a data directory, the same as last time if possible. Raises NodeError."""
    file = data_dir / "block"
    try:
        preferred: int | None = int(file.read_text())
    except (OSError, ValueError):
        preferred = None
    block = addresses.claim(node_id, preferred)
    if block.index != preferred:
        _write(file, str(block.index))
    return block


async def run(settings: Settings, node_id: str) -> None:
    """The node, until SIGTERM or SIGINT. Raises NodeError, or whatever ended one of its loops."""
    stop = asyncio.Event()
    hurry = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, lambda: hurry.set() if stop.is_set() else stop.set())
    pods_dir, volumes_dir = directories(settings.data_dir)
    block = claim_block(settings.data_dir, node_id)
    async with Api(settings.kubeconfig) as api:
        events = Events(api, settings.name)
        provisioner = Provisioner(api, events, settings.name, volumes_dir)
        context = NodeContext(
            api=api,
            events=events,
            block=block,
            node_name=settings.name,
            node_id=node_id,
            host_ip=settings.host_ip,
            pods_dir=pods_dir,
            volumes_dir=volumes_dir,
            program_path=f"{Path(sys.executable).parent}:{os.environ.get('PATH') or os.defpath}",
            claim=provisioner.claim,
        )
        kubelet = Kubelet(context)
        await kubelet.prepare()
        server, port = await _serve_logs(settings, kubelet)
        node = registration.Registration(
            api, registration.facts(settings.name, settings.host_ip, port, settings.data_dir)
        )
        binder = Binder(api, settings.name, lambda: 0 if node.cordoned else objects.MAX_PODS - len(kubelet))
        log.info("node %s: block %d, logs on port %d", settings.name, block.index, port)
        loops = [
            asyncio.create_task(part.run(), name=name)
            for name, part in (
                ("registration", node),
                ("kubelet", kubelet),
                ("binder", binder),
                ("provisioner", provisioner),
                ("events", events),
            )
        ]
        try:
            await _until(stop, loops)
            log.info("stopping")
            if settings.stop_pods_on_exit:
                await _stop_pods(kubelet, settings.stop_timeout, hurry)
        finally:
            for task in loops:
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            if server is not None:
                await server.stop()


async def _serve_logs(settings: Settings, kubelet: Kubelet) -> tuple[LogsServer | None, int]:
    if settings.tls_cert is None or settings.tls_key is None or settings.client_ca is None:
        log.warning("no logs for kubectl: --tls-cert, --tls-key and --client-ca were not given")
        return None, settings.port
    server = LogsServer(kubelet, tls_context(settings.tls_cert, settings.tls_key, settings.client_ca))
    return server, await server.start(settings.host_ip, settings.port)


async def _until(stop: asyncio.Event, loops: Sequence[asyncio.Task[None]]) -> None:
    """Wait for `stop`; raises what ends a loop, for none of them may end."""
    waiting = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait({waiting, *loops}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {waiting}:
            task.result()
            raise NodeError("LOOP_ENDED", f"{task.get_name()} ended unexpectedly")
    finally:
        waiting.cancel()


async def _stop_pods(kubelet: Kubelet, limit: float, hurry: asyncio.Event) -> None:
    ending = asyncio.create_task(kubelet.shutdown(limit))
    hurrying = asyncio.create_task(hurry.wait())
    await asyncio.wait({ending, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    if not ending.done():
        kubelet.hurry()
    await ending


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node; returns the exit status."""
    settings = parse(sys.argv[1:] if arguments is None else arguments)
    logs.configure("switchgear-node", settings.log_level)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    try:
        with locked(settings.data_dir) as node_id:
            asyncio.run(run(settings, node_id))
    except NodeError as error:
        log.error("%s", error)
        return 1
    except Exception:
        log.exception("unexpected; the pods live on and are adopted by the next start")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
