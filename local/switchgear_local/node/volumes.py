"""A pod's volumes: which files a Secret, ConfigMap or downward API volume has (pure), and writing them.

Real directories: `<pod>/volumes/<name>` for what belongs to the pod, `<volumes>/pvc-<uid>` for claims.
Invariants: a path out of a spec never leaves its directory; files are private to the node's user and written whole or
not at all; directories of claims are found by name only, never by a path in an object.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .environment import PodFacts, Reference, Sources, field_value
from .errors import ConfigError
from .objects import STORAGE_CLASS, volume_name

MOUNT_ERROR = "FailedMount"
_NAME = re.compile(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
_DELETING = ".deleting-"


@dataclass(frozen=True)
class File:
    """One projected file: path relative to the volume, contents, mode (owner's bits only)."""

    path: str
    data: bytes
    mode: int

    def __repr__(self) -> str:
        return f"File({self.path!r}, {len(self.data)} bytes)"


def references(pod_spec: Mapping[str, Any]) -> Iterator[Reference]:
    """Every Secret and ConfigMap that the pod's volumes name."""
    for volume in pod_spec.get("volumes") or ():
        for source in _projections(volume):
            if secret := source.get("secret"):
                name = secret.get("secretName") or secret.get("name")
                yield Reference("Secret", name, bool(secret.get("optional")))
            if config := source.get("configMap"):
                yield Reference("ConfigMap", config["name"], bool(config.get("optional")))


def claim_name(volume: Mapping[str, Any]) -> str | None:
    """The name of the claim that the volume is, or None."""
    claim = volume.get("persistentVolumeClaim")
    return str(claim["claimName"]) if claim else None


def _projections(volume: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if projected := volume.get("projected"):
        return list(projected.get("sources") or ())
    return [volume] if any(key in volume for key in ("secret", "configMap", "downwardAPI")) else []


def is_projection(volume: Mapping[str, Any]) -> bool:
    """Whether the volume consists of projected files."""
    return any(key in volume for key in ("secret", "configMap", "downwardAPI", "projected"))


def files(volume: Mapping[str, Any], sources: Sources, facts: PodFacts) -> list[File]:
    """The files of a projection. Raises ConfigError for what is missing or unsupported."""
    if not is_projection(volume):
        kinds = ", ".join(key for key in volume if key != "name") or "nothing"
        raise ConfigError(MOUNT_ERROR, f"volume {volume['name']!r}: {kinds} is not supported by the process node")
    result: dict[str, File] = {}
    outer = volume.get("projected", {}).get("defaultMode")
    for source in _projections(volume):
        for file in _source_files(volume["name"], source, sources, facts, outer):
            result[file.path] = file
    return list(result.values())


def _source_files(
    volume: str, source: Mapping[str, Any], sources: Sources, facts: PodFacts, outer: int | None
) -> Iterator[File]:
    for key, kind in (("secret", "Secret"), ("configMap", "ConfigMap")):
        if spec := source.get(key):
            yield from _object_files(volume, kind, spec, sources, outer)
    if downward := source.get("downwardAPI"):
        mode = downward.get("defaultMode") or outer
        for item in downward.get("items") or ():
            ref = item.get("fieldRef")
            if ref is None:
                raise ConfigError(MOUNT_ERROR, f"volume {volume!r}: only fieldRef is supported in downwardAPI")
            value = _downward(ref["fieldPath"], facts)
            yield File(_relative(volume, item["path"]), value.encode(), _mode(item.get("mode") or mode))
    # serviceAccountToken and clusterTrustBundle: left out, see the package's docstring.


def _downward(path: str, facts: PodFacts) -> str:
    for name, table in (("labels", facts.labels), ("annotations", facts.annotations)):
        if path == f"metadata.{name}":
            return "\n".join(f'{key}="{value}"' for key, value in sorted(table.items()))
    return field_value(path, facts)


def _object_files(
    volume: str, kind: str, spec: Mapping[str, Any], sources: Sources, outer: int | None
) -> Iterator[File]:
    name = spec.get("secretName") or spec.get("name")
    data = sources.of(kind).get(str(name))
    if data is None:
        if spec.get("optional"):
            return
        raise ConfigError(
            MOUNT_ERROR, f"volume {volume!r}: {kind} {name!r} not found; create it in the pod's namespace"
        )
    mode = spec.get("defaultMode") or outer
    items = spec.get("items")
    if not items:
        for key, value in data.items():
            yield File(_relative(volume, key), value, _mode(mode))
        return
    for item in items:
        if item["key"] in data:
            yield File(_relative(volume, item["path"]), data[item["key"]], _mode(item.get("mode") or mode))
        elif not spec.get("optional"):
            raise ConfigError(MOUNT_ERROR, f"volume {volume!r}: {kind} {name!r} has no key {item['key']!r}")


def _mode(mode: int | None) -> int:
    return ((0o400 if mode is None else mode) & 0o700) | 0o400


def _relative(volume: str, path: str) -> str:
    clean = posixpath.normpath(path)
    if clean.startswith(("/", "..")) or clean == "." or "\0" in clean:
        raise ConfigError(MOUNT_ERROR, f"volume {volume!r}: path {path!r} must stay inside the volume")
    return clean


def mount_table(
    container: Mapping[str, Any], directories: Mapping[str, str], projected: Collection[str]
) -> dict[str, str]:
    """Mount path → real path for a container. `projected` names the volumes of files, whose subPath may be a file.

    Raises ConfigError for what cannot be mounted.
    """
    result: dict[str, str] = {}
    for mount in container.get("volumeMounts") or ():
        name = mount["name"]
        if name not in directories:
            raise ConfigError(MOUNT_ERROR, f"volumeMount {name!r}: the pod has no such volume")
        if mount.get("subPathExpr"):
            raise ConfigError(MOUNT_ERROR, f"volumeMount {name!r}: subPathExpr is not supported by the process node")
        real = directories[name]
        if sub := mount.get("subPath"):
            real = posixpath.join(real, _relative(name, sub))
            if name not in projected:
                _make_inside(Path(directories[name]), Path(real))
        result[mount["mountPath"]] = real
    return result


def _make_inside(base: Path, target: Path) -> None:
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not target.resolve().is_relative_to(base.resolve()):
        raise ConfigError(MOUNT_ERROR, f"subPath {target.name!r} leads out of its volume")


def write(directory: Path, wanted: list[File]) -> None:
    """Make the directory hold exactly these files. Each is replaced whole; one that is the same is left alone."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    keep = set()
    for file in wanted:
        target = directory / file.path
        keep.add(target)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            if target.read_bytes() == file.data and target.stat().st_mode & 0o777 == file.mode:
                continue
        temporary = target.with_name(f".{target.name}.new")
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as stream:
            stream.write(file.data)
            os.fchmod(stream.fileno(), file.mode)
        temporary.replace(target)
    for found in directory.rglob("*"):
        if found not in keep and not found.is_dir():
            found.unlink(missing_ok=True)


def volume_directory(base: Path, name: str) -> Path:
    """The directory of a PersistentVolume by its name. Raises ValueError for a name that could lead elsewhere."""
    if not _NAME.match(name):
        raise ValueError(f"{name!r} is no volume name")
    return base / name


def remove(directory: Path) -> None:
    """Remove a directory and all that is in it. Under another name first, so that a half-removed one is never used."""
    doomed = directory.with_name(_DELETING + directory.name)
    if doomed.exists():
        shutil.rmtree(doomed)
    with contextlib.suppress(FileNotFoundError):
        directory.rename(doomed)
        shutil.rmtree(doomed)


def finish_removals(base: Path) -> None:
    """Go on with removals that an earlier life of the node began."""
    for doomed in base.glob(f"{_DELETING}*"):
        shutil.rmtree(doomed, ignore_errors=True)


def claim_directory(base: Path, name: str, claim: Mapping[str, Any] | None) -> Path:
    """The directory of a claim's volume. Raises ConfigError while it has none that this node made."""
    if claim is None:
        raise ConfigError(MOUNT_ERROR, f"claim {name!r} not found; create it in the pod's namespace")
    if claim.get("status", {}).get("phase") != "Bound":
        raise ConfigError(MOUNT_ERROR, f"claim {name!r} is not bound yet")
    volume = claim["spec"].get("volumeName", "")
    if volume != volume_name(claim["metadata"]["uid"]):
        raise ConfigError(
            MOUNT_ERROR,
            f"claim {name!r} is bound to volume {volume!r}, which is not on this node; use class {STORAGE_CLASS}",
        )
    return volume_directory(base, volume)
