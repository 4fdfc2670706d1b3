"""Tests of switchgear_operator."""
