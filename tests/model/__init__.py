"""Tests of switchgear_model."""
