"""The protocol's decisions, pure: no clock, no disk, no socket; everything they need comes in as an argument."""
