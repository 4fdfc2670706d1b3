"""Builders of Kubernetes objects, one module an object. Pure: values in, JSON out."""
