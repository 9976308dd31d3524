"""A fetched entry and a trainer at the same entry, through a real daemon."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import pytest

from neffd.layouts import xla
from neffd.remotes import provenance
from neffd.remotes.provenance import FileDigest, Provenance
from tests.harness import entries
from tests.harness.daemon import Daemon, RawClient
from tests.harness.files import left_in_staging
from tests.harness.waiting import eventually
from tests.integration.conftest import MakeDaemon

NAME = entries.module(1)


def _staged(host: Daemon) -> list[Path]:
    staging = Path(host.status()["cache_dirs"][0]["staging"])
    return left_in_staging(staging)


def _ask(host: Daemon) -> tuple[str, str]:
    answer = host.ask("prefetch", names=[str(NAME)], wait=True)[-2]
    return answer["state"], answer.get("reason", "")


@pytest.fixture
def host(make_daemon: MakeDaemon, shared: Path) -> Daemon:
    """A daemon whose trainer holds the lock of an entry that the remote has."""
    files = entries.files(NAME, seed=1)
    made = Provenance(
        {file: FileDigest(len(data), hashlib.sha256(data).hexdigest()) for file, data in files.items()}, compile_s=12.5
    )
    entries.write(shared, NAME, {**files, provenance.FILE_NAME: made.encode()})
    host = make_daemon("a")
    host.start()
    entries.write(host.cache, NAME, {"model.hlo_module.pb": b"its own", xla.LOCK: b""})
    assert _ask(host) == ("absent", "locked")
    assert entries.read(host.cache, NAME) == {"model.hlo_module.pb": b"its own", xla.LOCK: b""}
    assert _staged(host)
    return host


def test_it_goes_in_when_the_lock_goes(host: Daemon) -> None:
    (host.cache / NAME.namespace / NAME.key / xla.LOCK).unlink()
    expected = {**entries.files(NAME, seed=1), "model.hlo_module.pb": b"its own"}
    eventually(lambda: entries.read(host.cache, NAME) == expected, "the fetched entry")
    eventually(lambda: not _staged(host), "an empty staging folder")
    assert _ask(host)[0] == "ready"


def test_it_goes_in_for_the_next_holder_of_the_lock(host: Daemon) -> None:
    folder = host.cache / NAME.namespace / NAME.key
    (folder / "new.lock").touch()
    os.replace(folder / "new.lock", folder / xla.LOCK)  # noqa: PTH105, never without a lock, so nothing could go in before
    with contextlib.closing(RawClient(host.socket, {"root": str(host.cache)})) as client:
        asked = {"namespace": NAME.namespace, "keys": [NAME.key]}
        assert client.ask("resolve", **asked)[0]["reason"] == "locked"
        answer = next(message for message in client.ask("resolve", **asked, holding=[NAME.key]) if "source" in message)
    assert (answer["state"], answer["source"], answer["compile_s"]) == ("ready", "shared", 12.5)
    expected = {**entries.files(NAME, seed=1), "model.hlo_module.pb": b"its own", xla.LOCK: b""}
    assert entries.read(host.cache, NAME) == expected
    eventually(lambda: not _staged(host), "an empty staging folder")


def test_it_is_dropped_when_the_trainer_was_faster(host: Daemon) -> None:
    compiled = {**entries.files(NAME, seed=2), "model.hlo_module.pb": b"its own"}
    folder = entries.write(host.cache, NAME, {file: data for file, data in compiled.items() if file != "model.done"})
    (folder / "model.done").touch()
    before = (folder / "model.neff").stat()
    (folder / xla.LOCK).unlink()
    host.wait_until_pushed(1)
    eventually(lambda: not _staged(host), "an empty staging folder")
    assert entries.read(host.cache, NAME) == compiled
    assert (folder / "model.neff").stat().st_ino == before.st_ino
    assert (folder / "model.neff").stat().st_mtime_ns == before.st_mtime_ns


def test_a_linked_entry_is_left_alone(make_daemon: MakeDaemon, shared: Path, tmp_path: Path) -> None:
    entries.write(shared, NAME, entries.files(NAME))
    outside = tmp_path / "outside"
    outside.mkdir()
    with make_daemon("a") as host:
        (host.cache / NAME.namespace).mkdir()
        (host.cache / NAME.namespace / NAME.key).symlink_to(outside)
        assert _ask(host) == ("absent", "cannot-share")
        assert list(outside.iterdir()) == []
