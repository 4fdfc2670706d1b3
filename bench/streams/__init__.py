"""Figures of the streams server beside its peers: `python -m bench.streams`."""
