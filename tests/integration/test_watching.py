"""A real daemon finds what is made, and costs nothing while nothing happens."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.harness.waiting import eventually
from tests.integration.conftest import MakeDaemon


def test_idle_costs_nothing(make_daemon: MakeDaemon) -> None:
    with make_daemon("a", remotes=[]) as host:
        for number in range(50):
            name = entries.module(number)
            entries.write(host.cache, name, entries.files(name, seed=number))
        eventually(lambda: host.status()["cache_dirs"][0]["entries"]["ready"] == 50, "all are seen")
        assert host.ask("flush", timeout_s=20)[-1]["pending"] == 0
        before = _used_s(host)
        until = time.monotonic() + 1.5
        while time.monotonic() < until:  # trainers that read what is ready
            entries.read(host.cache, entries.module(0))
            time.sleep(0.05)
        assert _used_s(host) - before <= 0.05


def test_ready_entries_are_found_within_a_second_whatever_happened_before(make_daemon: MakeDaemon) -> None:
    with make_daemon("a", overrides={"scan_s": 3600}) as host:
        for number in range(3):
            name = entries.module(number)
            entries.write(host.cache, name, entries.files(name))
            eventually(lambda: host.status()["cache_dirs"][0]["entries"]["ready"] == 1, "the entry", 5)
            host.wait_until_pushed(number + 1)
            shutil.rmtree(host.cache)
            eventually(lambda: host.status()["cache_dirs"][0]["entries"]["ready"] == 0, "the end of all entries", 5)
        assert "Traceback" not in host.log


def test_what_waits_goes_on_when_its_file_system_is_there_again(make_daemon: MakeDaemon, shared: Path) -> None:
    """The cache directory was away, with the staging folder beside it, when it was to be sent."""
    with make_daemon("a", overrides={"upload": {"quiet_s": 3600, "max_delay_s": 3600}}) as host:
        name = entries.module(1)
        entries.write(host.cache, name, entries.files(name))
        eventually(lambda: _journal(host)["waiting"] == 1, "it waits")
        folders = [host.cache, Path(host.status()["cache_dirs"][0]["staging"])]
        away = [folder.with_name(f"away-{folder.name}") for folder in folders]
        shutil.copytree(folders[0], away[0], copy_function=os.link)
        folders[1].rename(away[1])
        shutil.rmtree(folders[0])  # which, unlike being moved away, is noticed at once
        eventually(lambda: host.status()["cache_dirs"][0]["problems"], "it is noticed")
        assert [kept["reason"] for kept in host.ask("flush", timeout_s=20)[-1]["parked"]] == ["files-lost"]
        for folder, elsewhere in reversed(list(zip(folders, away, strict=True))):
            shutil.rmtree(folder, ignore_errors=True)
            elsewhere.rename(folder)
        eventually(lambda: _journal(host)["parked"] == [], "it is tried again")
        assert host.ask("flush", timeout_s=20)[-1] == {"id": 1, "pending": 0, "parked": [], "done": True}
        assert entries.shared(entries.read(shared, name)) == entries.files(name)


def _journal(host: Daemon) -> dict[str, Any]:
    journal: dict[str, Any] = host.status()["remotes"][0]["journal"]
    return journal


def _used_s(host: Daemon) -> float:
    """CPU seconds that the daemon has used."""
    fields = Path(f"/proc/{host.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
