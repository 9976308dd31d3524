"""However many processes meet a graph, one compiles it; the others wait and are woken, or take over from the dead."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from neff.keys import ModuleName
from neffd.layouts import xla
from tests.harness import entries
from tests.harness.daemon import PROJECT, Daemon, RawClient, python_path
from tests.harness.files import below
from tests.harness.processes import is_gone
from tests.harness.waiting import eventually
from tests.integration.conftest import MakeDaemon
from tests.neuron.env import FLAGS_OF_OUR_OWN, standin_env

GRAPH = "adam_update"
# Waiters would look this seldom by themselves: who is quicker was woken.
SELDOM_S = 30.0

Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts trainers in process groups of their own; whatever is left of them is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def spawn(host: Daemon, *arguments: str, environ: dict[str, str] | None = None, **switches: Any) -> Any:
        log = host.home / "compiles"
        environment = standin_env(host.cache, flags=FLAGS_OF_OUR_OWN, compile_log=log, **switches)
        environment["NEFFD_SOCKET"] = str(host.socket)
        environment["PYTHONPATH"] = f"{environment['PYTHONPATH']}:{python_path()}"
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.neuron.trainer", "--install-neff", *(arguments or ("--graphs", GRAPH))],
            env=environment | (environ or {}),
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(child)
        return child

    yield spawn
    for child in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def outcome(child: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """The steps of a trainer that has to end well."""
    output, errors = child.communicate(timeout=40)
    assert child.returncode == 0, errors
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def compilers(host: Daemon) -> list[int]:
    """Process ids of the compilers that were started, in order."""
    log = host.home / "compiles"
    return [json.loads(line)["pid"] for line in log.read_text().splitlines()] if log.exists() else []


@contextlib.contextmanager
def held_up(host: Daemon) -> Iterator[None]:
    """Inside, the compiler that has begun does not end, however long the others take to come."""
    (compiler,) = eventually(lambda: compilers(host), "the compiler runs")
    os.kill(compiler, signal.SIGSTOP)
    yield
    os.kill(compiler, signal.SIGCONT)


def compiling(host: Daemon) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = host.status()["compiling"]
    return rows


def locks(host: Daemon) -> list[Path]:
    return below(host.cache, "*.lock")


def test_one_compiles_the_others_are_woken(make_daemon: MakeDaemon, spawn: Spawn) -> None:
    with make_daemon("host") as host:
        ranks = [spawn(host, compile_s=2, lock_probe_s=SELDOM_S) for _ in range(4)]
        with held_up(host):
            (row,) = eventually(lambda: [row for row in compiling(host) if row["waiting"] == 3], "three wait")
        assert row["holder"] == "process"
        assert row["pid"] in [rank.pid for rank in ranks]
        assert row["uid"] == os.getuid()
        results = [outcome(rank)[0] for rank in ranks]
        assert sorted(result["compiled"] for result in results) == [False, False, False, True]
        assert len({result["neff_sha256"] for result in results}) == 1
        assert len(compilers(host)) == 1
        assert max(result["seconds"] for result in results) < SELDOM_S
        assert locks(host) == []
        eventually(lambda: compiling(host) == [], "nobody compiles any more")


def test_when_the_compiling_process_dies_one_takes_over(make_daemon: MakeDaemon, spawn: Spawn) -> None:
    with make_daemon("host") as host:
        first = spawn(host, compile_s=60, lock_probe_s=SELDOM_S)
        eventually(lambda: compilers(host), "the compiler runs")
        others = [spawn(host, compile_s=0.5, lock_probe_s=SELDOM_S) for _ in range(3)]
        eventually(lambda: [row for row in compiling(host) if row["waiting"] == 3], "three wait")
        os.killpg(first.pid, signal.SIGKILL)
        results = [outcome(rank)[0] for rank in others]
        assert sorted(result["compiled"] for result in results) == [False, False, True]
        assert len(compilers(host)) == 2
        assert locks(host) == []
        assert host.counter("neffd_stale_locks_cleared") == 1


def test_a_compiler_that_outlives_its_trainer_keeps_the_lock_until_it_ends(
    make_daemon: MakeDaemon, spawn: Spawn
) -> None:
    with make_daemon("host") as host:
        first = spawn(host, compile_s=60, lock_probe_s=SELDOM_S)
        (compiler,) = eventually(lambda: compilers(host), "the compiler runs")
        other = spawn(host, lock_probe_s=SELDOM_S)
        eventually(lambda: [row for row in compiling(host) if row["waiting"] == 1], "one waits")
        first.kill()
        eventually(lambda: compiling(host)[0]["holder"] == "gone", "the daemon knows")
        eventually(lambda: "still work on it" in host.log, "it has looked for others")
        assert compiler in compiling(host)[0]["at_work"]
        assert not is_gone(compiler)
        assert len(locks(host)) == 1
        os.kill(compiler, signal.SIGKILL)
        assert outcome(other)[0]["compiled"]
        assert locks(host) == []


def test_nobody_waits_and_the_lock_goes_all_the_same(make_daemon: MakeDaemon, spawn: Spawn) -> None:
    with make_daemon("host") as host:
        first = spawn(host, compile_s=60)
        eventually(lambda: compilers(host), "the compiler runs")
        os.killpg(first.pid, signal.SIGKILL)
        eventually(lambda: locks(host) == [], "the lock is gone")
        assert outcome(spawn(host, lock_probe_s=SELDOM_S))[0]["compiled"]


def written_down(host: Daemon) -> bool:
    """Whether the database holds who has a lock: the only sign that the next daemon will know."""
    with contextlib.closing(sqlite3.connect(f"file:{host.home}/state/neffd.db?mode=ro", uri=True)) as database:
        return bool(database.execute("SELECT count(*) FROM held_locks").fetchone()[0])


@pytest.mark.parametrize("dies", [True, False])
def test_the_daemon_knows_who_held_a_lock_across_its_own_death(
    make_daemon: MakeDaemon, spawn: Spawn, dies: bool
) -> None:
    with make_daemon("host") as host:
        first = spawn(host, compile_s=1.5)
        (compiler,) = eventually(lambda: compilers(host), "the compiler runs")
        os.kill(compiler, signal.SIGSTOP)  # however long the daemon takes
        eventually(lambda: [row for row in compiling(host) if row["holder"] == "process"], "the daemon knows")
        eventually(lambda: written_down(host), "it is written down")
        host.kill()
        if dies:
            os.killpg(first.pid, signal.SIGKILL)
            first.wait()
        host.start()
        if dies:
            eventually(lambda: locks(host) == [], "the lock is gone")
            return
        (row,) = eventually(lambda: compiling(host), "it is found again")
        assert (row["holder"], row["pid"]) == ("process", first.pid)
        os.kill(compiler, signal.SIGCONT)
        assert outcome(first)[0]["compiled"]
        eventually(lambda: compiling(host) == [], "its end is seen")


def test_a_waiter_that_is_interrupted_leaves_nothing_behind(make_daemon: MakeDaemon, spawn: Spawn) -> None:
    with make_daemon("host") as host:
        first = spawn(host, compile_s=2)
        with held_up(host):
            other = spawn(host, lock_probe_s=SELDOM_S)
            eventually(lambda: [row for row in compiling(host) if row["waiting"] == 1], "one waits")
            other.send_signal(signal.SIGINT)
            _, errors = other.communicate(timeout=10)
            assert "KeyboardInterrupt" in errors
            eventually(lambda: [row for row in compiling(host) if row["waiting"] == 0], "nobody waits")
        assert outcome(first)[0]["compiled"]


def test_a_daemon_that_dies_leaves_the_waiters_to_stocks_own_way(make_daemon: MakeDaemon, spawn: Spawn) -> None:
    with make_daemon("host") as host:
        ranks = [spawn(host, compile_s=2) for _ in range(3)]
        with held_up(host):
            eventually(lambda: [row for row in compiling(host) if row["waiting"] == 2], "two wait")
            host.kill()
        assert sorted(outcome(rank)[0]["compiled"] for rank in ranks) == [False, False, True]
        assert len(compilers(host)) == 1


_THREADS = """
import neff; neff.install()
import os, threading
from tests.neuron import callers
from tests.neuron.graphs import load_graphs
(graph,) = load_graphs(["adam_update"])
threads = [threading.Thread(target=lambda: os.write(1, b"%d\\n" % len(callers.pjrt(graph).neff))) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
_FORKED = """
import os, neff; neff.install()
from tests.neuron import callers
from tests.neuron.graphs import load_graphs
first, second = load_graphs(["adam_update", "softmax_cross_entropy"])
callers.pjrt(first)  # now there is a connection, and a lock was held
children = []
for _ in range(3):
    pid = os.fork()
    if not pid:
        os.write(1, b"%d\\n" % len(callers.pjrt(second).neff))
        os._exit(0)
    children.append(pid)
os.write(1, b"%d\\n" % len(callers.pjrt(second).neff))
assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
"""


@pytest.mark.parametrize(("script", "graphs"), [(_THREADS, 1), (_FORKED, 2)])
def test_threads_and_forked_children_wait_for_each_other(make_daemon: MakeDaemon, script: str, graphs: int) -> None:
    with make_daemon("host") as host:
        environ = standin_env(host.cache, compile_log=host.home / "compiles", compile_s=1, lock_probe_s=SELDOM_S)
        environ["NEFFD_SOCKET"] = str(host.socket)
        environ["PYTHONPATH"] = f"{environ['PYTHONPATH']}:{python_path()}"
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=environ,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=SELDOM_S,
        )
        assert done.returncode == 0, done.stderr
        assert len(set(done.stdout.split())) == 1
        assert len(done.stdout.split()) == 4
        assert len(compilers(host)) == graphs
        assert locks(host) == []
        assert "neff:" not in done.stderr


@pytest.mark.parametrize(("locks_config", "environ"), [({"wait": False}, {}), ({}, {"NEFF_WAIT": "0"})])
def test_waiting_can_be_turned_off(
    make_daemon: MakeDaemon, spawn: Spawn, locks_config: dict[str, Any], environ: dict[str, str]
) -> None:
    with make_daemon("host", overrides={"locks": locks_config}) as host:
        ranks = [spawn(host, compile_s=1.5, environ=environ) for _ in range(3)]
        assert sorted(outcome(rank)[0]["compiled"] for rank in ranks) == [False, False, True]
        assert host.counter("neffd_waits", "end=ready") == 0


def test_only_so_many_waiters_a_user(make_daemon: MakeDaemon) -> None:
    name = entries.module(1)
    with make_daemon("host", overrides={"locks": {"max_waiters_per_uid": 1}}) as host:
        _lock(host, name)
        with contextlib.closing(_client(host)) as first, contextlib.closing(_client(host)) as second:
            first.send({"id": 1, "op": "wait", "namespace": name.namespace, "key": name.key})
            assert first.receive()["state"] == "compiling"
            answer = second.ask("wait", namespace=name.namespace, key=name.key)[-1]
            assert (answer["state"], answer["reason"]) == ("refused", "too-many-waiters")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"namespace": "../..", "key": "MODULE_1+00000000"},
        {"namespace": entries.NAMESPACE, "key": "../x"},
        {"namespace": 1, "key": []},
        {"namespace": entries.NAMESPACE, "key": entries.module(1).key, "inode": -1, "ctime_ns": "now"},
        {"namespace": entries.NAMESPACE, "key": entries.module(1).key, "inode": 2**70, "ctime_ns": 1},
    ],
)
def test_bad_requests_are_told(make_daemon: MakeDaemon, fields: dict[str, Any]) -> None:
    with make_daemon("host") as host, contextlib.closing(_client(host)) as client:
        for op in ("holding", "released"):
            assert client.ask(op, **fields)[-1]["error"]["code"] == "bad-request"
        if "inode" not in fields:
            assert client.ask("wait", **fields)[-1]["error"]["code"] == "bad-request"


def test_without_a_cache_directory_of_ours_nobody_waits(make_daemon: MakeDaemon) -> None:
    name = entries.module(1)
    with make_daemon("host") as host, contextlib.closing(RawClient(host.socket, {"root": "/elsewhere"})) as client:
        where = {"namespace": name.namespace, "key": name.key}
        assert client.ask("holding", **where, inode=1, ctime_ns=1) == [{"id": 1, "done": True}]
        assert client.ask("wait", **where)[-1] == {
            "id": 1,
            "state": "refused",
            "reason": "other-cache-dir",
            "done": True,
        }
        assert compiling(host) == []


def test_a_lock_of_somebody_else_is_never_removed(make_daemon: MakeDaemon) -> None:
    """Neither one that nobody registered, nor one that is not the file that was registered."""
    name = entries.module(1)
    with make_daemon("host") as host:
        lock = _lock(host, name)
        facts = lock.stat()
        script = (
            "import sys; from tests.harness.daemon import RawClient; from pathlib import Path\n"
            "client = RawClient(Path(sys.argv[1]), {'root': sys.argv[2]})\n"
            "print(client.ask('holding', namespace=sys.argv[3], key=sys.argv[4][::-1],"
            " inode=int(sys.argv[5]), ctime_ns=int(sys.argv[6]) + 1))"
        )
        arguments = [str(host.socket), str(host.cache), name.namespace, name.key[::-1]]
        subprocess.run(
            [sys.executable, "-c", script, *arguments, str(facts.st_ino), str(facts.st_ctime_ns)],
            env={**os.environ, "PYTHONPATH": python_path()},
            cwd=PROJECT,
            check=True,
            timeout=30,
        )
        with contextlib.closing(_client(host)) as client:
            client.send({"id": 1, "op": "wait", "namespace": name.namespace, "key": name.key})
            answer = client.receive()
            assert (answer["state"], answer["holder"], answer["pid"]) == ("compiling", "unknown", None)
            assert lock.exists()
            lock.unlink()
            while not (answer := client.receive()).get("done"):
                pass
            assert answer["state"] == "free"


def test_a_trainer_that_replaces_itself_does_not_wait_for_itself(make_daemon: MakeDaemon) -> None:
    """By `exec`: pid and start are the same, what held the lock is gone."""
    name = entries.module(1)
    with make_daemon("host") as host:
        folder = entries.write(host.cache, name, {})
        which = "\n".join([str(host.cache), str(folder / xla.LOCK), *name])
        done = subprocess.run(
            [sys.executable, "-m", "tests.integration.replacing_trainer"],
            env={**os.environ, "PYTHONPATH": python_path(), "NEFFD_SOCKET": str(host.socket), "WHICH": which},
            capture_output=True,
            text=True,
            check=False,
            timeout=SELDOM_S,
        )
        assert (done.stdout.split(), done.stderr) == (["free", "False"], "")
        assert "has replaced itself by another program" in host.log
        assert host.counter("neffd_stale_locks_cleared") == 1


def test_the_lock_of_the_whole_directory_is_never_ours(make_daemon: MakeDaemon, spawn: Spawn) -> None:
    """Up to 2.14 every look at the cache flocks one file at its root, which nobody but stock may make."""
    with make_daemon("a") as host, make_daemon("b") as other:
        assert outcome(spawn(host, generation="2.14"))[0]["compiled"]
        with (host.cache / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        host.wait_until_pushed(1)
        (namespace,) = [path.name for path in host.cache.iterdir() if path.name.startswith("neuronxcc-")]
        (key,) = [path.name for path in (host.cache / namespace).iterdir()]
        assert other.ask("prefetch", names=[f"{namespace}/{key}"], wait=True)[-2]["state"] == "ready"
        assert not (other.cache / "lock").exists()
        assert compiling(host) == compiling(other) == []


def _lock(host: Daemon, name: ModuleName) -> Path:
    lock = host.cache / name.namespace / name.key / "model.hlo_module.pb.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    return lock


def _client(host: Daemon) -> RawClient:
    return RawClient(host.socket, {"root": str(host.cache)})
