"""Many hosts at one directory: publishers and readers at once, and publishers that die or hang half-way."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neff import keys
from neff.keys import ModuleName
from neffd.remotes import provenance
from neffd.remotes.base import EntryFailed, PublishResult
from neffd.remotes.directory import DirectoryRemote
from neffd.remotes.directory_publish import DirectoryPublisher
from neffd.store import fsops
from tests.harness import entries
from tests.harness.daemon import python_path
from tests.harness.listing import all_keys
from tests.unit.remotes.fetching import fetched
from tests.unit.remotes.publishing import digests, outgoing
from tests.unit.store.as_user import User, needs_root

NAME = entries.module(1)
STORED, ALREADY_THERE = PublishResult.STORED, PublishResult.ALREADY_THERE
_HOSTS, _ENTRIES = 4, 12
_LONG_AGO_S = 1_000

# One host: waits for the start, then publishes every key with bytes of its own.
_HOST = """
import asyncio, sys
from pathlib import Path
from neffd.remotes.base import EntryFailed
from neffd.remotes.directory import DirectoryRemote
from tests.harness import entries
from tests.unit.remotes.fetching import fetched
from tests.unit.remotes.publishing import outgoing

home, shared, seed, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
names = [entries.module(number) for number in range(count)]
batch = [outgoing(home / name.key, name, entries.files(name, seed=seed)) for name in names]

async def publish():
    remote = DirectoryRemote("shared", shared)
    for entry in batch:
        while isinstance((await remote.publish([entry]))[0], EntryFailed):
            await asyncio.sleep(0.01)
    await remote.close()

print("here", flush=True)
sys.stdin.readline()
asyncio.run(publish())
"""


@pytest.fixture
def hosts(tmp_path: Path, shared: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Hosts that wait for a line to start publishing."""
    environ = {**os.environ, "PYTHONPATH": python_path()}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _HOST, str(tmp_path / str(seed)), str(shared), str(seed), str(_ENTRIES)],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(_HOSTS)
    ]
    for host in running:
        assert host.stdout is not None
        assert host.stdout.readline() == "here\n"
    yield running
    for host in running:
        host.kill()
        host.communicate()


async def test_many_hosts_publish_the_same_keys(
    hosts: list[subprocess.Popen[str]], remote: DirectoryRemote, shared: Path, tmp_path: Path
) -> None:
    """Every entry is wholly one host's, at the end and whenever a reader finds it."""
    for host in hosts:
        assert host.stdin is not None
        host.stdin.write("go\n")
        host.stdin.flush()
    looks = 0
    while any(host.poll() is None for host in hosts):
        for key in await all_keys(remote, NAME.namespace):
            await _fetch(remote, ModuleName(NAME.namespace, key), tmp_path / f"look {looks}")
            looks += 1
        await asyncio.sleep(0)
    assert [host.returncode for host in hosts] == [0] * _HOSTS
    for number in range(_ENTRIES):
        name = entries.module(number)
        content = entries.read(shared, name)
        assert entries.shared(content) in [entries.files(name, seed=seed) for seed in range(_HOSTS)]
        stated = provenance.parse(content["neffd.json"])
        assert stated is not None
        assert stated.files == digests(entries.shared(content))
    assert list((shared / ".neffd-staging").iterdir()) == []


async def test_no_key_before_its_mark(
    remote: DirectoryRemote, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader looks between the rename and the mark."""
    seen: list[object] = []
    rename = fsops.rename_exclusive

    def look_after(source: Path, target: Path) -> None:
        rename(source, target)
        if target.name == NAME.key:
            reader = DirectoryRemote("reader", shared)
            seen.append(asyncio.run(all_keys(reader, NAME.namespace)))
            seen.append(asyncio.run(reader.describe(NAME)))
            asyncio.run(reader.close())

    monkeypatch.setattr(fsops, "rename_exclusive", look_after)
    assert await remote.publish([outgoing(tmp_path / "pin", NAME, entries.files(NAME))]) == [STORED]
    assert seen == [frozenset(), None]
    assert await all_keys(remote, NAME.namespace) == {NAME.key}


@needs_root
@pytest.mark.parametrize("is_ready", [True, False])
def test_an_entry_in_another_users_folder_keeps_no_other_back(is_ready: bool) -> None:
    """It came by a copy of somebody's, say; where it is whole, it is there for everybody."""
    names = [entries.module(number) for number in range(3)]
    theirs = entries.files(names[0])
    if not is_ready:
        del theirs[keys.ready_mark(entries.NAMESPACE)]
    with tempfile.TemporaryDirectory() as place:
        shared = Path(place)
        entries.write(shared, names[0], theirs)
        batch = [outgoing(shared / f"pins-{name.key}", name, entries.files(name)) for name in names]
        for folder in (shared, shared / entries.NAMESPACE):
            folder.chmod(0o777)
        for folder in (entry.directory for entry in batch):
            folder.chmod(0o755)

        def publish() -> list[str]:
            outcomes = DirectoryPublisher(shared).publish(batch, {})
            return [one.reason if isinstance(one, EntryFailed) else one.value for one in outcomes]

        of_theirs = ALREADY_THERE.value if is_ready else "no-write-access"
        assert User(uid=4321, gid=4321).run(publish) == [of_theirs, STORED.value, STORED.value]


@pytest.mark.parametrize("namespace", [entries.NAMESPACE, entries.OLD_NAMESPACE])
async def test_a_publisher_died_before_the_mark(
    remote: DirectoryRemote, shared: Path, tmp_path: Path, namespace: str
) -> None:
    """The same bytes complete it where the NEFF is there; others wait until it is surely abandoned."""
    name = entries.module(1, namespace)
    first, other = entries.files(name, seed=1), entries.files(name, seed=2)
    folder = _leave_half(shared, name, first)
    assert await remote.publish([outgoing(tmp_path / "other", name, other)]) == [EntryFailed("being-written", False)]
    if namespace == entries.NAMESPACE:
        assert await remote.publish([outgoing(tmp_path / "same", name, first)]) == [STORED]
        assert entries.shared(entries.read(shared, name)) == first
        assert await remote.publish([outgoing(tmp_path / "other", name, other)]) == [ALREADY_THERE]
        shutil.rmtree(folder)
        _leave_half(shared, name, first)
    _make_old(folder)
    assert await remote.publish([outgoing(tmp_path / "other", name, other)]) == [STORED]
    assert entries.shared(entries.read(shared, name)) == other
    assert await _fetch(remote, name, tmp_path / "down") == other


async def test_a_publisher_that_hangs_before_the_mark_and_comes_back(
    remote: DirectoryRemote, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entry was taken for abandoned meanwhile: what it still has to write does not land in the new one."""
    name = entries.module(1, entries.OLD_NAMESPACE)
    other = outgoing(tmp_path / "other", name, entries.files(name, seed=2))

    def replace_meanwhile() -> None:
        _make_old(shared / name.namespace / name.key)
        second = DirectoryRemote("second", shared)
        assert asyncio.run(second.publish([other])) == [STORED]
        asyncio.run(second.close())

    _after_rename_once(monkeypatch, name, replace_meanwhile)
    await _publish_or_fail(remote, tmp_path / "pin", name)
    assert entries.shared(entries.read(shared, name)) == entries.files(name, seed=2)
    assert await _fetch(remote, name, tmp_path / "down") == entries.files(name, seed=2)


async def test_a_clock_that_is_far_ahead_abandons_nobody(
    remote: DirectoryRemote, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _leave_half(shared, NAME, entries.files(NAME, seed=1))
    monkeypatch.setattr("time.time", lambda: 2e9)
    other = outgoing(tmp_path / "other", NAME, entries.files(NAME, seed=2))
    assert await remote.publish([other]) == [EntryFailed("being-written", False)]


@needs_root
@pytest.mark.parametrize("mode", [0o2775, 0o1777])
def test_hosts_with_other_users(mode: int) -> None:
    """What one host's daemon makes at the top, another's can write in."""
    place = Path(tempfile.mkdtemp())
    try:
        place.chmod(0o755)
        shared = place / "shared"
        shared.mkdir()
        os.chown(shared, 0, 60_000)
        shared.chmod(mode)
        for number in range(2):
            pinned = place / str(number)
            name = entries.module(number)
            entry = outgoing(pinned, name, entries.files(name))
            host = User(60_001 + number, 60_001 + number, groups=(60_000,), umask=0o022)

            def publish(entry: object = entry) -> list[str]:
                remote = DirectoryRemote("shared", shared)
                outcomes = asyncio.run(remote.publish([entry]))  # type: ignore[list-item]
                return [str(outcome) for outcome in outcomes]

            assert host.run(publish) == [str(STORED)]
    finally:
        shutil.rmtree(place)


def _leave_half(shared: Path, name: ModuleName, content: dict[str, bytes]) -> Path:
    mark = keys.ready_mark(name.namespace)
    folder = entries.write(shared, name, {file: data for file, data in content.items() if file != mark})
    (folder / "neffd.json").write_bytes(provenance.Provenance(digests(content)).encode())
    return folder


def _make_old(folder: Path) -> None:
    long_ago = folder.stat().st_mtime - _LONG_AGO_S
    os.utime(folder, (long_ago, long_ago))


def _after_rename_once(monkeypatch: pytest.MonkeyPatch, name: ModuleName, work: Callable[[], None]) -> None:
    rename = fsops.rename_exclusive
    todo = [work]

    def rename_then_work(source: Path, target: Path) -> None:
        rename(source, target)
        if target.name == name.key and todo:
            todo.pop()()

    monkeypatch.setattr(fsops, "rename_exclusive", rename_then_work)


async def _publish_or_fail(remote: DirectoryRemote, pinned: Path, name: ModuleName) -> None:
    """The outcome is open: the folder that it made is being deleted."""
    await asyncio.gather(remote.publish([outgoing(pinned, name, entries.files(name, seed=1))]), return_exceptions=True)


async def _fetch(remote: DirectoryRemote, name: ModuleName, folder: Path) -> dict[str, bytes]:
    content = await fetched(remote, name, folder)
    assert content is not None
    return content
