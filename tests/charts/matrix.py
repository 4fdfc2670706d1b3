"""Values files that between them reach every branch of the templates."""

from __future__ import annotations

from typing import Any

PUBLIC = {"region": {"publicUrl": "https://sync.example.com"}}

MATRIX: dict[str, dict[str, Any]] = {
    "least": PUBLIC,
    "ingress": {
        "region": {"name": "eu-1", "publicUrl": "https://sync.example.com:8443"},
        "image": {"registry": "registry.example.com/platform/", "tag": "1.2.3", "pullSecrets": ["pull"]},
        "edge": {
            "replicas": 5,
            "image": {"digest": "sha256:" + "ab" * 32},
            "trustedProxies": ["10.0.0.0/8", "fd00::/8"],
            "ingress": {
                "enabled": True,
                "className": "nginx",
                "tlsSecretName": "edge-tls",
                "annotations": {"nginx.ingress.kubernetes.io/proxy-buffering": "off"},
            },
            "podDisruptionBudget": {"maxUnavailable": 2},
            "podAnnotations": {"a": "true"},
            "serviceAccountAnnotations": {"role": "x"},
            "service": {"annotations": {"b": "1"}},
        },
        "api": {
            "replicas": 2,
            "publicUrl": "https://api.example.com",
            "ingress": {"enabled": True, "className": "nginx", "tlsSecretName": "api-tls", "annotations": {"c": "d"}},
            "adminToken": {"existingSecret": "my-token"},
            "podAnnotations": {"a": "b"},
            "serviceAccountAnnotations": {"role": "x"},
            "service": {"annotations": {"b": "1"}},
        },
        "operator": {"podAnnotations": {"a": "b"}, "serviceAccountAnnotations": {"role": "x"}, "resyncSeconds": 10},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboards": {"enabled": True, "annotations": {"grafana_folder": "Switchgear"}},
        "networkPolicy": {"clientCidrs": ["10.0.0.0/8"], "databasePorts": [5432]},
        "priorityClassName": "system-cluster-critical",
        "commonLabels": {"team": "platform", "cost": "12"},
        "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "extra"}, "data": {"a": "b"}}],
    },
    "gateway": {
        **PUBLIC,
        "edge": {
            "gateway": {
                "enabled": True,
                "parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "https", "port": 443}],
                "annotations": {"a": "b"},
            },
            "nodeSelector": {"pool": "edge"},
            "tolerations": [{"key": "edge", "operator": "Exists"}],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]
                    }
                }
            },
        },
        "api": {
            "publicUrl": "https://api.example.com/",
            "gateway": {"enabled": True, "parentRefs": [{"name": "public"}], "annotations": {"a": "b"}},
            "nodeSelector": {"pool": "api"},
        },
        "networkPolicy": {"monitoringNamespaces": ["prometheus", "alloy"], "apiServerPorts": [16443]},
    },
    "bare": {
        **PUBLIC,
        "api": {"enabled": False},
        "networkPolicy": {"enabled": False, "monitoringNamespaces": []},
        "rbac": {"create": False},
        "edge": {"replicas": 1, "podDisruptionBudget": {"maxUnavailable": 0}},
        "listenAddress": "::",
    },
    "load balancer": {
        "region": {"publicUrl": "http://192.0.2.10/sync"},
        "edge": {"service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24"], "nodePort": 30080}},
        "api": {"service": {"type": "NodePort"}, "podDisruptionBudget": {"maxUnavailable": 0}},
        "image": {"pullPolicy": "Never"},
    },
}
