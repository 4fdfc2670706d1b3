"""Writes a start script for each command of the installed switchgear package. Standard library only.

Usage: python3 scripts.py FOLDER_WITH_THE_PACKAGE FOLDER_FOR_THE_SCRIPTS
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path


def write(package: Path, target: Path) -> None:
    """One executable file a server; the command line and the local region stay out of images."""
    target.mkdir(parents=True, exist_ok=True)
    (found,) = metadata.distributions(name="switchgear", path=[str(package)])
    for entry in found.entry_points:
        if entry.group != "console_scripts" or not entry.name.startswith("switchgear-"):
            continue
        module, _, function = entry.value.partition(":")
        script = target / entry.name
        script.write_text(
            f"#!/usr/bin/python3 -P\nimport sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n"
        )
        script.chmod(0o755)


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
