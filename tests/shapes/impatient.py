"""The server, which gives a silent Postgres up after seconds instead of minutes."""

from __future__ import annotations

import sys

from switchgear_shapes.__main__ import main
from switchgear_shapes.postgres import pool
from switchgear_shapes.replication import client

if __name__ == "__main__":
    pool.PATIENCE_SECONDS = 3.0
    client.SILENT_TIMEOUTS = 3.0 / 60.0
    sys.exit(main())
