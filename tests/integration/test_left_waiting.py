"""What waits for a remote is not deleted by a neighbour, forgotten by a new configuration, or closed in vain."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.harness import entries
from tests.harness.daemon import Daemon, python_path
from tests.harness.waiting import eventually
from tests.integration.conftest import MakeDaemon

NAME = entries.module(1)


def remote(name: str, folder: Path, mode: str = "read-write") -> dict[str, Any]:
    return {"name": name, "url": f"file://{folder}", "mode": mode, "poll_s": 0.5}


def test_a_second_daemon_on_the_same_cache_directory_is_refused(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    away = tmp_path / "away"
    with make_daemon("a", remotes=[remote("away", away)]) as first:
        content = entries.files(NAME)
        entries.write(first.cache, NAME, content)
        eventually(lambda: first.status()["remotes"][0]["journal"]["waiting"] == 1, "the entry in the journal")
        second = make_daemon("b", overrides={"cache_dirs": [str(first.cache)]})
        assert second.start_and_die() == 1
        assert "already-running" in second.log
        assert "Traceback" not in second.log, second.log
        assert str(first.cache) in second.log
        away.mkdir()
        assert first.ask("flush", timeout_s=20)[-1] == {"id": 1, "pending": 0, "parked": [], "done": True}
        assert entries.shared(entries.read(away, NAME)) == content


def test_rows_of_a_remote_that_is_gone_are_shown_and_kept(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    away = tmp_path / "away"
    host: Daemon = make_daemon("a", remotes=[remote("old-name", away)])
    host.start()
    entries.write(host.cache, NAME, entries.files(NAME))
    eventually(lambda: host.status()["remotes"][0]["journal"]["waiting"] == 1, "the entry in the journal")
    for changed in ([], [remote("new-name", away)], [remote("old-name", away, "read")]):
        assert host.stop() == 0
        host.config["remotes"] = changed
        host.start()
        status = host.status()
        assert status["orphaned"] == [{"remote": "old-name", "waiting": 1}]
        assert status["counters"]["neffd_journal_parked"]["remote=old-name"] == 1
        parked = host.ask("flush", timeout_s=5)[-1]["parked"]
        assert parked == [{"name": str(NAME), "remote": "old-name", "reason": "remote-not-configured"}]
    assert host.stop() == 0
    away.mkdir()
    host.config["remotes"] = [remote("old-name", away)]
    host.start()
    host.wait_until_pushed(1, "old-name")
    assert host.status()["orphaned"] == []
    assert host.status()["counters"]["neffd_journal_parked"] == {"remote=old-name": 0}


def test_a_flush_right_after_the_start_does_not_take_an_unread_journal_for_an_empty_one(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    away, pause = tmp_path / "away", tmp_path / "pause"
    host = make_daemon("a", remotes=[remote("away", away)])
    host.start()
    entries.write(host.cache, NAME, entries.files(NAME))
    eventually(lambda: host.status()["remotes"][0]["journal"]["waiting"] == 1, "the entry in the journal")
    assert host.stop() == 0
    away.mkdir()
    pause.touch()
    host.start_as(("-m", "tests.integration.late_journal"), PAUSE_FILE=str(pause))
    assert host.ask("flush", timeout_s=0.1)[-1]["pending"] == 1
    pause.unlink()
    assert host.ask("flush", timeout_s=20)[-1]["pending"] == 0
    assert entries.shared(entries.read(away, NAME)) == entries.files(NAME)
    assert host.stop() == 0


def test_a_flush_where_the_cache_directory_cannot_be_read_does_not_say_that_nothing_waits(
    make_daemon: MakeDaemon, shared: Path
) -> None:
    with make_daemon("a") as host:
        away = host.cache.with_name("away")
        host.cache.rename(away)
        host.cache.symlink_to(host.cache.name)  # which leads nowhere
        entries.write(away, NAME, entries.files(NAME))
        assert host.ask("flush", timeout_s=0.3)[-1]["pending"] == 1
        host.cache.unlink()
        away.rename(host.cache)
        assert host.ask("flush", timeout_s=15)[-1]["pending"] == 0
        assert entries.shared(entries.read(shared, NAME)) == entries.files(NAME)


def test_what_waits_for_a_remote_that_is_gone_for_good_can_be_given_up(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    away, there = tmp_path / "away", tmp_path / "there"
    host = make_daemon("a", remotes=[remote("gone", away), remote("there", there)])
    host.start()
    entries.write(host.cache, NAME, entries.files(NAME))
    eventually(lambda: [seen["journal"]["waiting"] for seen in host.status()["remotes"]] == [1, 1], "both to wait")
    assert "already-running" in forget(host, "gone", 1)
    assert host.stop() == 0
    assert "remote-configured" in forget(host, "gone", 1)
    del host.config["remotes"][0]
    assert "0 entries" in forget(host, "gon", 0)
    assert "1 entries wait for remote 'gone'" in forget(host, "gone", 0)
    assert "0 entries" in forget(host, "gone", 0)
    there.mkdir()
    host.start()
    assert host.status()["orphaned"] == []
    host.wait_until_pushed(1, "there")
    assert entries.shared(entries.read(there, NAME)) == entries.files(NAME)


def forget(host: Daemon, name: str, code: int) -> str:
    """What `neffd --forget-remote` says with the host's configuration."""
    config = host.home / "forget.yaml"
    config.write_text(yaml.safe_dump(host.config))
    command = [sys.executable, "-m", "neffd", "--config", str(config), "--forget-remote", name]
    environ = {**os.environ, "PYTHONPATH": python_path()}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=30, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_an_own_entry_is_not_given_up_for_a_copy_that_was_refused(make_daemon: MakeDaemon, shared: Path) -> None:
    content = entries.files(NAME, seed=1)
    with make_daemon("a") as host_a:
        entries.write(host_a.cache, NAME, content)
        host_a.wait_until_pushed(1)
    neff = shared / NAME.namespace / NAME.key / "model.neff"
    neff.write_bytes(neff.read_bytes()[:-1] + b"x")
    host_b: Daemon = make_daemon("b")
    with host_b:
        assert host_b.ask("prefetch", names=[str(NAME)], wait=True)[-2]["reason"] == "refused"
        own = entries.files(NAME, seed=2)
        entries.write(host_b.cache, NAME, own)
        parked = host_b.ask("flush", timeout_s=20)[-1]["parked"]
        assert parked == [{"name": str(NAME), "remote": "shared", "reason": "refused-copy-there"}]
        for file in neff.parent.iterdir():
            file.unlink()
        neff.parent.rmdir()
        assert host_b.stop() == 0
        host_b.start()
        assert host_b.ask("flush", timeout_s=20)[-1]["parked"] == []
        assert entries.shared(entries.read(shared, NAME)) == own
