"""A software bill of materials (CycloneDX 1.5 JSON) of a root file system, from what is installed in it.

Debian packages from var/lib/dpkg/status.d, Python packages from their dist-info. Standard library only, no clock and no
randomness: the same content gives the same text. Usage: python3 sbom.py ROOT NAME VERSION
"""

from __future__ import annotations

import email
import hashlib
import json
import sys
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

_PYTHON = ("opt/switchgear/lib", "opt/switchgear/app")


def make(root: Path, name: str, version: str) -> dict[str, Any]:
    """The bill of the image `name`."""
    components = [*_debian(root), *_python(root)]
    body = json.dumps(components, sort_keys=True).encode()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=hashlib.sha256(body).digest()[:16], version=4)}",
        "version": 1,
        "metadata": {"component": {"bom-ref": name, "type": "container", "name": name, "version": version}},
        "components": components,
        "dependencies": [{"ref": name, "dependsOn": [component["bom-ref"] for component in components]}],
    }


def _debian(root: Path) -> list[dict[str, Any]]:
    found = []
    for file in sorted((root / "var/lib/dpkg/status.d").iterdir()):
        control = email.message_from_string(file.read_text(encoding="utf-8"))
        package, version, architecture = control["Package"], control["Version"], control["Architecture"]
        purl = f"pkg:deb/debian/{package}@{quote(version, safe='.-~')}?arch={architecture}&distro=debian-12"
        found.append({"type": "library", "bom-ref": purl, "name": package, "version": version, "purl": purl})
    return found


def _python(root: Path) -> list[dict[str, Any]]:
    found = {}
    for distribution in metadata.distributions(path=[str(root / folder) for folder in _PYTHON]):
        about = distribution.metadata
        name, version = about["Name"], about["Version"]
        purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": version,
            "purl": purl,
        }
        licence = about["License-Expression"] or about["License"]
        if licence and len(licence) < 80 and "\n" not in licence:
            component["licenses"] = [{"license": {"name": licence}}]
        found[purl] = component
    return [found[purl] for purl in sorted(found)]


if __name__ == "__main__":
    print(json.dumps(make(Path(sys.argv[1]), sys.argv[2], sys.argv[3]), indent=1))
