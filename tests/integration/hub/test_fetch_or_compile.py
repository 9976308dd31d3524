"""A fetch and a compile of the same graph: whichever is first, and neither harms the other."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neff.keys import ModuleName
from neffd.layouts import xla
from tests.harness import entries
from tests.harness.daemon import PROJECT, Daemon, RawClient, python_path
from tests.harness.files import below
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess
from tests.integration.hub.conftest import REPO, MakeHost
from tests.integration.test_one_compile import held_up
from tests.neuron.env import standin_env

CONTENT = "GET /content/{store}/{key}"
# Waiters that look this seldom are woken, or too late.
SELDOM_S = 30.0
_LIMIT_S = 45

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def trained(make_host: MakeHost) -> str:
    """The full name of a graph that another host has shared."""
    with make_host("a") as host:
        (step,) = ended(start(host))
        assert host.ask("flush", timeout_s=20)[-1]["pending"] == 0
        (namespace,) = [path.name for path in host.cache.iterdir() if path.name.startswith("neuronxcc-")]
    return f"{namespace}/{step['key']}"


def start(host: Daemon, *, hooked: bool = True, **switches: Any) -> subprocess.Popen[str]:
    environ = standin_env(host.cache, compile_log=host.home / "compiles", lock_probe_s=SELDOM_S, **switches)
    environ["NEFFD_SOCKET"] = str(host.socket)
    environ["PYTHONPATH"] = f"{environ['PYTHONPATH']}:{python_path()}"
    command = [sys.executable, "-m", "tests.neuron.trainer", "--graphs", "adam_update"]
    return subprocess.Popen(
        [*command, *(["--install-neff"] if hooked else [])],
        env=environ,
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(trainer: subprocess.Popen[str]) -> list[dict[str, Any]]:
    output, errors = trainer.communicate(timeout=_LIMIT_S)
    assert trainer.returncode == 0, errors
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def compiles(host: Daemon) -> int:
    log = host.home / "compiles"
    return len(log.read_text().splitlines()) if log.exists() else 0


def staged(host: Daemon) -> list[Path]:
    return list((host.home / "cache.neffd" / "fetch").glob("*"))


def test_a_fetch_that_stalls_sets_one_compile_free(make_host: MakeHost, hub: HubProcess, trained: str) -> None:
    hub.add_fault("GET /content", kind="stall", times=None)
    with make_host("b", overrides={"fetch": {"stall_s": 1}}) as host:
        results = [ended(trainer)[0] for trainer in [start(host, compile_s=1) for _ in range(3)]]
        assert sorted(result["compiled"] for result in results) == [False, False, True]
        assert compiles(host) == 1
        assert len({result["neff_sha256"] for result in results}) == 1
        assert max(result["seconds"] for result in results) < SELDOM_S
        assert below(host.cache, "*.lock") == []


def test_ranks_behind_one_that_fetches_are_woken_when_it_is_there(
    make_host: MakeHost, hub: HubProcess, trained: str
) -> None:
    hub.add_fault("GET /content", kind="stall", times=None)
    with make_host("b", overrides={"fetch": {"stall_s": 60}}) as host:
        trainers = [start(host) for _ in range(3)]
        eventually(lambda: host.status()["fetching"], "the fetch is under way")
        hub.clear_faults()
        assert [ended(trainer)[0]["compiled"] for trainer in trainers] == [False] * 3
        assert compiles(host) == 0


def test_a_fetch_that_takes_longer_than_a_compile_goes_on_behind(make_host: MakeHost, hub: HubProcess) -> None:
    """A Hub repo does not say what a compile takes; what this host has compiled is of the same size, and took 0.6 s."""
    compiled, asked = entries.module(1), entries.module(2)
    hub.seed_files(REPO, {f"{asked}/{file}": data for file, data in entries.files(asked).items()})
    hub.add_fault("GET .*(/content/|model.neff)", kind="slow", bytes_per_s=500, times=None)
    with make_host("b") as host:
        host.cache.mkdir(exist_ok=True)
        facts = host.cache.stat()
        hello = {"root": str(host.cache), "device": facts.st_dev, "inode": facts.st_ino}
        with contextlib.closing(RawClient(host.socket, hello)) as client:
            lock = entries.write(host.cache, compiled, {xla.LOCK: b""}) / xla.LOCK
            told = {**compiled._asdict(), "inode": lock.stat().st_ino, "ctime_ns": lock.stat().st_ctime_ns}
            client.ask("holding", **told)
            eventually(lambda: host.status()["compiling"][0]["since_s"] >= 0.6, "it compiles for a while")
            entries.write(host.cache, compiled, entries.files(compiled))
            lock.unlink()
            client.ask("released", **told)
            answers = client.ask("resolve", namespace=asked.namespace, keys=[asked.key])
            (last,) = [answer for answer in answers if answer.get("state") in ("ready", "absent")]
            assert (last["state"], last["reason"]) == ("absent", "slower-than-compiling")
            assert {answer["give_up_s"] for answer in answers if answer.get("done_bytes")} == {5.0}
        (under_way,) = host.status()["fetching"]
        assert under_way["name"] == str(asked)
        assert under_way["done_bytes"] < under_way["total_bytes"]


def test_it_does_not_go_in_under_the_next_lock(make_host: MakeHost, hub: HubProcess, trained: str) -> None:
    """Who asked with the lock is gone by then; whoever has made the next one works on the entry."""
    namespace, _, key = trained.partition("/")
    hub.add_fault("GET /content", kind="stall", times=None)
    with make_host("b", overrides={"fetch": {"stall_s": 60}}) as host:
        lock = entries.write(host.cache, ModuleName(namespace, key), {xla.LOCK: b""}) / xla.LOCK
        facts = host.cache.stat()
        hello = {"root": str(host.cache), "device": facts.st_dev, "inode": facts.st_ino}
        with contextlib.closing(RawClient(host.socket, hello)) as client:
            client.send({"id": 1, "op": "resolve", "namespace": namespace, "keys": [key], "holding": [key]})
            eventually(lambda: host.status()["fetching"], "the fetch is under way")
            lock.with_name("next").touch()
            lock.with_name("next").replace(lock)
            hub.clear_faults()
            answers = [client.receive()]
            while answers[-1].get("state") not in ("ready", "absent"):
                answers.append(client.receive())
        assert answers[-1]["reason"] == "locked"
        assert [path.name for path in lock.parent.iterdir()] == [xla.LOCK]
        lock.unlink()
        eventually(lambda: host.ask("prefetch", names=[trained], wait=True)[-2]["state"] == "ready", "it goes in")


def test_a_fetch_that_ends_during_a_compile_is_dropped(make_host: MakeHost, hub: HubProcess, trained: str) -> None:
    hub.add_fault("GET /content", kind="stall", times=None)
    with make_host("b", overrides={"fetch": {"stall_s": 60}}) as host:
        host.ask("prefetch", names=[trained], wait=False)
        eventually(lambda: host.status()["fetching"], "the fetch is under way")
        trainer = start(host, hooked=False, compile_s=2)
        with held_up(host):
            hub.clear_faults()
            eventually(lambda: not host.status()["fetching"], "the fetch has ended")
            assert below(host.cache, "*.lock"), "the compile has not"
        (compiled,) = ended(trainer)
        assert compiled["compiled"]
        eventually(lambda: staged(host) == [], "the fetched copy is dropped")
        (again,) = ended(start(host))
        assert not again["compiled"]
        assert again["neff_sha256"] == compiled["neff_sha256"]
