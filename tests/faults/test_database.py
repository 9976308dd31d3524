"""The daemon's own file damaged, lost, read-only or badly placed, with entries waiting: nothing of theirs is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from neff.keys import ModuleName
from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.harness.waiting import eventually

_NAMES = [entries.module(number) for number in range(4)]


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Away at first."""
    return tmp_path / "shared"


def _let_wait(host: Daemon, names: list[ModuleName]) -> None:
    """Entries that were compiled, taken, and then removed by the user: only the daemon has them now."""
    for name in names:
        entries.write(host.cache, name, entries.files(name, wrapped=True))
    waiting = len(names)
    eventually(lambda: host.status()["remotes"][0]["journal"]["waiting"] == waiting, "they wait")
    for name in names:
        shutil.rmtree(host.cache / str(name))


def _all_arrive(host: Daemon, shared: Path) -> None:
    shared.mkdir()
    eventually(lambda: host.journal_is_empty() and len(list(shared.glob("*/*/model.done"))) == len(_NAMES), "all", 40)
    for name in _NAMES:
        assert entries.shared(entries.read(shared, name)) == entries.files(name, wrapped=True)
    staging = Path(host.status()["cache_dirs"][0]["staging"])
    assert list(staging.glob("outbox/*")) == []


@pytest.mark.parametrize("damage", ["garbage", "no header", "page", "truncated", "gone", "directory gone"])
def test_what_waits_outlives_the_database(host: Daemon, shared: Path, damage: str) -> None:
    host.start()
    _let_wait(host, _NAMES)
    assert host.stop() == 0
    state = host.home / "state"
    if damage == "directory gone":
        shutil.rmtree(state)
    elif damage == "gone":
        for file in state.glob("neffd.db*"):
            file.unlink()
    else:
        content = (state / "neffd.db").read_bytes()
        (state / "neffd.db").write_bytes(
            {
                "garbage": os.urandom(len(content)),
                "no header": bytes(100) + content[100:],
                "page": content[:4096] + os.urandom(4096) + content[8192:],
                "truncated": content[: len(content) // 3],
            }[damage]
        )
    host.start()
    if "gone" not in damage:
        assert len(list(state.glob("neffd.db.damaged-*"))) >= 1, "kept aside"
        assert "is damaged" in host.log
    _all_arrive(host, shared)


def test_a_fetched_entry_is_not_taken_for_our_own_by_a_new_database(host: Daemon, shared: Path, tmp_path: Path) -> None:
    """As far as the old one can be read."""
    origin = tmp_path / "origin"
    other = {"name": "other", "url": f"file://{origin}", "mode": "read", "poll_s": 0.5}
    host.config["remotes"].append(other)
    shared.mkdir()
    name = _NAMES[0]
    entries.write(origin, name, entries.files(name))
    host.start()
    answers = host.ask("prefetch", names=[str(name)], wait=True)
    assert [answer["state"] for answer in answers if "state" in answer][-1] == "ready"
    assert host.stop() == 0
    database = host.home / "state" / "neffd.db"
    with database.open("ab") as file:
        file.truncate(database.stat().st_size - 100)  # the end: what is noted of this entry stays readable
    (host.home / "state" / "neffd.db.suspect").touch()
    host.start()
    assert host.ask("flush", timeout_s=10)[-1]["pending"] == 0
    assert not (shared / str(name)).exists()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_state_directory_that_is_read_only_at_the_start_is_a_clear_message(host: Daemon) -> None:
    state = host.home / "state"
    state.mkdir()
    with _mounted(state) as mounted:
        if not mounted:
            pytest.skip("no mounts here")
        host.start()
        assert host.stop() == 0
        subprocess.run(["mount", "-o", "remount,ro", str(state)], check=True)
        assert host.start_and_die() == 1
        assert "cannot be" in host.log
        assert "hint:" in host.log
        assert "Traceback" not in host.log
        assert list(state.glob("*damaged*")) == []


@contextlib.contextmanager
def _mounted(where: Path) -> Iterator[bool]:
    """A small file system at `where`; whether that was possible."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(where)], check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(where)], check=True)
