"""Puts the images together on a Debian machine without a container engine: what the Containerfiles do, step by step.

Layers of system and libraries are kept in a cache by what they are made from; our own is made each time. Needs apt-get
(Debian 12's), dpkg-deb and pip; not root.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Final

from images import oci, sbom, scripts
from images.roles import ENVIRONMENT, LIBRARIES, OWN, ROLES, SCRIPTS, UID, Role, labels

ROOT: Final = Path(__file__).resolve().parent.parent
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
#: What stands where a registry's name would: nodes look for these images nowhere else.
REGISTRY: Final = "localhost"
#: Raise it with every change of how a cached layer is made.
_RECIPE: Final = 1
_TIMEOUT: Final = 900.0


class AssembleError(Exception):
    """The images cannot be made on this machine; the text says why and what to do."""


@dataclass(frozen=True)
class Image:
    """A finished image."""

    role: Role
    name: str
    archive: Path
    sbom: Path
    packed: int
    unpacked: int


def assemble(
    out: Path, cache: Path, roles: Sequence[Role] = ROLES, progress: Callable[[str], None] = lambda line: None
) -> list[Image]:
    """Write `<role>.tar` and `<role>.cdx.json` for each role into `out`. Raises AssembleError."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES or not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise AssembleError("without a container engine, images are assembled on Debian 12 (x86-64 or arm64) only")
    out.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    version = metadata.version("switchgear")
    with tempfile.TemporaryDirectory(prefix="switchgear-images-") as temporary:
        work = Path(temporary)
        progress("system layer")
        system = _cached(cache, "system", _inputs("images/system.sh", "images/packages.txt"), _system)
        python = _Python(_unpacked(system, work / "system"))
        progress("our own layer")
        own_tree = work / "own"
        _own(own_tree, python)
        own = oci.layer(own_tree, work / "own.tar.gz")
        made = []
        for role in roles:
            progress(f"image {role.name}")
            fill = partial(_libraries, role=role, python=python)
            libraries = _cached(cache, f"libraries-{role.extra}", _inputs(role.lock), fill)
            made.append(_image(role, version, out, work, (system, libraries, own)))
    return made


def _image(role: Role, version: str, out: Path, work: Path, layers: tuple[oci.Layer, ...]) -> Image:
    tree = work / f"root-{role.name}"
    for one in layers:
        _unpacked(one, tree, "var/lib/dpkg/status.d/*", "*.dist-info/METADATA")
    bill = json.dumps(sbom.make(tree, role.program, version), indent=1) + "\n"
    extra = work / f"sbom-{role.name}"
    place = extra / "usr/share/sbom" / f"{role.program}.cdx.json"
    place.parent.mkdir(parents=True)
    place.write_text(bill)
    everything = (*layers, oci.layer(extra, work / f"sbom-{role.name}.tar.gz"))
    shutil.rmtree(tree)
    target, bill_file = out / f"{role.name}.tar", out / f"{role.name}.cdx.json"
    bill_file.write_text(bill)
    name = f"switchgear/{role.name}:{version}"
    config = {
        "User": f"{UID}:{UID}",
        "Env": [f"{key}={value}" for key, value in ENVIRONMENT.items()],
        "Entrypoint": [role.program],
        "Labels": labels(role, version),
        "ExposedPorts": {f"{port}/tcp": {} for port in role.ports},
    }
    reference = f"{REGISTRY}/{name}"
    oci.write(target, reference, everything, architecture=_ARCHITECTURES[platform.machine()], config=config)
    packed, unpacked = sum(one.size for one in everything), sum(one.unpacked for one in everything)
    return Image(role, reference, target, bill_file, packed, unpacked)


def _inputs(*names: str) -> str:
    digest = hashlib.sha256(f"{_RECIPE} {platform.machine()}".encode())
    for name in names:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()[:16]


def _cached(cache: Path, name: str, key: str, make: Callable[[Path], None]) -> oci.Layer:
    file, about = cache / f"{name}-{key}.tar.gz", cache / f"{name}-{key}.json"
    if about.exists() and file.exists():
        known = json.loads(about.read_text())
        return oci.Layer(file, **known)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=cache) as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        make(tree)
        layer = oci.layer(tree, file)
    rest = {k: v for k, v in dataclasses.asdict(layer).items() if k != "file"}
    about.write_text(json.dumps(rest))
    return layer


def _unpacked(layer: oci.Layer, target: Path, *patterns: str) -> Path:
    """The layer's files in `target`; with patterns only those that match one."""
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(layer.file) as archive:
        for member in archive:
            if not patterns or any(fnmatch(member.name, pattern) for pattern in patterns):
                archive.extract(member, target, filter="tar")
    return target


class _Python:
    """The image's own Python, run from its folder: what it compiles is what it will read."""

    def __init__(self, root: Path) -> None:
        triple = f"{platform.machine()}-linux-gnu"
        loader = next(iter([*root.glob("lib64/ld-linux*.so*"), *root.glob("lib/ld-linux*.so*")]))
        if loader.is_symlink() and str(loader.readlink()).startswith("/"):
            loader = root / str(loader.readlink()).lstrip("/")
        folders = f"{root}/lib/{triple}:{root}/usr/lib/{triple}"
        self._command = [str(loader), "--library-path", folders, f"{root}/usr/bin/python3.11"]
        self._environ = {"PYTHONHOME": f"{root}/usr", "PATH": os.defpath, "LANG": "C.UTF-8"}

    def compile(self, tree: Path) -> None:
        """Byte code beside every module, valid whatever the files' times are."""
        mode = ("--invalidation-mode", "unchecked-hash")
        _run(*self._command, "-m", "compileall", "-q", *mode, "-s", str(tree), "-p", "/", str(tree), env=self._environ)


def _system(tree: Path) -> None:
    _run("sh", str(ROOT / "images" / "system.sh"), str(tree))
    _Python(tree).compile(tree)


def _libraries(tree: Path, role: Role, python: _Python) -> None:
    target = tree / LIBRARIES.lstrip("/")
    machine = platform.machine()
    wanted = ["--implementation", "cp", "--python-version", "3.11", "--abi", "cp311", "--abi", "abi3", "--abi", "none"]
    for glibc in ("2_36", "2_35", "2_34", "2_31", "2_28", "2_27", "2_24", "2_17", "2_12", "2_5"):
        wanted += ["--platform", f"manylinux_{glibc}_{machine}"]
    wanted += ["--platform", f"manylinux2014_{machine}"]
    _pip("--no-deps", "--require-hashes", "--only-binary", ":all:", *wanted, "-r", str(ROOT / role.lock), target=target)
    shutil.rmtree(target / "bin", ignore_errors=True)
    python.compile(tree)


def _own(tree: Path, python: _Python) -> None:
    target = tree / OWN.lstrip("/")
    with tempfile.TemporaryDirectory(prefix="switchgear-wheel-") as folder:
        wheel(Path(folder))
        _pip("--no-deps", "--no-index", *(str(file) for file in Path(folder).glob("*.whl")), target=target)
    shutil.rmtree(target / "bin", ignore_errors=True)
    scripts.write(target, tree / SCRIPTS.lstrip("/"))
    python.compile(tree)


def wheel(target: Path) -> None:
    """Build our wheel into a folder."""
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check")
    _run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(target), str(ROOT))


def _pip(*arguments: str, target: Path) -> None:
    options = ("--quiet", "--disable-pip-version-check", "--no-compile", "--target", str(target))
    _run(sys.executable, "-m", "pip", "install", *options, *arguments)


def _run(*command: str, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT, env=env)
    if done.returncode:
        raise AssembleError(f"{' '.join(command[:4])} … failed: {(done.stderr or done.stdout).strip()[-1500:]}")
