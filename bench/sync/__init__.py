"""Figures of the sync server: `python -m bench.sync` measures here and rewrites bench/SYNC.md."""
