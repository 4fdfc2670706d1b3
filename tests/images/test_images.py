"""The images: generated files are current, and each assembled image runs its process from nothing but its own files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

import images.__main__ as images_main
from images import assemble
from images.roles import ENVIRONMENT, ROLES, Role
from tests.support import nodejs

MODULES = {
    "operator": "switchgear_operator.app, psycopg",
    "api": "switchgear_api.app, uvicorn",
    "edge": "switchgear_edge.service, yaml",
    "shapes": "switchgear_shapes.service, psycopg, postgast",
    "streams": "switchgear_streams.service, cryptography",
}


def test_the_files_are_generated() -> None:
    found = {path: path.read_text("utf-8") for path in images_main.files() if path.exists()}
    assert found == images_main.files(), "run `make images-files` and commit the result"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, assemble.Image]]:
    if not shutil.which("apt-get") or "bookworm" not in Path("/etc/os-release").read_text():
        pytest.skip("images are assembled on Debian 12 only")
    folder = tmp_path_factory.mktemp("images")
    with nodejs.locked(nodejs.cache_dir() / "images.lock"):
        done = assemble.assemble(folder, nodejs.cache_dir() / "images")
    yield {image.role.name: image for image in done}
    shutil.rmtree(folder)


def unpack(image: assemble.Image, target: Path) -> dict[str, object]:
    """The image's root file system, and its configuration."""
    with tarfile.open(image.archive) as archive:

        def blob(digest: str) -> bytes:
            file = archive.extractfile(f"blobs/sha256/{digest.removeprefix('sha256:')}")
            assert file is not None
            return file.read()

        index = archive.extractfile("index.json")
        assert index is not None
        manifest = json.loads(blob(json.load(index)["manifests"][0]["digest"]))
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=BytesIO(blob(layer["digest"]))) as packed:
                packed.extractall(target, filter="tar")
        config: dict[str, object] = json.loads(blob(manifest["config"]["digest"]))["config"]
    return config


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_an_image_runs(role: Role, made: dict[str, assemble.Image], tmp_path: Path) -> None:
    image = made[role.name]
    config = unpack(image, tmp_path / "root")
    assert config["User"] == "10001:10001"
    root = tmp_path / "root"
    names = {path.name for path in root.rglob("*") if not path.is_dir()}
    assert not {"sh", "bash", "gcc", "apt-get", "dpkg", "pip", "perl"} & names
    assert not [path for path in root.rglob("*") if path.is_file() and path.stat().st_mode & 0o6000]
    bill = json.loads(image.sbom.read_text())
    listed = {component["name"] for component in bill["components"]}
    assert {"switchgear", "orjson", "libc6", "libssl3", "python3.11-minimal"} <= listed
    assert (root / f"usr/share/sbom/{image.role.program}.cdx.json").read_text() == image.sbom.read_text()
    assert image.packed < 45_000_000
    if os.geteuid() != 0:
        pytest.skip("only root can enter a root file system")
    code = (
        f"import {MODULES[image.role.name]}, ssl; assert ssl.create_default_context().cert_store_stats()['x509'] > 100"
    )
    for command in (["/usr/bin/python3", "-c", code], [image.role.program, "--help"]):
        done = subprocess.run(
            ["/usr/sbin/chroot", "--userspec=10001:10001", str(root), *command],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
