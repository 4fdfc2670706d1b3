"""The Helm charts, and the generator of what in them follows from something else: `python -m charts`."""
