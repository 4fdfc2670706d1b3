"""Tests of the sync server: real processes against real Postgres servers."""
