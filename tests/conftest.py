"""Fixtures shared by every test folder: real Postgres servers and a real Kubernetes control plane."""

pytest_plugins: list[str] = []
