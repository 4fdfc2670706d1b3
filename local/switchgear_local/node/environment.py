"""Pod spec → environment, arguments and working directory of a container's process. Pure.

Follows Kubernetes' rules: `envFrom` first, then `env` in order, `$(NAME)` from what came before, `$$` for a dollar.
Invariant: error messages name Secrets and keys, never values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import ConfigError
from .mounts import MountTable

CONFIG_ERROR = "CreateContainerConfigError"
_REFERENCE = re.compile(r"\$(?:\$|\(([^()]*)\))")
_SUBSCRIPT = re.compile(r"^metadata\.(labels|annotations)\['([^']+)'\]$")


@dataclass(frozen=True)
class PodFacts:
    """What the downward API can tell about a pod."""

    name: str
    namespace: str
    uid: str
    node_name: str
    host_ip: str
    pod_ip: str
    service_account: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """A Secret or ConfigMap that a pod names. `optional` when the pod can do without it."""

    kind: str
    name: str
    optional: bool


@dataclass(frozen=True)
class Sources:
    """Contents of the pod's Secrets and ConfigMaps by name; what does not exist is left out."""

    secrets: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict, repr=False)
    config_maps: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict, repr=False)

    def of(self, kind: str) -> Mapping[str, Mapping[str, bytes]]:
        """The objects of one kind."""
        return self.secrets if kind == "Secret" else self.config_maps


def facts_of(pod: Mapping[str, Any], node_name: str, host_ip: str, pod_ip: str) -> PodFacts:
    """The facts of a pod object."""
    metadata, spec = pod["metadata"], pod["spec"]
    return PodFacts(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        node_name=node_name,
        host_ip=host_ip,
        pod_ip=pod_ip,
        service_account=spec.get("serviceAccountName", ""),
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
    )


def references(container: Mapping[str, Any]) -> Iterator[Reference]:
    """Every Secret and ConfigMap that the container's environment names."""
    for entry in container.get("envFrom") or ():
        for key, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            if ref := entry.get(key):
                yield Reference(kind, ref["name"], bool(ref.get("optional")))
    for entry in container.get("env") or ():
        source = entry.get("valueFrom") or {}
        for key, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
            if ref := source.get(key):
                yield Reference(kind, ref["name"], bool(ref.get("optional")))


def expand(text: str, values: Mapping[str, str]) -> str:
    """`$(NAME)` → its value, `$$` → `$`; an unknown name stays as it is."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        return "$" if name is None else values.get(name, match.group(0))

    return _REFERENCE.sub(replace, text)


def field_value(path: str, facts: PodFacts) -> str:
    """The value of a `fieldRef`. Raises ConfigError for a field that is not supported."""
    subscript = _SUBSCRIPT.match(path)
    if subscript:
        table = facts.labels if subscript.group(1) == "labels" else facts.annotations
        return table.get(subscript.group(2), "")
    simple = {
        "metadata.name": facts.name,
        "metadata.namespace": facts.namespace,
        "metadata.uid": facts.uid,
        "spec.nodeName": facts.node_name,
        "spec.serviceAccountName": facts.service_account,
        "status.hostIP": facts.host_ip,
        "status.hostIPs": facts.host_ip,
        "status.podIP": facts.pod_ip,
        "status.podIPs": facts.pod_ip,
    }
    if path not in simple:
        raise ConfigError(CONFIG_ERROR, f"fieldRef {path!r} is not supported by the process node")
    return simple[path]


def variables(container: Mapping[str, Any], facts: PodFacts, sources: Sources) -> dict[str, str]:
    """The container's variables as its spec gives them. Raises ConfigError for what is missing or unsupported."""
    result: dict[str, str] = {}
    for entry in container.get("envFrom") or ():
        result.update(_from_object(entry, sources))
    for entry in container.get("env") or ():
        name = entry["name"]
        if entry.get("valueFrom"):
            value = _from_source(name, entry["valueFrom"], facts, sources)
            if value is not None:
                result[name] = value
        else:
            result[name] = expand(entry.get("value") or "", result)
    for name, value in result.items():
        if "\0" in value:
            raise ConfigError(CONFIG_ERROR, f"env {name}: the value holds a NUL byte, which no environment can")
    return result


def _from_object(entry: Mapping[str, Any], sources: Sources) -> dict[str, str]:
    for key, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
        if ref := entry.get(key):
            data = sources.of(kind).get(ref["name"])
            if data is None:
                if ref.get("optional"):
                    return {}
                raise _missing(kind, ref["name"])
            prefix = entry.get("prefix") or ""
            return {prefix + name: _text(value) for name, value in data.items() if "=" not in name}
    return {}


def _from_source(name: str, source: Mapping[str, Any], facts: PodFacts, sources: Sources) -> str | None:
    if "fieldRef" in source:
        return field_value(source["fieldRef"]["fieldPath"], facts)
    for key, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
        if ref := source.get(key):
            data = sources.of(kind).get(ref["name"])
            if data is not None and ref["key"] in data:
                return _text(data[ref["key"]])
            if ref.get("optional"):
                return None
            if data is None:
                raise _missing(kind, ref["name"])
            raise ConfigError(CONFIG_ERROR, f"couldn't find key {ref['key']!r} in {kind} {ref['name']!r} (env {name})")
    raise ConfigError(CONFIG_ERROR, f"env {name}: {', '.join(source)} is not supported by the process node")


def _missing(kind: str, name: str) -> ConfigError:
    return ConfigError(CONFIG_ERROR, f"{kind} {name!r} not found; create it in the pod's namespace")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def check(container: Mapping[str, Any], *, init: bool) -> None:
    """Raises ConfigError for what a container's spec asks and the process node does not do."""
    if container.get("lifecycle"):
        raise ConfigError(CONFIG_ERROR, "lifecycle hooks are not supported by the process node; remove lifecycle")
    if init and container.get("restartPolicy"):
        raise ConfigError(CONFIG_ERROR, "sidecar init containers are not supported by the process node")


def arguments(container: Mapping[str, Any], values: Mapping[str, str], mounts: MountTable) -> list[str]:
    """The process's argument list. Raises ConfigError when the spec relies on an image's entry point."""
    command: Sequence[str] = container.get("command") or ()
    if not command:
        raise ConfigError(
            CONFIG_ERROR, f"container {container['name']!r} has no command; the process node has no images, so set one"
        )
    result = [mounts.rewrite(expand(word, values)) for word in (*command, *(container.get("args") or ()))]
    if any("\0" in word for word in result):
        raise ConfigError(CONFIG_ERROR, f"container {container['name']!r}: command or args hold a NUL byte")
    return result


def process_environment(
    values: Mapping[str, str], facts: PodFacts, mounts: MountTable, *, program_path: str, home: str
) -> dict[str, str]:
    """The process's whole environment: the container's variables on top of what every container has.

    `program_path` goes before a PATH of the container's own, so that our programs are found.
    """
    base = {"HOME": home, "HOSTNAME": facts.name, "LANG": "C.UTF-8"}
    scratch = mounts.real("/tmp")  # noqa: S108
    if scratch is not None:
        base["TMPDIR"] = scratch
    result = base | {name: mounts.rewrite(value) for name, value in values.items()}
    own = values.get("PATH")
    result["PATH"] = f"{program_path}:{mounts.rewrite(own)}" if own else program_path
    return result
