"""Runs one of our programs with Pulumi's mocks and prints what it registers, one JSON object a line.

`python -m tests.infra.recording PROGRAM`, with the configuration as JSON on standard input. A process of its own,
because Pulumi keeps its settings for the life of a process.
"""

from __future__ import annotations

import json
import runpy
import sys
from typing import Any

import pulumi
from pulumi.runtime import mocks, rpc

from tests.infra.configurations import PROGRAMS

KUBECONFIG = "the secret kubeconfig"


class Cloud(mocks.Mocks):
    """Every resource gets what it was given, and the outputs that the programs read."""

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        extra: dict[str, Any] = {}
        if args.typ == "pulumi:pulumi:StackReference":
            shared = {"domain": "sync.example.com", "zone": "Z123", "registry": "registry.shared", "tag": "7.7.7"}
            extra = {"outputs": {"global": shared}, "secretOutputNames": []}
        elif args.typ == "eks:index:Cluster":
            extra = {"kubeconfig": KUBECONFIG}
        elif args.typ == "gcp:container/cluster:Cluster":
            extra = {"endpoint": "203.0.113.1", "masterAuth": {"clusterCaCertificate": "Y2E="}, "name": args.name}
        return f"{args.name}-id", dict(args.inputs) | extra

    def call(self, args: mocks.MockCallArgs) -> dict[Any, Any]:
        if args.token == "azure-native:containerservice:listManagedClusterUserCredentials":
            return {"kubeconfigs": [{"name": "user", "value": "dGhlIHNlY3JldCBrdWJlY29uZmln"}]}
        raise AssertionError(f"an unexpected call of {args.token}")


class Monitor(mocks.MockMonitor):
    """Writes down each registration with its options."""

    def RegisterResource(self, request: Any) -> Any:
        answer = super().RegisterResource(request)
        inputs = rpc.deserialize_properties(request.object, keep_unknowns=True)
        row = {
            "type": request.type,
            "name": request.name,
            "urn": answer.urn,
            "parent": request.parent,
            "provider": request.provider,
            "protect": request.protect,
            "retain": request.retainOnDelete,
            "inputs": _plain(inputs),
            "secrets": sorted(key for key, value in inputs.items() if rpc.is_rpc_secret(value)),
        }
        if request.type != "pulumi:pulumi:Stack":
            sys.stdout.write(json.dumps(row) + "\n")  # one write: registrations come from several threads
            sys.stdout.flush()
        return answer


def _plain(value: Any) -> Any:
    if rpc.is_rpc_secret(value):
        return "[secret]"
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def main() -> None:
    program = sys.argv[1]
    config = json.load(sys.stdin)
    secret = [key for key in config if key.endswith(":kubeconfig")]
    pulumi.runtime.set_all_config(config, secret)
    mocks.set_mocks(Cloud(), project=f"switchgear-{program}", stack="test", monitor=Monitor(Cloud()))

    @pulumi.runtime.test
    def run() -> None:
        runpy.run_path(str(PROGRAMS / program / "__main__.py"), run_name="__main__")

    run()


if __name__ == "__main__":
    main()
