#!/usr/bin/env bash
# Switchgear on a cluster of this machine: kind, k3d or k3s. Not run in our CI, which has no container engine.
# Usage: examples/local-cluster.sh kind|k3d|k3s [delete]        See docs/kind.md.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=${1:-}
action=${2:-create}
name=switchgear
engine=$(command -v docker || command -v podman || true)

say() { printf '== %s\n' "$*"; }
need() {
  for program in "$@"; do
    command -v "$program" >/dev/null || { echo "local-cluster: $program is needed and not installed" >&2; exit 1; }
  done
}

case $kind in
  kind | k3d) need "$kind" kubectl helm make ;;
  k3s) need k3s kubectl helm make; export KUBECONFIG=${KUBECONFIG:-/etc/rancher/k3s/k3s.yaml} ;;
  *) echo "usage: examples/local-cluster.sh kind|k3d|k3s [delete]" >&2; exit 2 ;;
esac

if [ "$action" = delete ]; then
  case $kind in
    kind) exec kind delete cluster --name "$name" ;;
    k3d) exec k3d cluster delete "$name" ;;
    k3s) echo "local-cluster: uninstall as docs/install.md says; the cluster is not ours" >&2; exit 2 ;;
  esac
fi
[ "$action" = create ] || { echo "local-cluster: $action is neither create nor delete" >&2; exit 2; }
[ -n "$engine" ] || { echo "local-cluster: neither docker nor podman is installed" >&2; exit 1; }

say "cluster"
case $kind in
  kind) kind get clusters | grep -qx "$name" || kind create cluster --name "$name" --wait 120s ;;
  k3d) k3d cluster list "$name" >/dev/null 2>&1 || k3d cluster create "$name" --wait ;;
esac
case $kind in
  kind) context=kind-$name ;;
  k3d) context=k3d-$name ;;
  k3s) context=$(kubectl config current-context) ;;
esac
kubectl() { command kubectl --context "$context" "$@"; }
helm() { command helm --kube-context "$context" "$@"; }

# Podman names what it builds after this machine.
registry=
case $engine in *podman) registry=localhost ;; esac

say "images"
make images
version=$(sed -n 's/^appVersion: *//p' charts/switchgear/Chart.yaml)
for role in operator edge api shapes streams; do
  image=${registry:+$registry/}switchgear/$role:$version
  case $kind in
    kind) kind load docker-image "$image" --name "$name" ;;
    k3d) k3d image import "$image" --cluster "$name" ;;
    k3s) "$engine" save "$image" | k3s ctr -n k8s.io images import - ;;
  esac
done

say "charts"
helm upgrade --install switchgear-crds charts/switchgear-crds
kubectl create namespace switchgear-system --dry-run=client -o yaml | kubectl apply -f -
kubectl label --overwrite namespace switchgear-system pod-security.kubernetes.io/enforce=restricted
helm upgrade --install switchgear charts/switchgear --namespace switchgear-system --wait --timeout 5m \
  --set region.publicUrl=http://localhost:4400 --set edge.replicas=1 --set image.registry="$registry"

say "a Postgres of its own"
kubectl create namespace quickstart --dry-run=client -o yaml | kubectl apply -f -
if ! kubectl -n quickstart get secret quickstart-database >/dev/null 2>&1; then
  password=$(od -An -N18 -tx1 /dev/urandom | tr -d ' \n')
  kubectl -n quickstart create secret generic quickstart-database \
    --from-literal=password="$password" \
    --from-literal=url="postgresql://postgres:$password@postgres.quickstart.svc:5432/postgres"
fi
kubectl -n quickstart apply -f - <<'YAML'
apiVersion: apps/v1
kind: Deployment
metadata: {name: postgres}
spec:
  strategy: {type: Recreate}
  selector: {matchLabels: {app: postgres}}
  template:
    metadata: {labels: {app: postgres}}
    spec:
      containers:
        - name: postgres
          image: postgres:18
          args: [-c, wal_level=logical]
          env:
            - {name: POSTGRES_PASSWORD, valueFrom: {secretKeyRef: {name: quickstart-database, key: password}}}
          ports: [{containerPort: 5432}]
          readinessProbe: {exec: {command: [pg_isready, -U, postgres, -h, 127.0.0.1]}}
---
apiVersion: v1
kind: Service
metadata: {name: postgres}
spec:
  selector: {app: postgres}
  ports: [{port: 5432}]
YAML
kubectl -n quickstart rollout status deployment/postgres --timeout 5m

say "quickstart"
kubectl apply -f examples/quickstart.yaml
kubectl -n quickstart wait --for=condition=Ready --timeout 5m syncsource/app-production-db streamsservice/app-production-events
kubectl get switchgear -A

say "ready. In another terminal:"
printf '  kubectl --context %s -n switchgear-system port-forward service/switchgear-edge 4400:80\n' "$context"
