"""What the daemon that serves a directory tells commands of it."""

from __future__ import annotations

from pathlib import Path

from neff.protocol import Message
from neffd.commands import serving
from tests.harness import entries
from tests.unit.client.scripted import ScriptedDaemon
from tests.unit.client.scripted import serving as answering

LIVING, OLD, UNKNOWN, ELSEWHERE = map(str, map(entries.module, range(4)))


def test_an_old_lock_of_nobody_is_no_compile(tmp_path: Path) -> None:
    facts = tmp_path.stat()
    rows: list[Message] = [
        {"name": LIVING, "root": "/cache", "holder": "process"},
        {"name": OLD, "root": "/cache", "holder": "unknown", "abandoned": True},
        {"name": UNKNOWN, "root": "/cache", "holder": "unknown", "abandoned": False},
        {"name": ELSEWHERE, "root": "/other", "holder": "process"},
    ]
    cache_dir = {"path": "/cache", "device": facts.st_dev, "inode": facts.st_ino}
    status = {"status": {"cache_dirs": [cache_dir], "compiling": rows}}
    with ScriptedDaemon(tmp_path / "s", answering([], {"status": [status]})) as daemon:
        found = serving.compiling(tmp_path, str(daemon.path))
    assert found is not None
    assert found.names == {LIVING, UNKNOWN}
