"""A damaged, newer, half migrated or badly placed database: kept, carried over, repeated, refused."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from neff.keys import ModuleName
from neffd.errors import NeffdError
from neffd.publish import receipt
from neffd.publish.journal import Journal, Taken
from neffd.remotes.provenance import FileDigest, Provenance
from neffd.store import damage, database, filesystem
from neffd.store.database import Database
from neffd.store.index import EXISTING, LOCAL, Evicted, Index, from_remote
from neffd.store.root import CacheRoot, FileFacts
from tests.harness import entries
from tests.harness.daemon import python_path

_DIE_MIGRATING = """
import os, signal, sys
from pathlib import Path
from neffd import points
from neffd.store import database

left = [int(sys.argv[2])]

def die(name):
    if name == "migrating":
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

points.hook = die
database.Database(Path(sys.argv[1]))
"""
_MANY = 3_000


@contextlib.contextmanager
def opened(state_dir: Path) -> Iterator[Database]:
    made = Database(state_dir)
    try:
        yield made
    finally:
        made.close()


def fill(state_dir: Path) -> None:
    """A file of many pages: entries of two origins."""
    with opened(state_dir) as made:
        index = Index(made)
        facts = FileFacts(1, 2, 3, 0, 0)

        def write(connection: sqlite3.Connection) -> None:
            for number in range(_MANY):
                origin = LOCAL if number % 2 else from_remote("team")
                index.insert(connection, Path("/cache"), entries.module(number), origin, facts, {})

        made.run_blocking(write)
        index.baseline_blocking(Path("/cache"), [])


def known(made: Database) -> dict[ModuleName, str]:
    names = [entries.module(number) for number in range(_MANY)]
    return {name: entry.origin for name, entry in Index(made).known_of(Path("/cache"), names).items()}


def break_page(path: Path, where: float, length: int = 4096) -> None:
    """Overwrite a part of the file in its middle."""
    with path.open("r+b") as file:
        file.seek(int(path.stat().st_size * where))
        file.write(b"\xa5" * length)


def test_what_is_no_database_is_kept_aside(tmp_path: Path) -> None:
    (tmp_path / "neffd.db").write_bytes(b"something else " * 100)
    with opened(tmp_path) as made:
        assert made.damaged is not None
        assert made.damaged.read_bytes() == b"something else " * 100
        assert known(made) == {}
    with opened(tmp_path) as made:
        assert made.damaged is None, "once"


def test_what_can_be_read_of_a_damaged_file_is_carried_over(tmp_path: Path) -> None:
    fill(tmp_path)
    before = (tmp_path / "neffd.db").read_bytes()
    break_page(tmp_path / "neffd.db", 0.5)
    with opened(tmp_path) as made:
        assert made.damaged is not None
        assert made.damaged.name.startswith("neffd.db.damaged-")
        assert len(made.damaged.read_bytes()) == len(before)
        found = known(made)
        assert found, "the part before the damage"
        assert all(origin == (LOCAL if _number(name) % 2 else "remote:team") for name, origin in found.items())
        root = Path("/cache")
        assert not Index(made).has_baseline(root), "where the others came from nobody knows"
        here = FileFacts(1, 2, 3, 0, 0)
        Index(made).baseline_blocking(root, [(entries.module(number), here) for number in range(_MANY)])
        later = known(made)
        assert len(later) == _MANY
        assert {name: later[name] for name in found} == found, "what is known stays as it is"
        assert {origin for name, origin in later.items() if name not in found} == {EXISTING}


def _number(name: ModuleName) -> int:
    return int(name.key.removeprefix("MODULE_").partition("+")[0]) - 10**18


@settings(max_examples=25, deadline=None)
@example(0.12082740851291997, 1)  # in the schema: SQLite quotes it in its message
@given(st.floats(0, 0.98), st.integers(1, 20_000))
def test_wherever_the_damage_is_the_daemon_starts(
    tmp_path_factory: pytest.TempPathFactory, where: float, length: int
) -> None:
    state_dir = tmp_path_factory.mktemp("state")
    (state_dir / "neffd.db").write_bytes(_filled(tmp_path_factory))
    break_page(state_dir / "neffd.db", where, length)
    for _ in range(2):
        with opened(state_dir) as made:
            made.check_blocking()
            with contextlib.suppress(sqlite3.DatabaseError):  # text that is none: found when it is read
                assert len(known(made)) <= _MANY
                assert made.run_blocking(lambda connection: damage.check(connection, None))
                return
    raise AssertionError("not healed by the second start")


_FILLED: list[bytes] = []


def _filled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    if not _FILLED:
        state_dir = tmp_path_factory.mktemp("filled")
        fill(state_dir)
        _FILLED.append((state_dir / "neffd.db").read_bytes())
    return _FILLED[0]


def test_damage_that_shows_later_is_told_and_looked_for_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_CHECK_S", -1.0)
    fill(tmp_path)
    break_page(tmp_path / "neffd.db", 0.5)
    told: list[BaseException] = []
    made = Database(tmp_path)
    made.on_damage = told.append
    assert made.damaged is None, "no time to look through it"
    made.check_blocking()
    made.close()
    assert [damage.is_damage(error) for error in told] == [True]
    with opened(tmp_path) as made:
        assert made.damaged is not None, "this time all of it"
    with opened(tmp_path) as made:
        assert made.damaged is None


def test_a_look_that_takes_too_long_is_cut_short_and_nothing_after_it(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "large.db")) as large:
        large.execute("CREATE TABLE rows (text TEXT)")
        large.executemany("INSERT INTO rows VALUES (?)", (("x" * 100,) for _ in range(100_000)))
        large.commit()
        outcomes = {damage.check(large, 0.001) for _ in range(20)}
        assert False in outcomes
        assert large.execute("SELECT count(*) FROM rows").fetchone() == (100_000,)
        assert damage.check(large, None)


def test_a_work_that_meets_damage_is_told_too(tmp_path: Path) -> None:
    told: list[BaseException] = []
    made = Database(tmp_path)
    made.on_damage = told.append

    def meet(connection: sqlite3.Connection) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    with pytest.raises(sqlite3.DatabaseError):
        made.run_blocking(meet)
    made.close()
    assert len(told) == 1
    assert (tmp_path / "neffd.db.suspect").exists()
    with opened(tmp_path) as made:
        assert made.damaged is None, "it was a false alarm"
    assert not (tmp_path / "neffd.db.suspect").exists()


_NOT_WHAT_WAS_WRITTEN = [
    '{"model.neff": [',
    "",
    "[" * 100_000,
    "[]",
    '{"model.neff": [1]}',
    '{"model.neff": ["", {}]}',
    b"\xff",
    1.5,
]


@pytest.mark.parametrize("text", _NOT_WHAT_WAS_WRITTEN)
@pytest.mark.parametrize("table", ["entries", "evictions"])
def test_a_text_that_only_its_reader_finds_damaged_is_healed_by_the_next_start(
    tmp_path: Path, table: str, text: object
) -> None:
    root, names, told = Path("/cache"), list(map(entries.module, range(3))), list[BaseException]()
    with opened(tmp_path) as made:
        index = Index(made)
        for name in names:
            index.note_blocking(root, name, LOCAL, FileFacts(1, 2, 3, 0, 0), {"model.neff": FileDigest(1, "0" * 64)})
        index.note_evictions(root, [Evicted(name, {"model.neff": (1, 2)}, 3) for name in names])
        index.baseline_blocking(root, [])
        update = f"UPDATE {table} SET files = ? WHERE key = ?"
        made.run_blocking(lambda connection: connection.execute(update, (text, names[1].key)))
        made.on_damage = told.append
        with pytest.raises(damage.Damaged):
            index.noted(root, names) if table == "entries" else index.unfinished_evictions(root)
    assert len(told) == 1
    for is_first in (True, False):
        with opened(tmp_path) as made:
            index = Index(made)
            assert (made.damaged is not None) == is_first
            lost = {names[1]}
            assert set(index.noted(root, names)) == set(names) - (lost if table == "entries" else set())
            left = {entry.name for entry in index.unfinished_evictions(root)}
            assert left == set(names) - (lost if table == "evictions" else set())
            assert index.has_baseline(root) == (table == "evictions"), "where a lost one came from nobody knows"


@pytest.mark.parametrize("step", [0, 1, len(database._MIGRATIONS) - 1])
def test_a_migration_that_dies_in_the_middle_is_repeated_whole(tmp_path: Path, step: int) -> None:
    environ = {**os.environ, "PYTHONPATH": python_path()}
    command = [sys.executable, "-c", _DIE_MIGRATING, str(tmp_path), str(step)]
    assert subprocess.run(command, env=environ, timeout=30, check=False).returncode == -9
    with contextlib.closing(sqlite3.connect(tmp_path / "neffd.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (step,)
    with opened(tmp_path) as made:
        assert made.damaged is None
        version = made.run_blocking(lambda connection: connection.execute("PRAGMA user_version").fetchone())
        assert version == (len(database._MIGRATIONS),)


def test_a_closed_database_answers_nobody_for_ever(tmp_path: Path) -> None:
    made = Database(tmp_path)
    made.close()
    with pytest.raises((sqlite3.Error, RuntimeError)):
        made.run_blocking(lambda connection: connection.execute("SELECT 1"))


def _waiting(root: CacheRoot, number: int) -> Taken:
    folder = root.new_folder("outbox")
    (folder / "model.neff.part").write_bytes(b"neff")
    described = Provenance({"model.neff": FileDigest(4, "0" * 64)}, compile_s=12.5)
    return Taken(root.path, entries.module(number), folder, described, FileFacts(4, 5, 6, 7, 8), LOCAL)


def test_what_waits_is_noted_again_in_a_new_journal(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    root = CacheRoot(tmp_path / "cache")
    with opened(tmp_path / "state") as made:
        journal = Journal(made, Index(made))
        assert receipt.recover(journal, [root]) == 0
        taken = [_waiting(root, number) for number in (2, 1)]
        for number, waiting in enumerate(taken):
            receipt.write(waiting, {"team", "other"}, 1000.0 + number)
            journal.insert_blocking(waiting, {"team", "other"})
        assert receipt.recover(journal, [root]) == 0, "the journal knows them"
    (_waiting(root, 3).folder / receipt.FILE_NAME).write_bytes(b'{"format": 1, "name": ["..", "../.."]}')
    for file in (tmp_path / "state").glob("neffd.db*"):
        file.unlink()
    with opened(tmp_path / "state") as made:
        journal = Journal(made, Index(made))
        assert receipt.recover(journal, [root]) == 2
        assert journal.folders_blocking() == {waiting.folder for waiting in taken}
        rows = made.run_blocking(
            lambda connection: connection.execute(
                "SELECT key, remote, provenance FROM outbox JOIN deliveries ON outbox_id = id ORDER BY id, remote"
            ).fetchall()
        )
        assert rows == [
            (waiting.name.key, remote, waiting.provenance.encode()) for waiting in taken for remote in ("other", "team")
        ]
        noted = Index(made).known(root.path, taken[0].name)
        assert noted is not None
        assert noted.was_taken
        assert noted.is_same(taken[0].neff)
        assert receipt.recover(journal, [root]) == 0, "once"


_TABLE = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /home rw - nfs4 server:/home rw,vers=4.2
31 30 254:1 / /home/me/disk rw - xfs /dev/vdb rw
32 22 0:41 / /mnt/with\\040space rw - cifs //server/share rw
33 22 0:42 / /mnt/s3 rw - fuse mountpoint-s3 rw
34 22 0:43 / /mnt/ssh rw - fuse.sshfs me@host:/ rw
35 22 0:44 / /var/lib/containers rw - fuse.fuse-overlayfs fuse-overlayfs rw
36 22 0:45 / /mnt/twice rw - nfs server:/a rw
37 22 254:2 / /mnt/twice rw - ext4 /dev/vdc rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/neffd", None),
        ("/home/me/state", "nfs4"),
        ("/home/me/disk/state", None),
        ("/homestead", None),
        ("/mnt/with space/state", "cifs"),
        ("/mnt/s3/state", "fuse"),
        ("/mnt/ssh", "fuse.sshfs"),
        ("/var/lib/containers/state", None),
        ("/mnt/twice/state", None),
    ],
)
def test_network_file_systems_are_told_apart(path: str, kind: str | None) -> None:
    assert filesystem._network_type(Path(path), _TABLE) == kind


def test_a_state_directory_on_a_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(f"1 1 0:1 / / rw - ext4 /dev/vda rw\n2 1 0:2 / {tmp_path} rw - nfs4 server:/ rw\n")
    monkeypatch.setattr(filesystem, "_MOUNTS", table)
    with pytest.raises(NeffdError, match="network file system") as refusal:
        Database(tmp_path / "state")
    assert refusal.value.reference == "state-dir-on-network"
    assert "state_dir" in refusal.value.hint
    assert not (tmp_path / "state").exists(), "nothing is made there"
