"""What is sent before an end, and what is left for the next start."""

from __future__ import annotations

from pathlib import Path

from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.harness.waiting import eventually
from tests.integration.conftest import MakeDaemon

# Nothing goes by itself while the daemon runs.
PATIENT = {"upload": {"quiet_s": 3600, "max_delay_s": 3600}}


def fill_journal(host: Daemon, count: int) -> None:
    for number in range(count):
        entries.write(host.cache, entries.module(number), entries.files(entries.module(number), number))
    eventually(lambda: host.status()["remotes"][0]["journal"]["waiting"] == count, "the entries in the journal")


def test_what_can_be_sent_is_sent_before_the_end(make_daemon: MakeDaemon, shared: Path) -> None:
    with make_daemon("a", overrides=PATIENT) as host:
        fill_journal(host, 3)
        assert host.stop() == 0
        assert "stopped; 0 deliveries wait" in host.log
        assert "leaving threads behind" not in host.log, "it ends as Python does, and waits for nothing"
        assert all("model.done" in entries.read(shared, entries.module(number)) for number in range(3))


def test_what_cannot_be_sent_is_counted_and_kept(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    away = tmp_path / "away"
    remotes = [{"name": "shared", "url": f"file://{away}", "mode": "read-write", "poll_s": 0.5}]
    with make_daemon("a", remotes=remotes, overrides=PATIENT) as host:
        fill_journal(host, 2)
        assert host.stop() == 0
        assert "stopped; 2 deliveries wait in the journal" in host.log
        away.mkdir()
        host.start()
        assert host.ask("flush", timeout_s=20)[-1]["pending"] == 0
        assert len(list(away.rglob("model.done"))) == 2
