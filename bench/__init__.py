"""Benchmarks: `make bench` (or `python -m bench`) measures on this machine and rewrites bench/RESULTS.md."""
