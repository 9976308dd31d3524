"""Left-overs of compiles: only old ones, only ours, never one that a process works in."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from neffd.store import workdirs

_LATER_S = 10 * 86_400.0


@pytest.fixture
def tmp(tmp_path: Path) -> Path:
    """A folder for temporary files with that of one user in it."""
    (tmp_path / "me" / workdirs.NAME).mkdir(parents=True)
    return tmp_path


def work(tmp: Path, name: str = "1f0c") -> Path:
    folder = tmp / "me" / workdirs.NAME / name
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "model.neff").write_bytes(b"neff")
    return folder


def clear(tmp: Path, after_s: float = _LATER_S) -> int:
    return workdirs.clear(86_400.0, tmp, lambda: time.time() + after_s)


def test_old_ones_go(tmp: Path) -> None:
    folders = [work(tmp, "1"), work(tmp, "2")]
    (tmp / workdirs.NAME / "3").mkdir(parents=True)
    assert clear(tmp, after_s=3600) == 0
    assert clear(tmp) == 3
    assert not any(folder.exists() for folder in folders)
    assert (tmp / "me" / workdirs.NAME).is_dir()


@pytest.mark.parametrize("how", ["cwd", "open file"])
def test_one_that_a_process_works_in_stays(tmp: Path, how: str) -> None:
    folder = work(tmp)
    script = "import sys; f = open(sys.argv[1]); print('there', flush=True); sys.stdin.read()"
    file, cwd = (__file__, folder / "sub") if how == "cwd" else (str(folder / "sub" / "model.neff"), tmp)
    with subprocess.Popen(
        [sys.executable, "-c", script, file], cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        assert clear(tmp) == 0
        process.communicate()
    assert clear(tmp) == 1


def test_what_another_user_could_swap_stays(tmp: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    precious = elsewhere / "precious"
    precious.mkdir()
    folder = work(tmp)
    (tmp / "you").mkdir()
    (tmp / "you" / workdirs.NAME).symlink_to(elsewhere)
    (tmp / "me" / workdirs.NAME / "link").symlink_to(precious)
    (tmp / "me").chmod(0o777)
    assert clear(tmp) == 0
    (tmp / "me").chmod(0o755)
    folder.chmod(0o775)
    assert clear(tmp) == 0
    folder.chmod(0o755)
    assert clear(tmp) == 1
    assert precious.is_dir()


def test_a_dead_mount_beside_them_keeps_nothing(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work(tmp)
    (tmp / "dead").mkdir()
    real = Path.stat

    def stat(self: Path, **options: Any) -> os.stat_result:
        if self.is_relative_to(tmp / "dead"):
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected", str(self))
        return real(self, **options)

    monkeypatch.setattr(Path, "stat", stat)
    assert clear(tmp) == 1


async def test_what_fails_is_said_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loop, again = asyncio.get_running_loop(), asyncio.Event()

    def clear_second_time(older_than_s: float) -> int:
        if not caplog.messages:
            raise OSError(errno.EIO, "Input/output error", "/tmp")
        loop.call_soon_threadsafe(again.set)
        return 0

    monkeypatch.setattr(workdirs, "clear", clear_second_time)
    monkeypatch.setattr(workdirs, "_EVERY_S", 0.01)
    with ThreadPoolExecutor(1) as workers:
        task = asyncio.create_task(workdirs.run(1.0, workers))  # noqa: TID251
        await asyncio.wait_for(again.wait(), 5)
        task.cancel()
        await asyncio.wait({task})
    assert "Input/output error" in caplog.text
