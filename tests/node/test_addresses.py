"""Address blocks: one per data directory, held by whatever runs in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from switchgear_local.node import addresses
from switchgear_local.node.errors import NodeError


def test_two_directories_never_share_a_block(tmp_path: Path) -> None:
    first = addresses.claim("a", 7, tmp_path)
    second = addresses.claim("b", 7, tmp_path)
    assert first.index == 7
    assert second.index != 7
    assert not second.holds(first.assign("pod"))
    first.close()
    second.close()


def test_a_free_block_is_taken_over_and_then_belongs_to_the_new_one(tmp_path: Path) -> None:
    addresses.claim("a", 7, tmp_path).close()
    taken = addresses.claim("b", 7, tmp_path)
    assert taken.index == 7
    again = addresses.claim("a", 7, tmp_path)
    assert again.index != 7
    taken.close()
    again.close()


def test_the_block_stays_claimed_while_a_process_of_it_lives(tmp_path: Path) -> None:
    block = addresses.claim("a", 7, tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=(block.lock_fd,)
    )
    try:
        block.close()
        stranger = addresses.claim("b", 7, tmp_path)
        assert stranger.index != 7
        stranger.close()
        # The node itself comes back to its own block, beside its processes.
        back = addresses.claim("a", 7, tmp_path)
        assert back.index == 7
        back.close()
    finally:
        child.communicate(b"")
    free = addresses.claim("b", 7, tmp_path)
    assert free.index == 7
    free.close()


def test_addresses_are_unique_kept_and_reused_late(tmp_path: Path) -> None:
    block = addresses.claim("a", 0, tmp_path)
    assert block.assign("p1") == "127.64.0.1"
    assert block.assign("p1") == "127.64.0.1"
    assert block.assign("p2") == "127.64.0.2"
    block.release("p1")
    assert block.assign("p3") == "127.64.0.3"
    assert block.assign("p4", wanted="127.64.0.1") == "127.64.0.1"
    assert block.assign("p5", wanted="127.64.0.1") == "127.64.0.4"
    assert block.assign("p6", wanted="10.0.0.1") == "127.64.0.5"
    block.close()


def test_a_full_block_says_so_and_never_gives_an_address_twice(tmp_path: Path) -> None:
    block = addresses.claim("a", 1, tmp_path)
    given = {block.assign(f"p{i}") for i in range(addresses.BLOCK_SIZE - 2)}
    assert len(given) == addresses.BLOCK_SIZE - 2
    with pytest.raises(NodeError, match="NO_ADDRESS"):
        block.assign("one more")
    block.release("p5")
    assert block.assign("one more") in given
    block.close()


@pytest.mark.parametrize("address", ["127.64.0.0", "127.64.3.255", "127.64.4.0", "127.63.255.255", "", "x"])
def test_network_and_broadcast_addresses_are_not_of_the_block(tmp_path: Path, address: str) -> None:
    block = addresses.claim("a", 0, tmp_path)
    assert not block.holds(address)
    block.close()


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (tmp_path / "switchgear-addresses-0007.lock").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        addresses.claim("a", 7, tmp_path)
    assert not target.exists()


def test_the_lock_place_is_there_for_every_user() -> None:
    assert os.access(addresses.lock_place(), os.W_OK)
