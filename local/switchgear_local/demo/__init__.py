"""The demo: rows and records written now and then, and a page on which a browser sees them arrive.

Run as ``python -m switchgear_local.demo --port PORT --region-state FILE``, a process beside the region. FILE is JSON,
readable by its owner only, and holds what must not be on a command line::

    {"edge_url": "http://127.0.0.1:4400",
     "database_url": "postgresql://…",
     "sync":    {"service_id": "svc-…", "url": "http://127.0.0.1:4400/v1/shape", "secret": "…"},
     "streams": {"service_id": "svc-…", "url": "http://127.0.0.1:4400/v1/stream/svc-…", "secret": "…"}}

Further flags: ``--interval SECONDS`` between writes (2.5). ``GET /ready`` answers 200 once the table and the stream are
there, so that a request for either of them works from then on.

The browser never gets a service's secret: it asks the small proxy here, which adds id and secret and forwards nothing
but the protocol's own parameters, the way an application's server would.
"""

from typing import Final

#: The table that the demo writes to. The name is one that no application's own table has: the database may be yours.
TABLE: Final = "switchgear_demo"
#: The path of the stream below the streams service.
STREAM: Final = "demo/events"
