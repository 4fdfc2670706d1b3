"""What a real node is made of: Kubernetes' own programs and two of others, built from their Go modules; Debian's
containerd; and the one image with all that runs in the cluster beside Switchgear. Nothing comes from an image registry.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from images import oci
from switchgear_local.versions import KUBERNETES
from tests.support import gomodules
from tests.support.network import fetch

TOOLS_IMAGE = "localhost/switchgear-tests/tools:1"
CNI_PLUGINS = Path("/usr/lib/cni")
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Programs:
    """Paths of the programs that run on the node itself."""

    kubelet: Path
    kube_proxy: Path
    kube_scheduler: Path
    coredns: Path
    provisioner: Path
    nodetools: Path


def packages() -> dict[str, str | None]:
    """The Debian packages that a node needs → where each was found, if it was."""
    proofs = {
        "containerd": "containerd",
        "runc": "runc",
        "iptables": "iptables",
        "iproute2": "ip",
        "conntrack": "conntrack",
        "containernetworking-plugins": str(CNI_PLUGINS / "bridge"),
    }
    return {package: shutil.which(proof, path=search_path()) for package, proof in proofs.items()}


def search_path() -> str:
    """PATH with the system's programs, which ordinary shells leave out."""
    return f"{os.environ.get('PATH', os.defpath)}:{_SBIN}"


def obstacle() -> str | None:
    """Why there can be no node here, or None."""
    if os.geteuid() != 0:
        return "a real node needs root"
    missing = [package for package, found in packages().items() if found is None]
    if missing:
        return f"a real node needs these Debian packages: {' '.join(missing)}"
    try:
        subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"a real node needs namespaces of its own, and they are not allowed here: {error}"
    return None


def ensure(progress: gomodules.Progress = lambda line: None) -> Programs:
    """Build what is not in the cache yet: four minutes the first time."""
    major, minor, _ = KUBERNETES.split(".")
    values = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor}
    # The flags of the control plane's programs, or nothing of their build could be used again.
    flags = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items())

    def kubernetes(name: str) -> Path:
        return gomodules.program(name, "kubenode", f"k8s.io/kubernetes/cmd/{name}", flags, progress)

    return Programs(
        kubelet=kubernetes("kubelet"),
        kube_proxy=kubernetes("kube-proxy"),
        kube_scheduler=kubernetes("kube-scheduler"),
        coredns=gomodules.program("coredns", "coredns", ".", progress=progress),
        provisioner=gomodules.program(
            "local-path-provisioner", "localpath", "github.com/rancher/local-path-provisioner", progress=progress
        ),
        nodetools=gomodules.program("nodetools", "nodetools", ".", progress=progress),
    )


def tools_image(programs: Programs, target: Path) -> Path:
    """Write the archive of the image `TOOLS_IMAGE`: pause, ingress, CoreDNS, the provisioner, and a shell for it."""
    with tempfile.TemporaryDirectory(prefix="sg-tools-") as folder:
        tree = Path(folder) / "tree"
        (tree / "bin").mkdir(parents=True)
        (tree / "tmp").mkdir(mode=0o777)
        for program in (programs.coredns, programs.provisioner, programs.nodetools):
            shutil.copy(program, tree / "bin" / program.name)
        shutil.copy(_busybox(Path(folder)), tree / "bin" / "busybox")
        for name in ("sh", "mkdir", "rm", "chmod"):
            (tree / "bin" / name).symlink_to("busybox")
        layer = oci.layer(tree, Path(folder) / "layer.tar.gz")
        machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
        config = {"Env": ["PATH=/bin"], "Entrypoint": ["/bin/nodetools", "pause"]}
        oci.write(target, TOOLS_IMAGE, [layer], architecture=machine, config=config)
    return target


def _busybox(folder: Path) -> Path:
    """Debian's statically linked shell, not installed but taken out of its package."""
    # apt drops its rights while it downloads, and must reach the folder.
    folder.chmod(0o777)
    download = ["apt-get", "-qq", "download", "busybox-static"]
    if subprocess.run(download, cwd=folder, capture_output=True, check=False, timeout=120).returncode:
        fetch(["apt-get", "-qq", "update"], capture_output=True, timeout=300).check_returncode()
        fetch(download, cwd=folder, capture_output=True, timeout=120).check_returncode()
    package = next(folder.glob("busybox-static_*.deb"))
    subprocess.run(["dpkg-deb", "--extract", package, folder / "busybox"], check=True, timeout=60)
    found = next(path for path in (folder / "busybox").glob("**/bin/busybox") if path.is_file())
    found.chmod(0o755)
    return found
