"""Layers and OCI image archives, written without an engine. The same tree gives the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_EPOCH: Final = "1970-01-01T00:00:00Z"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_INDEX: Final = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Layer:
    """A compressed layer: the file, its digest, and the digest of what is in it."""

    file: Path
    digest: str
    diff_id: str
    size: int
    unpacked: int


def layer(tree: Path, target: Path) -> Layer:
    """Pack a folder as a layer, everything owned by root."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(tree.rglob("*")):
            archive_member(archive, path, str(path.relative_to(tree)))
    content = raw.getvalue()
    packed = gzip.compress(content, compresslevel=6, mtime=0)
    temporary = target.with_name(target.name + ".new")
    temporary.write_bytes(packed)
    temporary.rename(target)
    return Layer(target, _digest(packed), _digest(content), len(packed), len(content))


def archive_member(archive: tarfile.TarFile, path: Path, name: str) -> None:
    """Add one file, link or folder, with root as its owner and no time of its own."""
    info = archive.gettarinfo(str(path), arcname=name)
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = 0
    if info.islnk():
        info.type = tarfile.REGTYPE
        info.linkname = ""
        info.size = path.stat().st_size
    if info.isfile():
        with path.open("rb") as content:
            archive.addfile(info, content)
    else:
        archive.addfile(info)


def write(
    target: Path,
    name: str,
    layers: Sequence[Layer],
    *,
    architecture: str,
    config: Mapping[str, Any],
) -> None:
    """Write an OCI archive that holds one image, named `name` (repository:tag)."""
    body = {
        "created": _EPOCH,
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in layers]},
        "history": [{"created": _EPOCH, "created_by": "switchgear images"} for _ in layers],
    }
    config_blob = _json(body)
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(_CONFIG, config_blob),
            "layers": [{"mediaType": _LAYER, "digest": one.digest, "size": one.size} for one in layers],
            "annotations": dict(config.get("Labels", {})),
        }
    )
    annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    index = _json(
        {
            "schemaVersion": 2,
            "mediaType": _INDEX,
            "manifests": [{**_descriptor(_MANIFEST, manifest), "annotations": annotations}],
        }
    )
    temporary = target.with_name(target.name + ".new")
    with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(archive, "index.json", index)
        for blob in (manifest, config_blob):
            _add(archive, _blob(_digest(blob)), blob)
        for one in {each.digest: each for each in layers}.values():
            _add(archive, _blob(one.digest), one.file.read_bytes())
    temporary.rename(target)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
