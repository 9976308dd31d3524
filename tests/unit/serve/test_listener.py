"""The socket file: who may connect, and that two daemons never share it."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from neffd.errors import NeffdError
from neffd.serve.listener import Listener


@contextlib.asynccontextmanager
async def listening(path: Path, mode: int = 0o600, group: str | None = None) -> AsyncIterator[Listener]:
    listener = Listener(path, mode, group)
    await listener.start(asyncio.Protocol)
    try:
        yield listener
    finally:
        listener.stop()


async def refused(path: Path, group: str | None = None) -> NeffdError:
    with pytest.raises(NeffdError) as caught:
        await Listener(path, 0o600, group).start(asyncio.Protocol)
    return caught.value


def can_connect(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


async def test_its_folder_is_made_and_its_file_goes(tmp_path: Path) -> None:
    path = tmp_path / "run" / "deep" / "neffd.sock"
    async with listening(path):
        assert can_connect(path)
        assert [file.name for file in path.parent.iterdir()] == ["neffd.sock"]
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
@pytest.mark.parametrize("umask", [0o000, 0o077])
async def test_mode_is_what_was_asked_for_whatever_the_umask(tmp_path: Path, mode: int, umask: int) -> None:
    before = os.umask(umask)
    try:
        async with listening(tmp_path / "sock", mode):
            assert stat.S_IMODE((tmp_path / "sock").stat().st_mode) == mode
    finally:
        os.umask(before)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another group")
async def test_group(tmp_path: Path) -> None:
    group = next(known for known in grp.getgrall() if known.gr_gid != os.getegid())
    async with listening(tmp_path / "sock", 0o660, group.gr_name):
        assert (tmp_path / "sock").stat().st_gid == group.gr_gid


async def test_a_group_that_does_not_exist_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    error = await refused(tmp_path / "sock", "no-such-group")
    assert error.reference == "socket-group"
    assert "no-such-group" in str(error)
    assert list(tmp_path.iterdir()) == []


async def test_a_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    async with listening(path):
        assert can_connect(path)


async def test_a_live_socket_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        assert (await refused(path)).reference == "already-running"
        assert can_connect(path)


async def test_so_is_one_whose_queue_is_full(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as other, contextlib.ExitStack() as clients:
        other.bind(str(path))
        other.listen(0)
        for _ in range(3):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(path))
        assert (await refused(path)).reference == "already-running"
        assert path.exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
async def test_what_is_no_socket_is_kept(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "sock"
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    error = await refused(path)
    assert error.reference == "socket"
    assert "no socket" in str(error)
    assert os.path.lexists(path)


@pytest.mark.parametrize("name_bytes", [1, 20])
async def test_107_bytes_are_possible_and_one_more_is_not(tmp_path: Path, name_bytes: int) -> None:
    folder = tmp_path / ("d" * (107 - len(os.fsencode(tmp_path)) - 2 - name_bytes))
    path = folder / ("s" * name_bytes)
    assert len(os.fsencode(path)) == 107
    async with listening(path):
        assert can_connect(path)
    error = await refused(folder / ("s" * (name_bytes + 1)))
    assert error.reference == "socket-path"
    assert "107 bytes" in str(error)


async def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    error = await refused(tmp_path / "file" / "sock")
    assert error.reference == "socket"
    assert "None" not in str(error)


async def test_a_newer_daemons_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    async with listening(path) as older:
        path.rename(tmp_path / "aside")  # kept, so that its inode is not used again
        async with listening(path):
            older.stop()
            assert can_connect(path)
        assert not path.exists()


async def test_a_folder_that_is_gone_at_the_end_is_no_error(tmp_path: Path) -> None:
    async with listening(tmp_path / "run" / "sock"):
        (tmp_path / "run").rename(tmp_path / "away")
        (tmp_path / "run").write_text("not even a folder")
    assert (tmp_path / "run").read_text() == "not even a folder"
