"""`python -m switchgear_infra.render HELM CHARTS`: writes release.json with the program HELM from the folder CHARTS.

Run after a change to the charts; a test fails when it was forgotten.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from switchgear_infra.release import NAMESPACE, TOKENS

TARGET = Path(__file__).parent / "release.json"


def template(helm: Path, chart: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    """What Helm would install. Raises RuntimeError with Helm's own words."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values, file)
        file.flush()
        command = [str(helm), "template", "switchgear", str(chart), "--namespace", NAMESPACE, "--values", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def render(helm: Path, charts: Path) -> str:
    """The text of release.json."""
    chart = yaml.safe_load((charts / "switchgear" / "Chart.yaml").read_text())
    made = {
        "version": chart["appVersion"],
        "crds": template(helm, charts / "switchgear-crds", {}),
        "objects": template(helm, charts / "switchgear", TOKENS),
    }
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render(Path(sys.argv[1]), Path(sys.argv[2])))
