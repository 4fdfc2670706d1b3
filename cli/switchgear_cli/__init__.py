"""Part of Switchgear."""
