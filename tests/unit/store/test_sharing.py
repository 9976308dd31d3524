"""Rule 4: whoever could write before can write after; where not, a command is named that really mends it."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from neffd.errors import NeffdError
from neffd.layouts import xla
from neffd.store import sharing
from neffd.store.database import Database
from neffd.store.index import Index
from neffd.store.place import Placer
from neffd.store.root import CacheRoot
from neffd.store.sharing import CannotShare
from tests.harness import entries
from tests.harness.waiting import eventually
from tests.unit.store.as_user import User, needs_root
from tests.unit.store.conftest import stage

NAME = entries.module(1)
# Users that every Linux has: the owner of the cache directory must be in its group by the host's own account.
OWNER = User(2, 2)
assert os.getgrouplist(pwd.getpwuid(2).pw_name, 2) == [2]
MEMBER = User(61_001, 61_001, groups=(2,))
STRANGER = User(61_002, 61_002)
ROOT = User(0, 0)
DAEMON = User(61_003, 61_003)
DAEMON_IN_GROUP = User(61_003, 61_003, groups=(2,))
# A daemon whose own group has members among the trainers.
COLLEAGUE = User(61_004, 61_004, groups=(61_003,))

needs_setfacl = pytest.mark.skipif(shutil.which("setfacl") is None, reason="the named command is setfacl")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user can pass through; pytest's own are for one user alone."""
    folder = Path(tempfile.mkdtemp(prefix="neffd shared "))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def _make_cache(place: Path, mode: int, daemon: User, *, staging_beside: bool = True) -> Path:
    cache = place / "cache dir"
    cache.mkdir()
    os.chown(cache, OWNER.uid, OWNER.gid)
    cache.chmod(mode)
    for folder in ("state", "cache dir.neffd") if staging_beside else ("state",):
        (place / folder).mkdir(mode=0o700)
        os.chown(place / folder, daemon.uid, daemon.gid)
    return cache


def _fetch(place: Path) -> list[str]:
    """As the daemon: the placement, or "refused" and the command."""
    database = Database(place / "state")
    try:
        root = CacheRoot(place / "cache dir")
        placement = Placer(root, Index(database)).place(NAME, stage(root, entries.files(NAME)), asker_holds_lock=False)
        return [placement.value]
    except (CannotShare, NeffdError) as error:
        return ["refused", error.hint]
    finally:
        database.close()


def _can_create_in(folder: Path) -> bool:
    try:
        (folder / "probe").mkdir()
        (folder / "probe").rmdir()
    except PermissionError:
        return False
    return True


def _can_compile_again(entry: Path) -> bool:
    """What stock does to an entry: lock, write in place, unlock."""
    try:
        (entry / xla.LOCK).touch()
        for file in entries.files(NAME):
            with open(entry / file, "r+b") as writer:
                writer.read()
        (entry / xla.LOCK).unlink()
    except PermissionError:
        return False
    return True


@needs_root
@needs_setfacl
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o775, 0o2775, 0o1777, 0o777])
@pytest.mark.parametrize("daemon", [ROOT, DAEMON, DAEMON_IN_GROUP], ids=["root", "alone", "in-group"])
@pytest.mark.parametrize("staging_beside", [True, False], ids=["beside", "inside"])
def test_whoever_could_write_can_write(place: Path, mode: int, daemon: User, staging_beside: bool) -> None:
    cache = _make_cache(place, mode, daemon, staging_beside=staging_beside)
    writers = [user for user in (OWNER, MEMBER, STRANGER, COLLEAGUE) if user.run(lambda: _can_create_in(cache))]
    assert OWNER in writers
    outcome = daemon.run(lambda: _fetch(place))
    if outcome[0] == "refused":
        assert entries.read(cache, NAME) == {}
        subprocess.run(shlex.split(outcome[1]), check=True)
        outcome = daemon.run(lambda: _fetch(place))
    assert outcome == ["placed"]
    entry = cache / NAME.namespace / NAME.key
    for user in writers:
        assert user.run(lambda: _can_create_in(entry.parent)), user
        assert user.run(lambda: _can_compile_again(entry)), user
    assert not (entry / "model.neff").stat().st_mode & stat.S_IXUSR


@needs_root
@needs_setfacl
@pytest.mark.parametrize("mode", [0o755, 0o2775, 0o1777])
def test_a_trainer_with_umask_077(place: Path, mode: int) -> None:
    """Its folder keeps the daemon out, until the command was run; then also in folders that it makes later."""
    cache = _make_cache(place, mode, DAEMON_IN_GROUP)
    entry = cache / NAME.namespace / NAME.key

    def trace() -> None:
        entries.write(cache, NAME, {"model.hlo_module.pb": b"its own"})

    OWNER.run(trace)
    kind, command = DAEMON_IN_GROUP.run(lambda: _fetch(place))
    assert kind == "refused"
    subprocess.run(shlex.split(command), check=True)
    assert DAEMON_IN_GROUP.run(lambda: _fetch(place)) == ["placed"]
    assert OWNER.run(lambda: _can_compile_again(entry))
    shutil.rmtree(entry.parent)
    OWNER.run(trace)
    assert DAEMON_IN_GROUP.run(lambda: _fetch(place)) == ["placed"]
    assert OWNER.run(lambda: _can_compile_again(entry))


@needs_root
@needs_setfacl
def test_a_namespace_of_a_user_who_is_nobody_elsewhere(place: Path) -> None:
    """The command keeps the rights of those who made folders below, not only of the owner at the top."""
    cache = _make_cache(place, 0o1777, DAEMON)
    STRANGER.run(lambda: entries.write(cache, entries.module(2), entries.files(NAME)) and None)
    kind, command = DAEMON.run(lambda: _fetch(place))
    assert kind == "refused"
    subprocess.run(shlex.split(command), check=True)
    assert DAEMON.run(lambda: _fetch(place)) == ["placed"]
    assert STRANGER.run(lambda: _can_compile_again(cache / NAME.namespace / NAME.key))


@needs_root
def test_who_is_in_a_group_without_an_account_that_says_so(place: Path) -> None:
    """As with `--group-add` of a container: its maker may write what the group may, once it was seen to be in it."""
    cache = _make_cache(place, 0o2775, DAEMON_IN_GROUP)
    MEMBER.run(lambda: entries.write(cache, entries.module(2), entries.files(NAME)) and None)
    (cache / NAME.namespace).chmod(0o2775)
    with subprocess.Popen(
        ["cat"], stdin=subprocess.PIPE, user=MEMBER.uid, group=MEMBER.gid, extra_groups=[2]
    ) as client:

        def learn_and_fetch(uid: int) -> list[str]:
            sharing.learn_groups(uid, client.pid)
            return _fetch(place)

        assert DAEMON_IN_GROUP.run(lambda: _fetch(place))[0] == "refused"
        assert DAEMON_IN_GROUP.run(lambda: learn_and_fetch(STRANGER.uid))[0] == "refused"
        assert DAEMON_IN_GROUP.run(lambda: learn_and_fetch(MEMBER.uid)) == ["placed"]
    assert MEMBER.run(lambda: _can_compile_again(cache / NAME.namespace / NAME.key))


def test_the_advice_can_be_given_for_a_directory_that_is_gone(tmp_path: Path) -> None:
    assert sharing.share_command(tmp_path / "gone").endswith(f" {tmp_path}/gone")


def test_a_process_whose_name_is_cut_within_a_letter(tmp_path: Path) -> None:
    script = tmp_path / "run_モデル学習.sh"
    script.write_text("#!/bin/sh\nread line\n")
    script.chmod(0o755)
    with subprocess.Popen([script], stdin=subprocess.PIPE) as client:
        comm = Path(f"/proc/{client.pid}/comm")
        eventually(lambda: comm.read_bytes().startswith(b"run_"), "its name")
        with pytest.raises(UnicodeDecodeError):
            comm.read_text()
        sharing.learn_groups(os.getuid(), client.pid)
        client.communicate(b"\n")
    assert client.returncode == 0


@needs_root
@needs_setfacl
def test_a_default_acl_that_forgets_the_owner(place: Path) -> None:
    """Prepared for the daemon alone: what it made would lock out the directory's owner."""
    cache = _make_cache(place, 0o755, DAEMON)
    rules = f"u:{DAEMON.uid}:rwX,d:u:{DAEMON.uid}:rwX"
    subprocess.run(["setfacl", "-m", rules, str(cache)], check=True)
    kind, command = DAEMON.run(lambda: _fetch(place))
    assert kind == "refused"
    assert list(cache.iterdir()) == []
    subprocess.run(shlex.split(command), check=True)
    assert DAEMON.run(lambda: _fetch(place)) == ["placed"]
    assert OWNER.run(lambda: _can_compile_again(cache / NAME.namespace / NAME.key))


@needs_root
def test_the_daemons_own_group_is_not_kept_out_of_what_everybody_may_use(place: Path) -> None:
    cache = _make_cache(place, 0o1777, DAEMON)
    assert DAEMON.run(lambda: _fetch(place)) == ["placed"]
    assert COLLEAGUE.run(lambda: _can_compile_again(cache / NAME.namespace / NAME.key))


@needs_root
def test_a_folder_that_may_not_be_read_looks_empty_and_says_so(place: Path) -> None:
    cache = _make_cache(place, 0o777, DAEMON)
    OWNER.run(lambda: entries.write(cache, NAME, entries.files(NAME)) and None)

    def look() -> list[object]:
        root = CacheRoot(cache)
        looks = root.inspect(NAME)
        return [looks.state.value, looks.is_readable, list(root.namespaces()), list(root.module_keys(NAME.namespace))]

    assert DAEMON.run(look) == ["empty", False, [NAME.namespace], []]


@needs_root
def test_nobody_else_can_read_or_swap_what_is_staged(place: Path) -> None:
    cache = _make_cache(place, 0o1777, STRANGER)
    staging = DAEMON.run(lambda: str(CacheRoot(cache).staging))
    assert staging == str(cache / ".cache/huggingface/neffd")  # the place beside belongs to somebody else
    assert stat.S_IMODE(Path(staging).stat().st_mode) == 0o700
