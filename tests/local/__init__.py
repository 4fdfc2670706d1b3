"""Tests of the local region."""
