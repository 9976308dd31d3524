"""After a power loss: the daemon's own start on what is left, in this process, and whether the guarantees held."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.publish import receipt
from neffd.publish.journal import Journal
from neffd.remotes import provenance
from neffd.store import aftercrash
from neffd.store.database import Database
from neffd.store.index import Index
from neffd.store.root import PART_SUFFIX, CacheRoot
from neffd.store.staging import clean_staging
from tests.faults import power_scene
from tests.faults.power_model import Choice, after_power_loss, build
from tests.faults.power_scene import FETCHED, OWN, Scene
from tests.harness import entries
from tests.harness.files import below


def lose_power(scene: Scene, cut: int, choice: Choice) -> None:
    """Put on the host's disk what is left when the power fails after `cut` events."""
    home = scene.recording.home
    shutil.rmtree(home)
    paths = build(after_power_loss(scene.recording, cut, choice))
    with contextlib.suppress(sqlite3.DatabaseError):  # what is wrong with it is the daemon's to find
        _follow_inodes(home / "state" / "neffd.db", paths)


def _follow_inodes(database: Path, paths: Mapping[int, Path]) -> None:
    """Files are others after a replay: give the database their numbers, and the files the times that it knows."""
    if not database.exists():
        return
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:

        def follow(inode: int, mtime_ns: int) -> int:
            if inode not in paths:
                return inode
            os.utime(paths[inode], ns=(mtime_ns, mtime_ns))
            return paths[inode].stat().st_ino

        for key, inode, mtime_ns in connection.execute("SELECT key, neff_inode, neff_mtime_ns FROM entries").fetchall():
            connection.execute("UPDATE entries SET neff_inode = ? WHERE key = ?", (follow(inode, mtime_ns), key))
        for lock, inode, mtime_ns in connection.execute("SELECT * FROM claims").fetchall():
            connection.execute("UPDATE claims SET inode = ? WHERE lock_path = ?", (follow(inode, mtime_ns), lock))
        for key, files in connection.execute("SELECT key, files FROM evictions").fetchall():
            facts = {file: [follow(*identity), identity[1]] for file, identity in json.loads(files).items()}
            connection.execute("UPDATE evictions SET files = ? WHERE key = ?", (json.dumps(facts), key))


@dataclass(frozen=True)
class Started:
    """What a start found and did."""

    root: CacheRoot
    index: Index
    journal: Journal
    database: Database


@contextlib.contextmanager
def started(scene: Scene) -> Iterator[Started]:
    """What `Service` does before it serves anybody, under a new boot id."""
    database = Database(scene.host.home / "state")
    try:
        assert database.damaged is None, "the database is whole"
        index = Index(database, boot="after")
        journal = Journal(database, index)
        root = CacheRoot(scene.host.cache)
        index.clear_claims()
        receipt.recover(journal, [root])
        clean_staging(root, journal.folders_blocking())
        names = [ModuleName(space, key) for space in root.namespaces() for key in root.module_keys(space)]
        aftercrash.verify(root, index, names)
        yield Started(root, index, journal, database)
    finally:
        database.close()


def check(scene: Scene, cut: int) -> None:
    """Assert every promise about what is on disk now, after power was lost after `cut` events."""
    marks = scene.recording.marks(cut)
    _check_fetched(scene.host.cache)  # by a trainer that is quicker than the daemon
    with started(scene) as now:
        on_remote = {name for name in OWN if _is_on_remote(scene.shared, name)}
        waiting = _waiting(now)
        assert len(on_remote) >= marks.count("journal-deleted"), "what was confirmed is there"
        assert len(on_remote | waiting) >= marks.count("journal-inserted"), "what was noted is not lost"
        for name in OWN:
            _check_own(now, name, is_safe=name in on_remote | waiting)
        _check_fetched(scene.host.cache)
        assert below(scene.host.cache, "*.lock") == []


def _is_on_remote(shared: Path, name: ModuleName) -> bool:
    """Raises AssertionError if a reader of the remote could take a part of it for the whole."""
    content = entries.read(shared, name)
    if "model.neff" not in content or ("model.done" not in content and name.namespace != entries.OLD_NAMESPACE):
        return False
    stated = provenance.parse(content["neffd.json"])
    assert stated is not None
    assert entries.shared(content) == power_scene.content(name)
    return True


def _waiting(now: Started) -> set[ModuleName]:
    """What the journal holds, of which all pinned files are whole."""
    query = "SELECT namespace, key, folder FROM outbox JOIN deliveries ON outbox_id = id WHERE parked_reason IS NULL"
    found = set()
    for namespace, key, folder in now.database.run_blocking(lambda connection: connection.execute(query).fetchall()):
        name = ModuleName(namespace, key)
        pinned = {file: Path(folder, file + PART_SUFFIX) for file in power_scene.content(name)}
        assert {file: path.read_bytes() for file, path in pinned.items()} == power_scene.content(name), name
        found.add(name)
    return found


def _check_own(now: Started, name: ModuleName, *, is_safe: bool) -> None:
    """What is not safe yet, and still ready after the start, is whole and will be taken."""
    looks = now.root.inspect(name)
    content = entries.read(now.root.path, name)
    if looks.neff is None or not now.root.is_ready(name) or is_safe:
        return
    known = now.index.known(now.root.path, name)
    assert known is None or not known.was_taken or not known.is_same(looks.neff), "the scan takes it"
    assert content == power_scene.content(name), "nothing torn is taken"


def _check_fetched(cache: Path) -> None:
    for name in FETCHED:
        content = entries.read(cache, name)
        if xla.state(name.namespace, {file: len(data) for file, data in content.items()}) is xla.State.READY:
            _assert_whole(name, content)


def _assert_whole(name: ModuleName, content: dict[str, bytes]) -> None:
    content.pop(xla.LOCK, None)
    expected = power_scene.content(name)
    if content.get("model.hlo_module.pb") != expected["model.hlo_module.pb"]:
        expected |= {"model.hlo_module.pb": content.get("model.hlo_module.pb", b"")}  # the trainer's own
    assert content == expected, name
