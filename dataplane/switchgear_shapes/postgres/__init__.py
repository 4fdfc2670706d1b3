"""Connections to Postgres over libpq, without a framework in between: queries, COPY, replication."""
