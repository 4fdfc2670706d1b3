"""Shapes whose filter asks what other tables hold: `x IN (SELECT …)`. See `moves` for how they stay exact."""
