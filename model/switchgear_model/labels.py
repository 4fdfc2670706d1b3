"""Names that several processes must agree on: labels, annotations, finalizers, ports, well-known objects.

Constants only. A name changed here is a change of the wire between processes: old objects in a
cluster still carry the old one.
"""

from __future__ import annotations

from typing import Final

GROUP: Final = "switchgear.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
CATEGORY: Final = "switchgear"

SYSTEM_NAMESPACE: Final = "switchgear-system"
DEFAULT_REGION: Final = "local"

# Labels on every child and on the pod template.
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY_VALUE: Final = "switchgear"
APP_NAME: Final = "app.kubernetes.io/name"
APP_SHAPES: Final = "switchgear-shapes"
APP_STREAMS: Final = "switchgear-streams"
APP_EDGE: Final = "switchgear-edge"
APP_OPERATOR: Final = "switchgear-operator"
APP_API: Final = "switchgear-api"
SERVICE_ID: Final = f"{GROUP}/service-id"
KIND: Final = f"{GROUP}/kind"
NAME: Final = f"{GROUP}/name"
OWNER_UID: Final = f"{GROUP}/owner-uid"

# Annotations.
ABANDON: Final = f"{GROUP}/abandon"
SECRETS_CHECKSUM: Final = f"{GROUP}/secrets-checksum"
SPEC_HASH: Final = f"{GROUP}/spec-hash"

# Finalizers.
FINALIZER: Final = f"{GROUP}/finalizer"
SLOT_FINALIZER: Final = f"{GROUP}/slot"

# The process node's taint, tolerated by our pods everywhere.
PROCESS_NODE_TAINT: Final = f"{GROUP}/process-node"

# Pods.
PORT_NAME: Final = "http"
SHAPES_PORT: Final = 3000
STREAMS_PORT: Final = 4437
SHAPES_CONTAINER: Final = "shapes"
STREAMS_CONTAINER: Final = "streams"
DATA_MOUNT: Final = "/var/lib/switchgear"
POD_UID: Final = 10001
EDGE_INTERNAL_PORT_NAME: Final = "internal"

# Secrets: data keys and the region key's name.
SERVICE_SECRET_KEY: Final = "secret"  # noqa: S105
POD_KEY_KEY: Final = "key"
DATABASE_URL_KEY: Final = "url"
DATABASE_POOLED_URL_KEY: Final = "pooledUrl"
REGION_KEY_SECRET: Final = "switchgear-region-key"  # noqa: S105
REGION_KEY_KEY: Final = "key"
ADMIN_TOKEN_SECRET: Final = "switchgear-admin-token"  # noqa: S105
ADMIN_TOKEN_KEY: Final = "token"  # noqa: S105

# ServiceAccounts and roles.
OPERATOR_ACCOUNT: Final = "switchgear-operator"
EDGE_ACCOUNT: Final = "switchgear-edge"
API_ACCOUNT: Final = "switchgear-api"
OPERATOR_SECRETS_ROLE: Final = "switchgear-operator-secrets"
API_SECRETS_ROLE: Final = "switchgear-api-secrets"
