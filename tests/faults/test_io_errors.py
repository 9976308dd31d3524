"""The disk fails at a point, in every way it can: a reason, and then the work goes on where it was."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from neff.keys import ModuleName
from neffd import points
from neffd.layouts import xla
from neffd.remotes import provenance
from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.harness.files import below, left_in_staging
from tests.harness.waiting import eventually

_FAILING = ("-m", "tests.faults.failing_daemon")
_ERRORS = ("ENOSPC", "EIO", "EACCES", "EMFILE", "EROFS")
_TAKE = ("entry-pinned",)
_CONFIRM = {
    "journal-inserted": "EIO",
    "before-confirmation": "ENOSPC",
    "after-confirmation": "EROFS",
    "journal-deleted": "EIO",
}
_FETCH_WHOLE = ("entry-staged", "index-written", "entry-renamed")
_FETCH_INTO_FOLDER = ("entry-staged", "index-written", "entry-renamed", "before-ready-mark", "after-ready-mark")
_EVICT = ("eviction-noted", "eviction-unmarked", "eviction-emptied")
NAME = entries.module(1)


def test_every_point_has_its_failure() -> None:
    covered = {*_TAKE, *_CONFIRM, *_FETCH_WHOLE, *_FETCH_INTO_FOLDER, *_EVICT, "migrating"}
    assert covered == set(points.NAMES)


@pytest.mark.parametrize("error", _ERRORS)
def test_while_taking_an_entry(host: Daemon, shared: Path, error: str) -> None:
    host.start_as(_FAILING, FAIL_AT=f"entry-pinned:{error}")
    content = entries.files(NAME, wrapped=True)
    entries.write(host.cache, NAME, content)
    host.wait_until_pushed(1)
    assert entries.shared(entries.read(shared, NAME)) == content
    assert entries.read(host.cache, NAME) == content
    eventually(lambda: host.status()["cache_dirs"][0]["problems"] == [], "over")
    _assert_clean(host)


@pytest.mark.parametrize("point", _CONFIRM)
def test_while_confirming_an_entry(host: Daemon, shared: Path, point: str) -> None:
    """Once: on the remote it is one entry, whatever we noted of it."""
    host.start_as(_FAILING, FAIL_AT=f"{point}:{_CONFIRM[point]}")
    content = entries.files(NAME, wrapped=True)
    entries.write(host.cache, NAME, content)
    host.wait_until_pushed(1)
    assert entries.shared(entries.read(shared, NAME)) == content
    assert entries.read(host.cache, NAME) == content
    eventually(host.journal_is_empty, "confirmed")
    eventually(lambda: host.status()["remotes"][0]["reason"] is None, "over")
    if point == "journal-deleted":  # its pinned files are left, for the next start
        assert host.stop() == 0
        host.start_as(("-m", "neffd"))
    _assert_clean(host)


def test_while_migrating(host: Daemon, shared: Path) -> None:
    """The daemon does not start, says why, and does at the next try."""
    host._command, host.environ["FAIL_AT"] = _FAILING, "migrating:ENOSPC"
    assert host.start_and_die() == 1
    assert "cannot be opened" in host.log
    assert "hint:" in host.log
    host.start_as(("-m", "neffd"))
    content = entries.files(NAME)
    entries.write(host.cache, NAME, content)
    host.wait_until_pushed(1)
    assert entries.shared(entries.read(shared, NAME)) == content
    _assert_clean(host)


@pytest.mark.parametrize("point", _FETCH_WHOLE)
def test_while_fetching_a_whole_entry(host: Daemon, shared: Path, point: str) -> None:
    content = _publish_by_hand(shared)
    host.start_as(_FAILING, FAIL_AT=f"{point}:{','.join(_ERRORS)}")
    for _ in range(len(_ERRORS) + 1):
        state = _fetch(host)
        assert entries.read(host.cache, NAME) in ({}, content)
        if state == "ready":
            break
    assert state == "ready"
    assert entries.read(host.cache, NAME) == content
    _assert_clean(host)


@pytest.mark.parametrize("point", _FETCH_INTO_FOLDER)
@pytest.mark.parametrize("namespace", [entries.NAMESPACE, entries.OLD_NAMESPACE])
def test_while_fetching_into_a_folder(host: Daemon, shared: Path, point: str, namespace: str) -> None:
    name = entries.module(1, namespace)
    content = _publish_by_hand(shared, name)
    host.start_as(_FAILING, FAIL_AT=f"{point}:{','.join(_ERRORS)}")
    folder = entries.write(host.cache, name, {"model.hlo_module.pb": b"traced here"})
    for _ in range(len(_ERRORS) + 1):
        state = _fetch(host, name)
        left = entries.read(host.cache, name)
        if xla.state(namespace, {file: len(data) for file, data in left.items()}) is xla.State.READY:
            assert left["model.neff"] == content["model.neff"]
        assert not list(folder.glob("*.lock"))
        if state == "ready":
            break
    assert state == "ready"
    assert entries.read(host.cache, name) == {**content, "model.hlo_module.pb": b"traced here"}
    _assert_clean(host)


@pytest.mark.parametrize("point", _EVICT)
def test_while_evicting(host: Daemon, shared: Path, point: str) -> None:
    content = _publish_by_hand(shared)
    entries.write(host.cache, NAME, content)
    host.config |= {"scan_s": 0.5, "store": {"max_entries": 1, "keep_used_s": 0.1}}
    host.start_as(_FAILING, FAIL_AT=f"{point}:{','.join(_ERRORS)}")
    eventually(lambda: list(host.cache.glob("*/MODULE_*")) == [], "it goes", 40)
    assert host.stop() == 0
    del host.config["store"]
    host.start()
    assert _fetch(host) == "ready"
    assert entries.read(host.cache, NAME) == content
    _assert_clean(host)


def _fetch(host: Daemon, name: ModuleName = NAME) -> str:
    answers = host.ask("prefetch", names=[str(name)], wait=True)
    return str([answer["state"] for answer in answers if "state" in answer][-1])


def _publish_by_hand(shared: Path, name: ModuleName = NAME) -> dict[str, bytes]:
    content = entries.files(name, seed=3, wrapped=True)
    folder = entries.write(shared, name, content)
    digests = {
        file: provenance.FileDigest(len(data), hashlib.sha256(data).hexdigest()) for file, data in content.items()
    }
    (folder / provenance.FILE_NAME).write_bytes(provenance.Provenance(digests).encode())
    return content


def _assert_clean(host: Daemon) -> None:
    """No half-made thing of ours, and no word of a crash."""
    status = host.status()
    assert status["state"] == "running"
    staging = Path(status["cache_dirs"][0]["staging"])

    eventually(lambda: left_in_staging(staging) == [], "what tries the disk goes as well")
    assert below(host.cache, "*.lock") == []
    assert "Traceback" not in host.log
