"""The operator's own, thin way to the Kubernetes API: JSON in, JSON out, no models."""
