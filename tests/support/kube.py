"""Fixtures with a real Kubernetes control plane."""
