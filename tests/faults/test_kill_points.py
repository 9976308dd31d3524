"""kill -9 at every named point, then a restart: nothing lost, torn, doubled or left in the way."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neff.keys import ModuleName
from neffd import points
from neffd.layouts import xla
from neffd.remotes import provenance
from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.harness.files import below, left_in_staging
from tests.harness.waiting import eventually

_DYING = ("-m", "tests.faults.dying_daemon")
_PUBLISH = ("entry-pinned", "journal-inserted", "before-confirmation", "after-confirmation", "journal-deleted")
_FETCH_WHOLE = ("entry-staged", "index-written", "entry-renamed")
# A folder with the graph in it already: file by file under stock's lock.
_FETCH_INTO_FOLDER = (
    "entry-staged",
    "index-written",
    "entry-renamed:1",
    "before-ready-mark",
    "after-ready-mark",
)


_EVICT = ("eviction-noted", "eviction-unmarked", "eviction-emptied")


def test_every_point_has_its_kill() -> None:
    covered = {spec.partition(":")[0] for spec in (*_PUBLISH, *_FETCH_WHOLE, *_FETCH_INTO_FOLDER, *_EVICT, "migrating")}
    assert covered == set(points.NAMES)


@pytest.fixture
def host(tmp_path: Path, shared: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "host", _remotes(shared))
    yield daemon
    daemon.kill()


@pytest.mark.parametrize("point", _PUBLISH)
@pytest.mark.parametrize("namespace", [entries.NAMESPACE, entries.OLD_NAMESPACE])
def test_killed_while_publishing(host: Daemon, shared: Path, point: str, namespace: str) -> None:
    name = entries.module(1, namespace)
    content = entries.files(name, wrapped=True)
    _start_dying(host, point)
    entries.write(host.cache, name, content)
    assert host.wait() == -9
    _start_again(host)
    assert host.ask("flush", timeout_s=20)[-1] == {"id": 1, "pending": 0, "parked": [], "done": True}
    assert entries.shared(entries.read(shared, name)) == content
    assert entries.read(host.cache, name) == content
    _assert_nothing_left(host, shared)


@pytest.mark.parametrize("point", _FETCH_WHOLE)
def test_killed_while_fetching_whole(host: Daemon, shared: Path, point: str) -> None:
    name = entries.module(1)
    content = _publish_by_hand(shared, name)
    _start_dying(host, point)
    _ask_and_see_it_die(host, name)
    assert entries.read(host.cache, name) in ({}, content)
    _start_again(host)
    assert _fetch(host, name) == "ready"
    assert entries.read(host.cache, name) == content
    _assert_nothing_left(host, shared)


@pytest.mark.parametrize("point", _FETCH_INTO_FOLDER)
@pytest.mark.parametrize("namespace", [entries.NAMESPACE, entries.OLD_NAMESPACE])
def test_killed_while_fetching_into_a_folder(host: Daemon, shared: Path, point: str, namespace: str) -> None:
    name = entries.module(1, namespace)
    content = _publish_by_hand(shared, name)
    _start_dying(host, point)
    pending = entries.write(host.cache, name, {"model.hlo_module.pb": b"traced here"})
    _ask_and_see_it_die(host, name)
    left = entries.read(host.cache, name)
    if xla.state(namespace, {file: len(data) for file, data in left.items()}) is xla.State.READY:
        assert left["model.neff"] == content["model.neff"]
    _start_again(host)
    assert not list(pending.glob("*.lock"))
    assert _fetch(host, name) == "ready"
    assert entries.read(host.cache, name) == {**content, "model.hlo_module.pb": b"traced here"}
    _assert_nothing_left(host, shared)


@pytest.mark.parametrize(
    ("namespace", "point"),
    # At the first point nothing has happened in the folder yet: the layout makes no difference.
    [*((entries.NAMESPACE, point) for point in _EVICT), *((entries.OLD_NAMESPACE, point) for point in _EVICT[1:])],
)
def test_killed_while_evicting(host: Daemon, shared: Path, namespace: str, point: str) -> None:
    names = [entries.module(number, namespace) for number in (1, 2)]
    contents = {name: _publish_by_hand(shared, name) for name in names}
    host.config |= {"scan_s": 0.5, "store": {"max_entries": 1, "keep_used_s": 0.1}}
    for name in names:
        entries.write(host.cache, name, contents[name])
    host.start_as(_DYING, DIE_AT=point)
    assert host.wait(20) == -9
    for name in names:
        left = entries.read(host.cache, name)
        if xla.state(namespace, {file: len(data) for file, data in left.items()}) is xla.State.READY:
            assert left == contents[name]
    _start_again(host)
    eventually(lambda: list(host.cache.glob(f"{namespace}/*")) == [], "what was begun is finished")
    host.stop()
    del host.config["store"]
    _start_again(host)
    for name in names:
        assert _fetch(host, name) == "ready"
        assert entries.read(host.cache, name) == contents[name]
    _assert_nothing_left(host, shared)


def test_killed_while_migrating(host: Daemon, shared: Path) -> None:
    name = entries.module(1)
    host._command, host.environ["DIE_AT"] = _DYING, "migrating:2"
    assert host.start_and_die() == -9
    _start_again(host)
    content = entries.files(name)
    entries.write(host.cache, name, content)
    assert host.ask("flush", timeout_s=20)[-1]["pending"] == 0
    assert entries.shared(entries.read(shared, name)) == content


@pytest.mark.timeout(180)  # 27 starts: a busy machine takes a while for them
def test_25_random_kills(tmp_path: Path, shared: Path) -> None:
    """Two hosts, entries all the time, either daemon killed at random moments; the seed is in the output."""
    seed = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(10**6)))
    print(f"KILL_SEED={seed}")
    chance = random.Random(seed)
    quick = {"upload": {"quiet_s": 0.1, "settle_s": 0.1}}
    hosts = [Daemon(tmp_path / name, _remotes(shared), quick) for name in ("a", "b")]
    made: dict[ModuleName, dict[str, bytes]] = {}
    try:
        for host in hosts:
            host.start()
        for _ in range(25):
            host = chance.choice(hosts)
            for _ in range(chance.randrange(1, 4)):
                name = entries.module(len(made))
                made[name] = entries.files(name, seed=len(made), wrapped=chance.random() < 0.3)
                entries.write(host.cache, name, made[name])
            chance.choice(hosts).ask("prefetch", names=[str(chance.choice(list(made)))], wait=False)
            time.sleep(chance.random() * 0.6)  # until about the entries' arrival; the moment is the point of the test
            victim = chance.choice(hosts)
            victim.kill()
            victim.start()
        for host in hosts:
            assert host.ask("flush", timeout_s=40)[-1]["pending"] == 0
        for name, content in made.items():
            assert entries.shared(entries.read(shared, name)) == content, f"{name} on the remote (seed {seed})"
            for host in hosts:
                assert _fetch(host, name) == "ready"
                assert entries.read(host.cache, name) == content, f"{name} on {host.home.name} (seed {seed})"
        for host in hosts:
            _assert_nothing_left(host, shared)
    finally:
        for host in hosts:
            host.kill()


def _remotes(shared: Path) -> list[dict[str, Any]]:
    return [{"name": "shared", "url": f"file://{shared}", "mode": "read-write", "poll_s": 0.5}]


def _start_dying(host: Daemon, point: str) -> None:
    host.start_as(_DYING, DIE_AT=point)


def _start_again(host: Daemon) -> None:
    host.start_as(("-m", "neffd"))


def _fetch(host: Daemon, name: ModuleName) -> str:
    answers = host.ask("prefetch", names=[str(name)], wait=True)
    return str([answer["state"] for answer in answers if "state" in answer][-1])


def _ask_and_see_it_die(host: Daemon, name: ModuleName) -> None:
    with pytest.raises((EOFError, ConnectionError)):
        _fetch(host, name)
    assert host.wait() == -9


def _publish_by_hand(shared: Path, name: ModuleName) -> dict[str, bytes]:
    content = entries.files(name, seed=3, wrapped=True)
    folder = entries.write(shared, name, content)
    digests = {
        file: provenance.FileDigest(len(data), hashlib.sha256(data).hexdigest()) for file, data in content.items()
    }
    (folder / provenance.FILE_NAME).write_bytes(provenance.Provenance(digests).encode())
    return content


def _assert_nothing_left(host: Daemon, shared: Path) -> None:
    """No half-made thing of ours: not in the staging folder, not on the remote, no lock in the cache directory."""
    staging = Path(host.status()["cache_dirs"][0]["staging"])
    assert left_in_staging(staging) == []
    assert below(host.cache, "*.lock") == []
    for module in shared.glob("neuronxcc-*/MODULE_*"):
        name = ModuleName(module.parent.name, module.name)
        assert set(entries.read(shared, name)) >= {"model.neff", "neffd.json"}
