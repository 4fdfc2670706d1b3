"""A stand-in for the Kubernetes provider's plugin, which is in no registry that CI reaches. NOT the provider.

The real Pulumi engine and SDK speak to it; it applies objects to a real API server by server-side apply. It covers
what the programs here use: check, diff, create, read, update, delete, previews. It does not wait until objects are
ready, has no schema, no invokes, no Helm or YAML resources, no automatic names.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc

from switchgear_local.kubeapi import KubeApi, KubeError

Object = dict[str, Any]
GONE_SECONDS = 60.0
SECRET = "4dabf18193072939515e22adb298388d"
"""The field by which the protocol marks a wrapped value."""


def to_dict(struct: struct_pb2.Struct) -> Object:
    made: Object = _whole(json_format.MessageToDict(struct))
    return made


def to_struct(value: Object) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    made.update(value)
    return made


def _whole(value: Any) -> Any:
    """Numbers come as floats (the API server takes whole ones only as integers), secrets wrapped."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        if SECRET in value:
            return _whole(value["value"])
        return {key: _whole(item) for key, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value


def projection(live: Any, wanted: Any) -> Any:
    """What of the live object the inputs speak of."""
    if isinstance(wanted, dict) and isinstance(live, dict):
        return {key: projection(live[key], item) for key, item in wanted.items() if key in live}
    if isinstance(wanted, list) and isinstance(live, list) and len(live) == len(wanted):
        return [projection(one, other) for one, other in zip(live, wanted, strict=True)]
    return live


class StandIn(provider_pb2_grpc.ResourceProviderServicer):
    """One provider process."""

    def __init__(self) -> None:
        self._api: KubeApi | None = None

    def api(self, context: grpc.ServicerContext) -> KubeApi:
        if self._api is None:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the provider has no kubeconfig")
        assert self._api is not None
        return self._api

    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        import pulumi_kubernetes

        version = pulumi_kubernetes._utilities.get_version()
        return plugin_pb2.PluginInfo(version=version)

    def Handshake(self, request: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not needed")

    def GetSchema(self, request: Any, context: Any) -> Any:
        return provider_pb2.GetSchemaResponse(schema="{}")

    def CheckConfig(self, request: Any, context: Any) -> Any:
        return provider_pb2.CheckResponse(inputs=request.news)

    def DiffConfig(self, request: Any, context: Any) -> Any:
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    def Configure(self, request: Any, context: Any) -> Any:
        text = to_dict(request.args).get("kubeconfig") or request.variables.get("kubernetes:config:kubeconfig")
        if text:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "kubeconfig"
                path.write_text(text)
                path.chmod(0o600)
                self._api = KubeApi(path)
        return provider_pb2.ConfigureResponse(acceptSecrets=False, supportsPreview=True)

    def Check(self, request: Any, context: Any) -> Any:
        return provider_pb2.CheckResponse(inputs=request.news)

    def Diff(self, request: Any, context: Any) -> Any:
        olds, news = to_dict(request.olds), to_dict(request.news)
        changed = projection(olds, news) != news
        same_object = _identity(olds) == _identity(news)
        kinds = provider_pb2.DiffResponse
        return provider_pb2.DiffResponse(
            changes=kinds.DIFF_SOME if changed else kinds.DIFF_NONE, replaces=[] if same_object else ["metadata.name"]
        )

    def Create(self, request: Any, context: Any) -> Any:
        item = to_dict(request.properties)
        if request.preview:
            return provider_pb2.CreateResponse(id="", properties=request.properties)
        self._apply(item, context)
        return provider_pb2.CreateResponse(id=_identity(item), properties=to_struct(item))

    def Update(self, request: Any, context: Any) -> Any:
        item = to_dict(request.news)
        if not request.preview:
            self._apply(item, context)
        return provider_pb2.UpdateResponse(properties=to_struct(item))

    def Read(self, request: Any, context: Any) -> Any:
        wanted = to_dict(request.inputs) or to_dict(request.properties)
        metadata = wanted["metadata"]
        live = self.api(context).get(wanted["apiVersion"], wanted["kind"], metadata["name"], metadata.get("namespace"))
        if live is None:
            return provider_pb2.ReadResponse(id="")
        seen = to_struct(projection(live, wanted))
        return provider_pb2.ReadResponse(id=request.id, properties=seen, inputs=request.inputs)

    def Delete(self, request: Any, context: Any) -> Any:
        item = to_dict(request.properties)
        where = (item["apiVersion"], item["kind"], item["metadata"]["name"], item["metadata"].get("namespace"))
        api = self.api(context)
        try:
            deadline = time.monotonic() + GONE_SECONDS
            if api.delete(*where):
                while api.get(*where) is not None:
                    if time.monotonic() > deadline:
                        context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"{where} is still there")
                    time.sleep(0.1)
        except KubeError as error:
            if error.status != 404:
                context.abort(grpc.StatusCode.INTERNAL, str(error))
        return empty_pb2.Empty()

    def Cancel(self, request: Any, context: Any) -> Any:
        return empty_pb2.Empty()

    def _apply(self, item: Object, context: grpc.ServicerContext) -> None:
        """Applied; a kind whose definition is seconds old may need another try."""
        api = self.api(context)
        deadline = time.monotonic() + 60
        while True:
            try:
                api.apply(item)
                return
            except KubeError as error:
                if error.status not in (404, 429) or time.monotonic() > deadline:
                    context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
                time.sleep(0.2)


def _identity(item: Object) -> str:
    metadata = item.get("metadata", {})
    return f"{item.get('apiVersion')}/{item.get('kind')}/{metadata.get('namespace', '')}/{metadata.get('name')}"


def main() -> None:
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=16), options=[("grpc.max_receive_message_length", 1 << 28)]
    )
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(StandIn(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    sys.exit(main())
