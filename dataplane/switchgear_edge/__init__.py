"""The gateway in front of the data planes: authenticate, find the service's pod, pass bytes on.

A request travels `paths` (which service) → `credentials` (may it) → `routes` (where to) → `headers` (what goes on) →
`relay` (the exchange with the pod). `watch` and `kube` keep the routes; `service` joins all, `internal` is the listener
for the operator, probes and metrics.
"""
