"""Webhook deliveries: names are resolved once, every address judged, that one connected to; TLS checks the name."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from switchgear_streams.subscriptions import delivery
from switchgear_streams.subscriptions.delivery import Courier, Undelivered
from switchgear_streams.subscriptions.errors import Refused
from tests.streams.receiver import Receiver

NAME = "hooks.example.com"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Key and self-signed certificate for NAME in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject).issuer_name(subject).public_key(key.public_key()).serial_number(5)
        .not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = tmp_path / "both.pem"
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(pem, *plain) + made.public_bytes(pem))
    return path


@pytest.fixture
def secure(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    receiver = Receiver()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    receiver._server.socket = context.wrap_socket(receiver._server.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    yield receiver
    receiver.close()


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Names resolve to these, one after the other. Returns the list of names asked for."""
    asked: list[str] = []

    def lookup(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    monkeypatch.setattr(delivery, "_lookup", lookup)
    return asked


async def post(url: str, *, allow: bool) -> bytes:
    courier = Courier(allow)
    try:
        return await courier.post(url, b"{}", b"t=1,kid=k,ed25519=s")
    finally:
        courier.close()


async def test_the_resolved_address_is_used_and_the_name_is_checked(
    secure: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = secure._server.server_port
    asked = resolving(monkeypatch, ["127.0.0.1"], ["8.8.8.8"])
    assert await post(f"https://{NAME}:{port}/hook", allow=True) == b'{"done": true}'
    assert asked == [NAME]
    resolving(monkeypatch, ["127.0.0.1"])
    with pytest.raises(Undelivered, match="certificate"):
        await post(f"https://other.example.com:{port}/hook", allow=True)
    assert len(secure.got) == 1


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["::1"], ["10.0.0.1"], ["169.254.169.254"], ["8.8.8.8", "10.0.0.1"], ["::ffff:127.0.0.1"],
     ["fe80::1%eth0"]],
)  # fmt: skip
async def test_names_of_inner_addresses_are_never_connected_to(
    secure: Receiver, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    resolving(monkeypatch, addresses)
    with pytest.raises(Undelivered, match="not public"):
        await post(f"https://{NAME}:{secure._server.server_port}/hook", allow=False)
    assert secure.got == []


async def test_without_the_switch_nothing_goes_to_this_machine(secure: Receiver) -> None:
    with pytest.raises(Refused):
        await post(secure.url, allow=False)
    assert secure.got == []


async def test_names_that_do_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, [])
    with pytest.raises(Undelivered, match="no address"):
        await post(f"https://{NAME}/", allow=False)

    def failing(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(delivery, "_lookup", failing)
    with pytest.raises(Undelivered, match="cannot be resolved"):
        await post(f"https://{NAME}/", allow=False)


async def _serve(content: bytes, *, then_wait: bool) -> asyncio.Server:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(content)
        if then_wait:
            await reader.read()
        writer.close()

    return await asyncio.start_server(connected, "127.0.0.1", 0)


@pytest.mark.parametrize(
    ("content", "then_wait", "problem"),
    [
        (b"", True, "no answer within"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", True, "no answer within"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", False, "closed|ended|cut"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b"x" * 100_000, False, "larger than"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffff\r\n" + b"x" * 100_000, True, "larger than"),
        (b"nonsense\r\n\r\n", False, "no valid"),
        (b"", False, "closed the connection"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n", False, "302"),
        (b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", False, "410"),
    ],
)
async def test_bad_receivers(monkeypatch: pytest.MonkeyPatch, content: bytes, then_wait: bool, problem: str) -> None:
    monkeypatch.setattr(delivery, "TOTAL_SECONDS", 1.5 if problem == "no answer within" else 60.0)
    server = await _serve(content, then_wait=then_wait)
    async with server:
        with pytest.raises(Undelivered, match=problem):
            await post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", allow=True)


async def test_nobody_listens() -> None:
    with socket.socket() as unused:  # bound, so that nobody else gets it, and never listening
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(Undelivered, match="cannot connect"):
            await post(f"http://127.0.0.1:{unused.getsockname()[1]}/", allow=True)
