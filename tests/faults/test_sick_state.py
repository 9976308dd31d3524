"""The disk of the daemon's own file fails while it runs: a reason, no crash, and the work goes on where it was."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from neff.keys import ModuleName
from tests.faults import preload
from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.harness.waiting import eventually

_SENT, _MADE, _LOST = (entries.module(number) for number in range(3))

Sickness = Callable[[], contextlib.AbstractContextManager[None]]


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Away at first."""
    return tmp_path / "shared"


@pytest.fixture
def host(host: Daemon) -> Daemon:
    (host.home / "state").mkdir()
    return host


@contextlib.contextmanager
def _failing_calls(host: Daemon, code: int) -> Iterator[None]:
    now = Path(host.environ["SICK_NOW"])
    now.with_suffix(".new").write_text(str(code))
    now.with_suffix(".new").rename(now)
    yield
    now.unlink()


@pytest.mark.skipif(preload.compiler() is None, reason="no C compiler here")
@pytest.mark.parametrize("error", ["EIO", "EROFS"])
def test_journal_rows_that_cannot_be_written(host: Daemon, shared: Path, tmp_path: Path, error: str) -> None:
    """Of an entry that is to be noted, of one that a remote has confirmed, and of one that is to be parked.

    Before that, the schema itself: then the daemon does not start, and says why.
    """
    host.environ |= {
        "LD_PRELOAD": str(preload.build("sick_disk", tmp_path)),
        "SICK_BELOW": str(host.home / "state" / "neffd.db"),
        "SICK_NOW": str(tmp_path / "sick"),
    }
    code = getattr(errno, error)
    with _failing_calls(host, code):
        assert host.start_and_die() == 1
    assert "hint:" in host.log
    host.start()
    _check_noting_and_confirming(host, shared, lambda: _failing_calls(host, code))
    if error == "EIO":
        _check_parking(host, shared, lambda: _failing_calls(host, code))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_state_directory_that_is_full(host: Daemon, shared: Path) -> None:
    state = host.home / "state"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(state)], check=False).returncode != 0:
        pytest.skip("no mounts here")

    @contextlib.contextmanager
    def full() -> Iterator[None]:
        filler = state / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield
        filler.unlink()

    try:
        host.start()
        _check_noting_and_confirming(host, shared, full)
    finally:
        host.kill()
        subprocess.run(["umount", "-l", str(state)], check=True)


def _check_noting_and_confirming(host: Daemon, shared: Path, sick: Sickness) -> None:
    """With a remote that is there when it is wanted: one entry is sent, another is made, while nothing can be noted."""
    away = shared.with_name("away")
    away.mkdir()
    _let_wait(host, _SENT)
    with sick():
        away.rename(shared)
        eventually(lambda: (shared / str(_SENT) / "model.done").exists(), "sent")
        eventually(lambda: _remote(host)["reason"] == "disk", "and its confirmation cannot be noted")
        assert _remote(host)["journal"]["waiting"] == 1, "kept in mind"
        _compile(host, _MADE)
        eventually(lambda: _problems(host) == ["disk"], "the reason is said")
        assert host.status()["state"] == "running"
    host.wait_until_pushed(2, timeout_s=40)
    for name in (_SENT, _MADE):
        assert entries.shared(entries.read(shared, name)) == entries.files(name)
    eventually(lambda: _problems(host) == [], "healed")
    _assert_nothing_left(host)


def _check_parking(host: Daemon, shared: Path, sick: Sickness) -> None:
    """The pinned files of an entry were removed: that it cannot be sent has to be noted, too."""
    away = shared.with_name("away")
    shared.rename(away)
    _let_wait(host, _LOST)
    (lost,) = _staging(host).glob("outbox/*")
    (lost / "model.neff.part").unlink()
    with sick():
        away.rename(shared)
        eventually(lambda: _remote(host)["reason"] == "disk", "it cannot be parked")
        assert "is parked" not in host.log
    eventually(lambda: host.ask("flush", timeout_s=1)[-1].get("parked"), "it is parked", 40)
    host.kill()
    host.start()
    (parked,) = host.ask("flush", timeout_s=5)[-1]["parked"]
    assert parked["reason"] == "files-lost", "it was noted"


def _assert_nothing_left(host: Daemon) -> None:
    eventually(lambda: not list(_staging(host).glob("outbox/*")), "no pinned files")
    host.kill()
    host.start()
    assert host.ask("flush", timeout_s=5)[-1]["pending"] == 0, "the confirmations were noted"
    assert "Traceback" not in host.log
    assert "is damaged" not in host.log


def _let_wait(host: Daemon, name: ModuleName) -> None:
    _compile(host, name)
    eventually(lambda: _remote(host)["journal"]["waiting"] == 1, f"{name} is noted")


def _compile(host: Daemon, name: ModuleName) -> None:
    entries.write(host.cache, name, entries.files(name))


def _remote(host: Daemon) -> dict[str, Any]:
    remote: dict[str, Any] = host.status()["remotes"][0]
    return remote


def _problems(host: Daemon) -> list[str]:
    return [problem["reason"] for problem in host.status()["cache_dirs"][0]["problems"]]


def _staging(host: Daemon) -> Path:
    return Path(host.status()["cache_dirs"][0]["staging"])
