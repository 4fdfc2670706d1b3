"""Mount paths in text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchgear_local.node.mounts import MountTable

TABLE = MountTable({"/data": "/real/a", "/data/deep": "/real/b", "/var/lib/switchgear/": "/real/c", "/tmp": "/real/t"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data", "/real/a"),
        ("/data/", "/real/a/"),
        ("/data/x", "/real/a/x"),
        ("/data/deep/x", "/real/b/x"),
        ("/data/deeper", "/real/a/deeper"),
        ("/database", "/database"),
        ("/x/data", "/x/data"),
        ("--dir=/data", "--dir=/real/a"),
        ("/tmp:/data:/usr", "/real/t:/real/a:/usr"),
        ("http://host/data", "http://host/data"),
        ("http://127.0.0.1:80/data", "http://127.0.0.1:80/data"),
        ("postgres://u@h/db?sslrootcert=/data/ca.pem", "postgres://u@h/db?sslrootcert=/real/a/ca.pem"),
        ("echo hi > /data/x; cat '/tmp/y'", "echo hi > /real/a/x; cat '/real/t/y'"),
        ("/var/lib/switchgear/shapes", "/real/c/shapes"),
        ("data", "data"),
        ("", ""),
        ("/data-old", "/data-old"),
        ("/data.bak", "/data.bak"),
        ("a/data", "a/data"),
    ],
)
def test_rewrite(text: str, expected: str) -> None:
    assert TABLE.rewrite(text) == expected


@given(st.text(alphabet="abc/=: .-", max_size=40))
def test_text_without_a_mount_path_never_changes(text: str) -> None:
    assert MountTable({"/mnt/xyz": "/real"}).rewrite(text) == text


@pytest.mark.parametrize("path", ["/", "data", "", "//"])
def test_paths_that_cannot_be_rewritten_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="must be absolute"):
        MountTable({path: "/real"})


def test_a_real_directory_is_not_rewritten_again() -> None:
    assert MountTable({"/a": "/b/x", "/b": "/c"}).rewrite("/a/1 /b/2") == "/b/x/1 /c/2"
