"""The certificates, keys and kubeconfig files of a local control plane.

Everything lives in one folder (mode 0700) and is made once; a leaf is made again when it is near its end, does not
match its key or authority, or lacks a name. Four authorities, so that no credential opens another's door: `ca` (who
may call the API server), `etcd-ca` and `kubelet-ca` (only the API server may call etcd and the node), `front-proxy-ca`.

Must not: talk to the network, or write a key that others can read.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .processes import write_private

_VALID = datetime.timedelta(days=3650)
_RENEW_BEFORE = datetime.timedelta(days=30)
_BACKDATED = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, as files and as objects."""

    cert_file: Path
    key_file: Path
    cert: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class Pki:
    """The folder of certificates. Each method returns what is there already, or makes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)

    def authority(self, name: str) -> Pair:
        """A self-signed certificate authority called `name`."""
        have = self._load(name)
        if have is not None and _usable(have, issuer=None):
            return have
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"switchgear-{name}")])
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            _builder(subject, subject, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
        )
        return self._save(name, builder.sign(key, hashes.SHA256()), key)

    def client(self, authority: Pair, name: str, user: str, groups: Sequence[str] = ()) -> Pair:
        """A client certificate for a Kubernetes user in groups, signed by `authority`."""
        subject = _subject(user, groups)
        return self._leaf(authority, name, subject, [ExtendedKeyUsageOID.CLIENT_AUTH], None)

    def server(
        self,
        authority: Pair,
        name: str,
        *,
        dns: Sequence[str] = (),
        addresses: Sequence[str] = (),
        also_client: bool = False,
        common_name: str | None = None,
        groups: Sequence[str] = (),
    ) -> Pair:
        """A serving certificate for host names and IP addresses, signed by `authority`."""
        names = [x509.DNSName(host) for host in dns]
        ips = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH]
        if also_client:
            usages.append(ExtendedKeyUsageOID.CLIENT_AUTH)
        subject = _subject(common_name or name, groups)
        return self._leaf(authority, name, subject, usages, x509.SubjectAlternativeName([*names, *ips]))

    def signing_key(self, name: str) -> tuple[Path, Path]:
        """A key pair for signing tokens: the files of the private and of the public key."""
        private, public = self.folder / f"{name}.key", self.folder / f"{name}.pub"
        try:
            key = _load_key(private)
        except (OSError, ValueError, TypeError):
            key = ec.generate_private_key(ec.SECP256R1())
            write_private(private, _key_pem(key))
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        write_private(public, key.public_key().public_bytes(serialization.Encoding.PEM, spki))
        return private, public

    def _leaf(
        self,
        authority: Pair,
        name: str,
        subject: x509.Name,
        usages: list[x509.ObjectIdentifier],
        names: x509.SubjectAlternativeName | None,
    ) -> Pair:
        have = self._load(name)
        if (
            have is not None
            and _usable(have, issuer=authority)
            and have.cert.subject == subject
            and _names_of(have.cert) == names
        ):
            return have
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(subject, authority.cert.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        return self._save(name, builder.sign(authority.key, hashes.SHA256()), key)

    def _load(self, name: str) -> Pair | None:
        cert_file, key_file = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        try:
            cert = x509.load_pem_x509_certificate(cert_file.read_bytes())
            return Pair(cert_file, key_file, cert, _load_key(key_file))
        except (OSError, ValueError, TypeError):
            return None

    def _save(self, name: str, cert: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
        pair = Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key", cert, key)
        # A crash between the two leaves a pair that does not match, which the next start notices and replaces.
        write_private(pair.key_file, _key_pem(key))
        write_private(pair.cert_file, cert.public_bytes(serialization.Encoding.PEM))
        return pair


def kubeconfig_with_certificate(path: Path, server: str, ca: Path, user: str, pair: Pair) -> None:
    """Write a kubeconfig (mode 0600) that authenticates with a client certificate."""
    credentials = {
        "client-certificate-data": _base64(pair.cert_file.read_bytes()),
        "client-key-data": _base64(pair.key_file.read_bytes()),
    }
    _write_kubeconfig(path, server, ca, user, credentials)


def kubeconfig_with_token(path: Path, server: str, ca: Path, user: str, token: str, namespace: str) -> None:
    """Write a kubeconfig (mode 0600) that authenticates with a bearer token."""
    _write_kubeconfig(path, server, ca, user, {"token": token}, namespace)


def _write_kubeconfig(
    path: Path, server: str, ca: Path, user: str, credentials: dict[str, str], namespace: str | None = None
) -> None:
    context = {"cluster": "switchgear", "user": user}
    if namespace is not None:
        context["namespace"] = namespace
    cluster = {"server": server, "certificate-authority-data": _base64(ca.read_bytes())}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "switchgear", "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": "switchgear", "context": context}],
        "current-context": "switchgear",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, yaml.safe_dump(config, sort_keys=False))


def _subject(user: str, groups: Sequence[str]) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _VALID)
    )


def _usable(pair: Pair, issuer: Pair | None) -> bool:
    now = datetime.datetime.now(datetime.UTC)
    if now + _RENEW_BEFORE > pair.cert.not_valid_after_utc or pair.cert.public_key() != pair.key.public_key():
        return False
    try:
        pair.cert.verify_directly_issued_by(issuer.cert if issuer is not None else pair.cert)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _names_of(cert: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{path} holds no elliptic-curve key")
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    pkcs8 = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
