"""`python -m images`: the images of this checkout, by a container engine where there is one, else assembled.

`python -m images files` writes what is generated: the Containerfiles and the images' locks.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from images import assemble, locks
from images.roles import ROLES, containerfile


def files() -> dict[Path, str]:
    """Path → content of every generated file."""
    version = metadata.version("switchgear")
    made = {assemble.ROOT / "images" / role.name / "Containerfile": containerfile(role, version) for role in ROLES}
    return made | {assemble.ROOT / role.lock: locks.lock(role.extra) for role in ROLES}


def engine() -> str | None:
    """A container engine that answers, if there is one."""
    for name in ("docker", "podman", "nerdctl"):
        if shutil.which(name):
            answer = subprocess.run([name, "info"], capture_output=True, check=False, timeout=30)
            if answer.returncode == 0:
                return name
    return None


def build(program: str) -> int:
    """Build every Containerfile with the engine."""
    version = metadata.version("switchgear")
    dist = assemble.ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    assemble.wheel(dist)
    for role in ROLES:
        file = f"images/{role.name}/Containerfile"
        command = [program, "build", "--file", file, "--tag", f"switchgear/{role.name}:{version}", "."]
        if subprocess.run(command, cwd=assemble.ROOT, check=False).returncode:
            return 1
    return 0


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    if arguments == ["files"]:
        for path, content in files().items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(content, encoding="utf-8")
        return 0
    found = engine()
    if found is not None and arguments != ["assemble"]:
        return build(found)
    from switchgear_local import paths

    out = assemble.ROOT / "dist" / "images"
    try:
        made = assemble.assemble(
            out, paths.cache_dir() / "images", progress=lambda line: print(f"… {line}", flush=True)
        )
    except assemble.AssembleError as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    for image in made:
        size = f"{image.packed / 1e6:.1f} MB packed, {image.unpacked / 1e6:.1f} MB unpacked"
        print(f"{image.name}: {image.archive.relative_to(assemble.ROOT)}, {size}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
