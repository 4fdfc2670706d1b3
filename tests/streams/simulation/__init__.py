"""The server on a simulated disk, under a seeded scheduler with a clock of its own: one seed, one course of events."""
