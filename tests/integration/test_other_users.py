"""Daemons that are not root, trainers that are others: whole processes, each as the user that it would be."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neff.keys import ModuleName
from neffd import limits
from neffd.layouts import xla
from tests.harness import entries
from tests.harness.daemon import PROJECT, Daemon, RawClient
from tests.harness.files import below
from tests.harness.guests import Place, compiling, kill, problems, steps
from tests.harness.rooms import Room, bind
from tests.harness.waiting import TOLD_S, eventually
from tests.unit.store.as_user import User

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as several users"),
    pytest.mark.skipif(shutil.which("setfacl") is None, reason="what is prescribed needs setfacl"),
]

DAEMON = Room(User(61_000, 61_000))
# Both in the daemon's group, and strangers to each other.
MEMBERS = [Room(User(uid, uid, groups=[61_000])) for uid in (61_001, 61_002)]
OUTSIDER = Room(User(61_003, 61_003))
SELDOM_S = 30.0
LONG_S = 60.0


@pytest.fixture
def place() -> Iterator[Place]:
    DAEMON.skip_unless_possible()
    with Place() as made:
        yield made


def as_shipped(host: Daemon) -> None:
    """The cache directory and its neighbour as `systemd/neffd.tmpfiles.conf` has them."""
    set_up(host, (PROJECT / "systemd" / "neffd.tmpfiles.conf").read_text())


def for_everybody(host: Daemon) -> None:
    """As docs/operations.md has it for any local user."""
    page = (PROJECT / "docs" / "operations.md").read_text()
    set_up(host, page.partition("**Any local user.**")[2].split("```")[1])


def set_up(host: Daemon, tmpfiles: str) -> None:
    """Do what lines of `systemd-tmpfiles` say, where that is not installed, too."""
    ids = {"neffd": DAEMON.user.gid, "root": 0, "-": 0}
    for line in tmpfiles.splitlines():
        kind, path, mode, user, group, _, argument = [*line.split(), *[""] * 7][:7]
        folder = host.cache if path.endswith("cache") else host.cache.with_name(f"{host.cache.name}.neffd")
        if kind == "d":
            folder.mkdir(exist_ok=True)
            os.chown(folder, ids[user], ids[group])
            folder.chmod(int(mode, 8))
        elif kind == "a+":
            subprocess.run(["setfacl", "-m", argument, str(folder)], check=True)


def unprepared(place: Place) -> Daemon:
    """A running daemon whose cache directory everybody may write, without any ACL."""
    host = place.host("unprepared", DAEMON)
    os.chown(host.cache, 0, 0)
    host.cache.chmod(0o777)
    host.start()
    return host


def is_locked(host: Daemon) -> bool:
    return bool(below(host.cache, "*.lock"))


def test_the_shipped_set_up(place: Place) -> None:
    """A daemon of its own user; trainers of its group, with umask 077, share with each other and with another host."""
    host_a, host_b = place.host("a", DAEMON), place.host("b", DAEMON)
    for host in (host_a, host_b):
        as_shipped(host)
        host.start()
        assert Path(f"/proc/{host.pid}").stat().st_uid == DAEMON.user.uid
        assert problems(host) == []
    both = "adam_update,attention_forward"
    made, said = steps(place.trainer(host_a, MEMBERS[0], graphs=both))
    assert ([step["compiled"] for step in made], said) == ([True, True], [])
    assert host_a.ask("flush", timeout_s=20)[-1]["pending"] == 0
    found, said = steps(place.trainer(host_b, MEMBERS[1], graphs=both))
    assert ([step["compiled"] for step in found], said) == ([False, False], [])
    assert [step["neff_sha256"] for step in found] == [step["neff_sha256"] for step in made]
    for path in host_b.cache.rglob("*"):
        assert path.stat().st_gid == DAEMON.user.gid, path
        assert path.stat().st_mode & stat.S_IWGRP, path
        assert not path.is_dir() or path.stat().st_mode & stat.S_ISGID, path
    # Everybody of the group can clear what the daemon brought, and compile it and others there.
    (brought, *_) = (host_b.cache / entries.NAMESPACE).iterdir()
    MEMBERS[0].user.run(lambda: shutil.rmtree(brought))
    done, said = steps(place.trainer(host_b, MEMBERS[0], graphs=f"{both},softmax_cross_entropy"))
    assert (sum(step["compiled"] for step in done), said) == (1, [])
    done, said = steps(place.trainer(host_b, MEMBERS[1], graphs=f"{both},softmax_cross_entropy"))
    assert (sum(step["compiled"] for step in done), said) == (0, [])


def test_one_member_goes_on_where_another_died(place: Place) -> None:
    host = place.host("host", DAEMON)
    as_shipped(host)
    host.start()
    first = place.trainer(host, MEMBERS[0], compile_s=LONG_S, lock_probe_s=SELDOM_S)
    eventually(lambda: place.compilers() == 1, "the compiler runs")
    other = place.trainer(host, MEMBERS[1], compile_s=0.1, lock_probe_s=SELDOM_S)
    row = eventually(lambda: compiling(host, waiting=1), "one waits")
    assert (row["pid"], row["uid"]) == (first.pid, MEMBERS[0].user.uid)
    kill(first)
    (step,), said = steps(other)
    assert (step["compiled"], said) == (True, [])
    assert host.counter("neffd_stale_locks_cleared") == 1
    assert not is_locked(host)


def test_somebody_outside_of_the_group(place: Place) -> None:
    """May read what is there, and ask; what is only on a remote is brought although that user could not write it."""
    host_a, host_b = place.host("a", DAEMON), place.host("b", DAEMON)
    for host in (host_a, host_b):
        as_shipped(host)
        host.start()
    (made,), _ = steps(place.trainer(host_a, MEMBERS[0]))
    assert host_a.ask("flush", timeout_s=20)[-1]["pending"] == 0
    (found,), said = steps(place.trainer(host_b, OUTSIDER))
    assert (found["compiled"], found["neff_sha256"], said) == (False, made["neff_sha256"], [])


def test_a_directory_for_everybody(place: Place) -> None:
    """Strangers with umask 077 use each other's entries and the daemon's; shared is what a trusted user compiled."""
    trusted = {"trusted_uids": [MEMBERS[0].user.uid], "quiet_s": 0.2, "settle_s": 0.3}
    host_a, host_b = (place.host(name, DAEMON, upload=trusted) for name in ("a", "b"))
    for host in (host_a, host_b):
        for_everybody(host)
        host.start()
    strangers = [Room(User(user.uid, user.gid)) for user in (MEMBERS[0].user, MEMBERS[1].user)]
    steps(place.trainer(host_a, strangers[0], graphs="adam_update"))
    both = "adam_update,attention_forward"
    done, said = steps(place.trainer(host_a, strangers[1], graphs=both))
    assert ([step["compiled"] for step in done], said) == ([False, True], [])
    host_a.wait_until_pushed(1)
    assert eventually(lambda: told(host_a, "untrusted-owner"), "the stranger's is not shared")
    done, said = steps(place.trainer(host_b, OUTSIDER, graphs=both))
    assert ([step["compiled"] for step in done], said) == ([False, True], [])
    for brought in (host_b.cache / entries.NAMESPACE).iterdir():
        strangers[1].user.run(lambda brought=brought: shutil.rmtree(brought))  # type: ignore[misc]


def test_a_socket_that_is_for_one_group(place: Place) -> None:
    """By name, from a /etc/group that only the daemon sees; whoever may not connect is told so once, and trains on."""
    groups = place.path / "group"
    groups.write_text(Path("/etc/group").read_text() + f"trainers:x:{DAEMON.user.gid}:\n")
    room = Room(DAEMON.user, [bind(groups, "/etc/group")])
    host = place.host("host", room, socket_mode="0660", socket_group="trainers")
    as_shipped(host)
    host.start()
    done, said = steps(place.trainer(host, MEMBERS[0]))
    assert ([step["compiled"] for step in done], said) == ([True], [])
    away = place.work / "cache of an outsider"
    environ = {"NEURON_COMPILE_CACHE_URL": str(away)}
    done, said = steps(place.trainer(host, OUTSIDER, graphs="adam_update,attention_forward", environ=environ))
    assert [step["compiled"] for step in done] == [True, True]
    assert len(said) == 1
    assert "no-permission" in said[0]


def test_a_directory_that_was_not_prepared(place: Place) -> None:
    """Folders of a stranger with umask 077: nothing is placed, and the command that is named lets it be placed."""
    host_a, host_b = place.host("a", DAEMON), unprepared(place)
    as_shipped(host_a)
    host_a.start()
    (made,), _ = steps(place.trainer(host_a, MEMBERS[0]))
    assert host_a.ask("flush", timeout_s=20)[-1]["pending"] == 0
    extracting = {"NEURON_EXTRACT_GRAPHS_ONLY": "1"}
    place.trainer(host_b, OUTSIDER, environ=extracting, hooked=False).communicate(timeout=LONG_S)
    (entry,) = (host_b.cache / entries.NAMESPACE).iterdir()
    assert stat.S_IMODE(entry.stat().st_mode) == 0o700
    (done,), said = steps(place.trainer(host_b, OUTSIDER))
    assert done["compiled"]
    assert len(said) == 1
    assert "cannot-share" in said[0]
    problem = eventually(lambda: told(host_b, "cannot-share"), "the daemon says what helps")
    for file in entry.iterdir():
        file.unlink()
    subprocess.run(shlex.split(problem["hint"]), check=True)
    (done,), said = steps(place.trainer(host_b, OUTSIDER))
    assert (done["compiled"], done["neff_sha256"], said) == (False, made["neff_sha256"], [])
    eventually(lambda: not told(host_b, "cannot-share"), "nothing is left to report")
    OUTSIDER.user.run(lambda: shutil.rmtree(entry))  # it is still that user's own


@pytest.mark.parametrize("closed", ["folders", "files"])
def test_a_directory_of_somebodys_own(place: Place, closed: str) -> None:
    """What the daemon may not read it reports and leaves alone; after the named command it is shared."""
    host = place.host("host", DAEMON, scan_s=1)
    os.chown(host.cache, OUTSIDER.user.uid, OUTSIDER.user.gid)
    host.start()
    name = entries.module(1)

    def write() -> None:
        folder = host.cache / name.namespace / name.key
        if closed == "files":
            folder.mkdir(parents=True)
            for open_folder in (folder, folder.parent):
                open_folder.chmod(0o755)
        entries.write(host.cache, name, entries.files(name))

    OUTSIDER.user.run(write)
    problem = eventually(lambda: told(host, "cannot-read"), "the daemon says what helps")
    assert not list(place.shared.rglob("model.neff"))
    subprocess.run(shlex.split(problem["hint"]), check=True)
    # After a scan that took long the next by itself would come late.
    assert host.ask("flush", timeout_s=20)[-1]["pending"] == 0
    host.wait_until_pushed(1)
    eventually(lambda: not told(host, "cannot-read"), "nothing is left to report")


def test_a_lock_that_cannot_be_seen(place: Place) -> None:
    """In folders that are closed to the daemon it lets nobody wait and judges nothing: it is as without neffd."""
    host = unprepared(place)
    first = place.trainer(host, OUTSIDER, compile_s=2)
    eventually(lambda: place.compilers() == 1, "the compiler runs")
    other = place.trainer(host, OUTSIDER, compile_s=2)
    results = [steps(child) for child in (first, other)]
    assert [done[0]["compiled"] for done, _ in results] == [True, False]
    assert [said for _, said in results] == [[], []]
    assert host.counter("neffd_stale_locks_cleared") == 0


def test_a_lock_that_the_daemon_may_not_remove(place: Place) -> None:
    """Its maker is gone, proven; the daemon says so and what helps, and then the others go on."""
    host, trainer = unprepared(place), Room(replace(OUTSIDER.user, umask=0o022))
    first = place.trainer(host, trainer, compile_s=LONG_S, lock_probe_s=SELDOM_S)
    eventually(lambda: place.compilers() == 1, "the compiler runs")
    other = place.trainer(host, trainer, compile_s=0.1, lock_probe_s=SELDOM_S)
    eventually(lambda: compiling(host, waiting=1), "one waits")
    kill(first)
    problem = eventually(lambda: told(host, "stale-lock"), "the lock is reported")
    assert f"process {first.pid}, is gone" in problem["detail"]
    assert "may not remove it" in problem["detail"]
    assert is_locked(host)
    assert other.poll() is None
    subprocess.run(shlex.split(problem["hint"]), check=True)
    assert steps(other)[0][0]["compiled"]
    eventually(lambda: not told(host, "stale-lock"), "nothing is left to report")


def test_a_stranger_who_names_a_run(place: Place) -> None:
    """Has one of its own, which it uses and ends; unless a process of the run has started it as somebody else."""
    host = place.host("host", DAEMON)
    as_shipped(host)
    host.start()
    ours, theirs = (room.user for room in MEMBERS)
    assert ours.run(lambda: in_a_run(host, [1], then="used")) == ["used"]
    used = theirs.run(lambda: in_a_run(host, [2, 3], then="run-ended"))
    assert used == [str(entries.module(number)) for number in (2, 3)]
    (left,) = host.status()["runs"]["running"]
    assert (left["uid"], left["modules"]) == (ours.uid, 1)
    with contextlib.closing(RawClient(host.socket, in_run(host))) as launcher:  # root's, as whose child each is started
        theirs.run(lambda: in_a_run(host, [4], then="used"))
        assert launcher.ask("run-ended")[-1]["run"]["names"] == [str(entries.module(4))]
    assert ours.run(lambda: in_a_run(host, [], then="run-ended")) == [str(entries.module(1))]


def test_a_stranger_who_wants_everything(place: Place) -> None:
    """Has a bounded number of connections, beside which others are served; and remotes are not told of its runs."""
    names = [entries.module(number) for number in (1, 2)]
    for name in names:
        entries.write(place.shared, name, entries.files(name))
    (place.shared / entries.NAMESPACE).chmod(0o1777)
    host = place.host("host", DAEMON, upload={"quiet_s": 0.2})
    as_shipped(host)
    host.start()
    assert all(host.ask("prefetch", names=[str(name)], wait=True)[-1]["done"] for name in names)
    enough = place.work / "enough"
    with ThreadPoolExecutor(1) as beside:
        kept = beside.submit(OUTSIDER.user.run, lambda: hold_connections(host, limits.MAX_CONNECTIONS, enough))
        try:
            (met,) = eventually(lambda: host.status()["limits"], "it is turned away")
            assert MEMBERS[0].user.run(lambda: in_a_run(host, [1], then="run-ended")) == [str(names[0])]
        finally:
            enough.touch()
        assert (kept.result(), met["uid"], met["reason"]) == (
            limits.MAX_CONNECTIONS // 2,
            OUTSIDER.user.uid,
            limits.CONNECTIONS,
        )
    (told,) = eventually(lambda: list(place.shared.glob("**/RUN_*")), "the member's run is told", TOLD_S)
    eventually(lambda: OUTSIDER.user.run(lambda: in_a_run(host, [2], then="run-ended")), "it is served again")
    assert eventually(lambda: "untrusted-owner" in host.log, "its run is judged")
    assert [module["key"] for module in json.loads(told.read_text())["modules"]] == [names[0].key]
    assert host.ask("flush", timeout_s=20)[-1]["pending"] == 0
    assert list(place.shared.glob("**/RUN_*")) == [told]


def hold_connections(host: Daemon, most: int, enough: Path) -> int:
    """Connect so often, until somebody says that it is enough; how many were served."""
    clients = []
    for _ in range(most):
        with contextlib.suppress(EOFError, OSError):
            clients.append(RawClient(host.socket))
    eventually(enough.exists, "somebody says that it is enough")
    for client in clients:
        client.close()
    return len(clients)


def test_a_stranger_who_claims_a_lock(place: Place) -> None:
    """Under somebody's lock nothing is placed until that user asks for it."""
    name = entries.module(1)
    entries.write(place.shared, name, entries.files(name))
    host = place.host("host", DAEMON)
    for_everybody(host)
    host.start()
    ours, theirs = (room.user for room in MEMBERS)
    locked = {"model.hlo_module.pb": b"its own", xla.LOCK: b""}
    ours.run(lambda: entries.write(host.cache, name, locked) and None)
    assert theirs.run(lambda: asked_with_lock(host, name)) == "locked"
    assert ours.run(lambda: entries.read(host.cache, name)["model.hlo_module.pb"] == b"its own")
    assert ours.run(lambda: asked_with_lock(host, name)) == "ready"


def asked_with_lock(host: Daemon, name: ModuleName) -> str:
    """What is said to one who says that the entry's lock is its own."""
    with contextlib.closing(RawClient(host.socket, in_run(host))) as client:
        asked = client.ask("resolve", namespace=name.namespace, keys=[name.key], holding=[name.key])
        (last,) = [answer for answer in asked if answer.get("state") in ("ready", "absent")]
        return str(last.get("reason", last["state"]))


def in_run(host: Daemon) -> dict[str, Any]:
    """The greeting of a process of the one run of these tests."""
    facts = host.cache.stat()
    run = {"key": f"RUN_{'ab' * 16}", "instance": "slurm:7:0", "ingredients": {"version": 1}, "private": False}
    return {"root": str(host.cache), "device": facts.st_dev, "inode": facts.st_ino, "run": run}


def in_a_run(host: Daemon, numbers: list[int], then: str) -> list[str]:
    """Use modules; then end the run, and return which it had."""
    with contextlib.closing(RawClient(host.socket, in_run(host))) as client:
        assert client.ask("used", modules=[[*entries.module(number), 0.0] for number in numbers])[-1]["done"]
        names: list[str] = client.ask(then)[-1]["run"]["names"] if then == "run-ended" else [then]
        return names


def told(host: Daemon, reason: str) -> dict[str, str]:
    """The first problem with this reason that the status shows, empty if there is none."""
    return next((problem for problem in problems(host) if problem["reason"] == reason), {})
