"""The streams server: a durable, very fast Durable Streams server (one process per StreamsService).

The way of the data: `request` → `rules/` → `store` → `wal` → `live`; reads come from `segments` and memory.
"""
