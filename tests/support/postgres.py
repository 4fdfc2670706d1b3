"""Fixtures with real Postgres servers."""
