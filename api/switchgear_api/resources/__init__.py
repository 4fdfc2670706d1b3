"""The resources over HTTP: bodies in, manifests out to Kubernetes, views back."""
