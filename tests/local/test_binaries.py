"""Where the control plane's programs are looked for, in which order, and what a wrong one is answered with."""

from __future__ import annotations

import hashlib
import http.server
import io
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from switchgear_local import binaries, download, gobuild, paths, versions
from switchgear_local.errors import BinariesError
from tests.support import processes
from tests.support.region import wait_until

APISERVER = next(p for p in versions.PROGRAMS if p.name == "kube-apiserver")
ETCD = next(p for p in versions.PROGRAMS if p.name == "etcd")
KUBECTL = next(p for p in versions.PROGRAMS if p.name == "kubectl")


def fake(folder: Path, program: versions.Program, version: str) -> Path:
    """An executable that answers only the question for its version."""
    folder.mkdir(parents=True, exist_ok=True)
    answers = {
        "etcd": f"etcd Version: {version}",
        "kubectl": '{"clientVersion": {"gitVersion": "v' + version + '"}}',
    }
    path = folder / program.name
    path.write_text(f"#!/bin/sh\necho '{answers.get(program.name, f'Kubernetes v{version}')}'\n")
    path.chmod(0o755)
    return path


def environ(tmp_path: Path, **more: str) -> dict[str, str]:
    return {"PATH": str(tmp_path / "path"), "SWITCHGEAR_CACHE_DIR": str(tmp_path / "cache")} | more


@pytest.mark.parametrize("program", versions.PROGRAMS, ids=lambda p: p.name)
def test_order_is_explicit_folder_then_path_then_cache(tmp_path: Path, program: versions.Program) -> None:
    cache = binaries.Cache(tmp_path / "cache")
    assert binaries.locate(program, environ(tmp_path), cache) is None
    cached = fake(cache.path(program).parent, program, program.version)
    assert binaries.locate(program, environ(tmp_path), cache) == cached
    on_path = fake(tmp_path / "path", program, f"{program.minor}.99")
    assert binaries.locate(program, environ(tmp_path), cache) == on_path
    explicit = fake(tmp_path / "mine", program, program.version)
    with_folder = environ(tmp_path, SWITCHGEAR_KUBE_BIN=str(tmp_path / "mine"))
    assert binaries.locate(program, with_folder, cache) == explicit


def test_another_minor_version_on_path_is_passed_over(tmp_path: Path) -> None:
    fake(tmp_path / "path", KUBECTL, "1.32.4-dispatcher")
    cache = binaries.Cache(tmp_path / "cache")
    assert binaries.locate(KUBECTL, environ(tmp_path), cache) is None


def test_wrong_version_in_the_explicit_folder_is_an_error(tmp_path: Path) -> None:
    fake(tmp_path / "mine", APISERVER, "1.30.1")
    env = environ(tmp_path, SWITCHGEAR_KUBE_BIN=str(tmp_path / "mine"))
    with pytest.raises(BinariesError, match=r"1\.30\.1.*needs 1\.34\.x"):
        binaries.locate(APISERVER, env, binaries.Cache(tmp_path / "cache"))


def test_explicit_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    env = environ(tmp_path, SWITCHGEAR_KUBE_BIN=str(tmp_path / "nowhere"))
    with pytest.raises(BinariesError, match=r"SWITCHGEAR_KUBE_BIN is .*nowhere"):
        binaries.locate(APISERVER, env, binaries.Cache(tmp_path / "cache"))


def test_ensure_takes_each_program_from_where_it_is(tmp_path: Path) -> None:
    cache = binaries.Cache(tmp_path / "cache")
    for program in versions.PROGRAMS:
        fake(cache.path(program).parent, program, program.version)
    etcd = fake(tmp_path / "path", ETCD, ETCD.version)
    found = binaries.ensure(environ=environ(tmp_path))
    assert found.etcd == etcd
    assert found.kubectl == cache.path(KUBECTL)


def test_what_cannot_be_had_is_said_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "has_route", lambda host: False)
    env = environ(tmp_path, PATH=str(tmp_path / "path"))
    fake_go = tmp_path / "path" / "go"
    fake_go.parent.mkdir()
    fake_go.write_text(
        '#!/bin/sh\ntest "$1" = version && echo go version go1.99.0 linux/amd64 || { echo broken; exit 1; }\n'
    )
    fake_go.chmod(0o755)
    with pytest.raises(BinariesError) as failure:
        binaries.ensure(environ=env)
    text = str(failure.value)
    assert "no route" in text
    assert "broken" in text
    assert "SWITCHGEAR_KUBE_BIN" in text
    assert not list((tmp_path / "cache").rglob("etcd*/etcd")), "a failed build must leave nothing"


GO = f"""#!/bin/sh
if test "$1" = version; then echo go version go1.99.0 linux/amd64; exit; fi
while test "$1" != -o; do shift; done
name=$(basename "$2")
if test -e "$HANG"; then touch "$GOTMPDIR/part" "$HANG.begun"; exec sleep 1000; fi
case $name in
    etcd) line='etcd Version: {versions.ETCD}' ;;
    kubectl) line='{{"clientVersion": {{"gitVersion": "v{versions.KUBERNETES}"}}}}' ;;
    *) line='Kubernetes v{versions.KUBERNETES}' ;;
esac
printf "#!/bin/sh\necho '%s'\n" "$line" > "$2"
chmod +x "$2"
"""


def test_a_build_that_is_killed_leaves_nothing_that_matters(tmp_path: Path) -> None:
    """Its Go ends with it; the next one clears up and builds. Two at a time build once."""
    go = tmp_path / "path" / "go"
    go.parent.mkdir()
    go.write_text(GO)
    go.chmod(0o755)
    hang = tmp_path / "hang"
    hang.touch()
    env = environ(tmp_path, HANG=str(hang), PATH=f"{go.parent}:/usr/bin:/bin")
    program = (
        "from switchgear_local import binaries, download\n"
        "download.has_route = lambda host: False\n"
        "print(binaries.ensure(lambda line: print(line, flush=True)))\n"
    )
    command = [sys.executable, "-c", program]
    killed = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    wait_until((tmp_path / "hang.begun").exists, 60, "the build has begun")
    killed.kill()
    killed.wait()
    wait_until(lambda: not processes.find(str(hang)), 60, "Go ends with what started it")
    assert len(list((tmp_path / "cache").rglob("part"))) == 1
    hang.unlink()
    both = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=100)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum(text.count("building") for text in said) == len(versions.PROGRAMS)
    left = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert left == {"lock"} | {program.name for program in versions.PROGRAMS}
    assert not list((tmp_path / "cache").rglob(".*"))


def test_machines_go_is_used_when_new_enough(tmp_path: Path) -> None:
    go = tmp_path / "path" / "go"
    go.parent.mkdir()
    go.write_text("#!/bin/sh\necho go version go1.27.1 linux/amd64\n")
    go.chmod(0o755)
    assert gobuild.toolchain(lambda line: None, environ(tmp_path)) == (go, None)


def test_go_minimum_is_what_the_modules_ask_for() -> None:
    for module in (Path(gobuild.__file__).parent / "gomod").glob("*/go.mod"):
        match = re.search(r"^go (\d+)\.(\d+)", module.read_text(), re.MULTILINE)
        assert match is not None
        assert (int(match[1]), int(match[2])) <= versions.GO_MINIMUM
    assert tuple(int(part) for part in versions.GO.split(".")[:2]) >= versions.GO_MINIMUM


def test_module_pins_are_the_versions_we_say() -> None:
    folder = Path(gobuild.__file__).parent / "gomod"
    assert f"k8s.io/kubernetes v{versions.KUBERNETES}\n" in (folder / "kube" / "go.mod").read_text()
    assert f"go.etcd.io/etcd/server/v3 v{versions.ETCD}\n" in (folder / "etcd" / "go.mod").read_text()


class _Files(http.server.BaseHTTPRequestHandler):
    content: dict[str, bytes]

    def do_GET(self) -> None:
        body = self.content.get(self.path)
        self.send_response(200 if body is not None else 404)
        if b"breaks off" in (body or b""):
            self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_arguments: object) -> None:
        return


@pytest.fixture
def releases(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A release server on loopback, with a correct kube-apiserver and etcd archive."""
    binary = b"#!/bin/sh\necho 'Kubernetes v1.34.4'\n"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("etcd-v1/etcd")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"etcd"))
    content = {
        "/kube-apiserver": binary,
        "/kube-apiserver.sha256": hashlib.sha256(binary).hexdigest().encode(),
        "/etcd.tar.gz": packed.getvalue(),
        "/SHA256SUMS": f"{hashlib.sha256(packed.getvalue()).hexdigest()}  etcd.tar.gz\n".encode(),
    }
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Files,), {"content": content}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    names = {"etcd": "etcd.tar.gz"}
    monkeypatch.setattr(download, "_url", lambda program: f"{base}/{names.get(program.name, program.name)}")
    monkeypatch.setattr(download, "has_route", lambda host: True)
    yield content
    server.shutdown()
    server.server_close()


def test_download_is_checked_against_the_published_sum(tmp_path: Path, releases: dict[str, bytes]) -> None:
    target = tmp_path / "kube-apiserver"
    download.fetch(APISERVER, target, lambda line: None, {})
    assert target.read_bytes() == releases["/kube-apiserver"]
    download.fetch(ETCD, tmp_path / "etcd", lambda line: None, {})
    assert (tmp_path / "etcd").read_bytes() == b"etcd"


@pytest.mark.parametrize(("file", "program"), [("/kube-apiserver", APISERVER), ("/etcd.tar.gz", ETCD)])
def test_tampered_download_is_refused(
    tmp_path: Path, releases: dict[str, bytes], file: str, program: versions.Program
) -> None:
    releases[file] += b"x"
    with pytest.raises(BinariesError, match="SHA-256"):
        download.fetch(program, tmp_path / "it", lambda line: None, {})
    assert list(tmp_path.iterdir()) == []


def test_download_that_breaks_off_is_a_clear_error(tmp_path: Path, releases: dict[str, bytes]) -> None:
    releases["/kube-apiserver"] = b"ff\r\nbreaks off"
    with pytest.raises(BinariesError, match="kube-apiserver: IncompleteRead"):
        download.fetch(APISERVER, tmp_path / "it", lambda line: None, {})
    assert list(tmp_path.iterdir()) == []


def test_missing_download_is_a_clear_error(tmp_path: Path, releases: dict[str, bytes]) -> None:
    releases.pop("/kube-apiserver")
    with pytest.raises(BinariesError, match="404"):
        download.fetch(APISERVER, tmp_path / "it", lambda line: None, {})


def test_route_is_asked_for_within_seconds() -> None:
    assert download.has_route("no-such-host.invalid") is False


def test_directories_follow_the_environment(tmp_path: Path) -> None:
    assert paths.data_dir(environ={"SWITCHGEAR_DATA_DIR": str(tmp_path)}) == tmp_path
    assert paths.data_dir(tmp_path / "x", environ={"SWITCHGEAR_DATA_DIR": str(tmp_path)}) == tmp_path / "x"
    assert paths.cache_dir({"SWITCHGEAR_CACHE_DIR": str(tmp_path)}) == tmp_path
