"""Trainers in containers and below user namespaces, made by the tests themselves: the daemon sees who they are."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from neffd.layouts import xla
from tests.harness import entries
from tests.harness.daemon import PROJECT, python_path
from tests.harness.files import below
from tests.harness.guests import Place, compiling, kill, problems, steps
from tests.harness.rooms import CONTAINER, ROOT, ROOTLESS, Room, bind, hide, overlay
from tests.harness.waiting import eventually
from tests.unit.store.as_user import User

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="only root can make containers")]

SOMEBODY = User(61_001, 61_001)
# Waiters would look this seldom by themselves: who is quicker was woken.
SELDOM_S = 30.0
LONG_S = 60.0


@pytest.fixture
def place() -> Iterator[Place]:
    with Place() as made:
        yield made


def test_a_compile_that_dies_with_its_container(place: Place) -> None:
    """Those who wait outside and in another container go on at once."""
    host = place.host("host")
    container = place.container(host, ROOT)
    container.skip_unless_possible()
    host.start()
    first = place.trainer(host, container, compile_s=LONG_S, lock_probe_s=SELDOM_S)
    row = eventually(lambda: compiling(host, holder="process", uid=0), "the daemon knows who compiles")
    assert row["pid"] not in (None, 0, 1)  # not the one of its own namespace
    eventually(lambda: place.compilers() == 1, "the compiler runs")
    others = [
        place.trainer(host, room, compile_s=0.5, lock_probe_s=SELDOM_S)
        for room in (Room(), place.container(host, ROOT), place.container(host, ROOT))
    ]
    eventually(lambda: compiling(host, waiting=3), "three wait")
    kill(first)
    results = [steps(other)[0][0] for other in others]
    assert sorted(result["compiled"] for result in results) == [False, False, True]
    assert len({result["neff_sha256"] for result in results}) == 1
    assert max(result["seconds"] for result in results) < SELDOM_S
    assert host.counter("neffd_stale_locks_cleared") == 1
    assert not below(host.cache, "*.lock")


@pytest.mark.parametrize("in_container", [False, True], ids=["user namespace", "rootless container"])
def test_a_rootless_trainer_is_its_user_on_the_host(place: Place, in_container: bool) -> None:
    """Root inside, somebody outside: its locks are believed, its death is seen, the next one takes over."""
    host = place.host("host")
    room = place.container(host, SOMEBODY, rootless=True) if in_container else Room(SOMEBODY, namespaces=ROOTLESS)
    room.skip_unless_possible()
    os.chown(host.cache, SOMEBODY.uid, SOMEBODY.gid)
    host.start()
    first = place.trainer(host, room, compile_s=LONG_S, lock_probe_s=SELDOM_S)
    eventually(lambda: compiling(host, holder="process", uid=SOMEBODY.uid), "the daemon knows who compiles")
    eventually(lambda: place.compilers() == 1, "the compiler runs")
    other = place.trainer(host, room, compile_s=0.1, lock_probe_s=SELDOM_S)
    eventually(lambda: compiling(host, waiting=1), "one waits")
    kill(first)
    (step,), said = steps(other)
    assert (step["compiled"], said) == (True, [])
    # The directory's owner is trusted, so it is shared; and looked up once more.
    eventually(lambda: host.status()["remotes"][0]["catalog"]["keys"], "the daemon has seen it on the remote")
    # What the daemon brings is the trainer's to use, and to compile again.
    shutil.rmtree(host.cache / entries.NAMESPACE)
    (step,), said = steps(place.trainer(host, room))
    assert (step["compiled"], said) == (False, [])
    brought = list((host.cache / entries.NAMESPACE).rglob("*"))
    assert {(path.stat().st_uid, path.stat().st_gid) for path in brought} == {(SOMEBODY.uid, SOMEBODY.gid)}


def test_a_trainer_that_replaces_itself_in_a_container(place: Place) -> None:
    """Its own pid there is another one than the daemon sees, and it is known all the same which process that is."""
    host, name = place.host("host"), entries.module(1)
    container = place.container(host, ROOT)
    container.skip_unless_possible()
    host.start()
    entries.write(host.cache, name, {})
    inside = place.inside / "cache"
    environ = place.environ(host, container)
    environ["WHICH"] = "\n".join([str(inside), str(inside / name.namespace / name.key / xla.LOCK), *name])
    environ["PYTHONPATH"] = python_path()
    child = place.spawn(container, environ, sys.executable, "-m", "tests.integration.replacing_trainer")
    said, errors = child.communicate(timeout=LONG_S)
    assert (said.split(), errors) == (["free", "False"], "")
    assert host.counter("neffd_stale_locks_cleared") == 1


# A lock is old at the second look, and looks come soon.
_IMPATIENT = (
    "from neffd.compiles import keeper, stale; stale._OLD_S = keeper._SWEEP_S = 0.1\n"
    "from neffd.main import main; main()"
)


def test_a_daemon_that_cannot_see_a_process_never_judges_it_dead(place: Place) -> None:
    """Its trainer is outside of its pid namespace: the lock is reported, and stays until somebody removes it."""
    room = Room(namespaces=("pid",))
    room.skip_unless_possible()
    host = place.host("host", room, command=("-c", _IMPATIENT))
    host.start()
    first = place.trainer(host, Room(), compile_s=LONG_S)
    eventually(lambda: place.compilers() == 1, "the compiler runs")
    row = eventually(lambda: compiling(host, holder="process"), "it has said so")
    assert (row["pid"], row["uid"]) == (None, 0)
    assert problems(host) == []  # as long as it is connected, it lives
    other = place.trainer(host, Room(), compile_s=0.1)
    eventually(lambda: compiling(host, waiting=1), "one waits")
    kill(first)
    (problem,) = eventually(lambda: problems(host), "the lock is reported")
    assert problem["reason"] == "stale-lock"
    assert "no process that can be seen" in problem["detail"]
    assert len(below(host.cache, "*.lock")) == 1
    assert other.poll() is None
    host.kill()
    host.start()  # in a namespace of its own again, so that pids of before mean nothing
    eventually(lambda: problems(host), "it is reported again")
    assert host.counter("neffd_stale_locks_cleared") == 0
    subprocess.run(shlex.split(problem["hint"]), check=True)
    assert steps(other)[0][0]["compiled"]
    eventually(lambda: problems(host) == [], "nothing is left to report")


@pytest.mark.parametrize("kind", ["another", "overlay"])
def test_a_directory_that_only_looks_the_same(place: Place, kind: str) -> None:
    """Under the very path that the daemon manages: not believed, said once, and the job goes on as if alone."""
    host = place.host("host")
    mounts = [hide(place.path), bind(place.work), hide(host.home), bind(host.socket.parent)]
    mounts.append(overlay(host.cache, host.cache) if kind == "overlay" else hide(host.cache))
    room = Room(mounts=mounts, namespaces=CONTAINER)
    room.skip_unless_possible()
    host.start()
    done, said = steps(place.trainer(host, room, graphs="adam_update,attention_forward"))
    assert [step["compiled"] for step in done] == [True, True]
    assert len(said) == 1
    assert "other-cache-dir" in said[0]
    assert str(host.cache) in said[0]
    assert list(host.cache.iterdir()) == []
    done, said = steps(place.trainer(host, Room()))
    assert ([step["compiled"] for step in done], said) == ([True], [])


def test_neff_run_with_nothing_but_the_client_mounted(place: Place) -> None:
    """The container's Python has no neffd: all that is mounted of it is the client's folder."""
    host_a, host_b = place.host("a"), place.host("b")
    for host in (host_a, host_b):
        os.chown(host.cache, SOMEBODY.uid, SOMEBODY.gid)
    client = place.inside / "lib" / "neff"
    own = (hide(PROJECT), bind(PROJECT / "tests"), bind(PROJECT / "client" / "neff", client))
    rooms = [place.container(host, SOMEBODY, *own) for host in (host_a, host_b)]
    python = os.path.realpath(sys.executable)  # below the virtual environment, which may have neffd
    rooms[0].skip_unless_possible(python)
    for host, room, kind in zip((host_a, host_b), rooms, ("compiled", "fetched"), strict=True):
        host.start()
        environ, summary = place.environ(host, room), place.work / f"{kind}.json"
        command = ["-m", "tests.neuron.trainer", "--graphs", "adam_update,attention_forward"]
        environ["PYTHONPATH"] = f"{client.parent}{os.pathsep}{environ['PYTHONPATH']}"
        words = [python, "-m", "neff.cli", "run", "--summary-json", str(summary), "--", python, *command]
        output, errors = (child := place.spawn(room, environ, *words)).communicate(timeout=LONG_S)
        assert child.returncode == 0, errors
        done, numbers = [json.loads(line) for line in output.splitlines()], json.loads(summary.read_text())
        assert [step["compiled"] for step in done] == [kind == "compiled"] * 2
        assert (numbers["graphs"], numbers[kind]) == (2, 2)
        assert errors.count("neff: 2 graphs: 2 " + kind) == 1
        assert host.ask("flush", timeout_s=20)[-1]["pending"] == 0
