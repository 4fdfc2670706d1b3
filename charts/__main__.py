"""Writes the generated files of both charts: `make charts`."""

from __future__ import annotations

import sys

from charts import generate


def main() -> int:
    """Writes what differs, and says so."""
    for path, content in generate.files().items():
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            print(f"wrote {path.relative_to(generate.FOLDER.parent)}")
    for path in generate.stale():
        path.unlink()
        print(f"removed {path.relative_to(generate.FOLDER.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
