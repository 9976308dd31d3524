"""Compiles that fail: what the next trainer on the host meets, with the stand-in stack and a real daemon."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import PROJECT, Daemon, python_path
from tests.harness.files import below
from tests.harness.waiting import eventually
from tests.integration.conftest import MakeDaemon
from tests.neuron.env import standin_env

OOM = "[F137] neuronx-cc was forcibly killed - This most commonly occurs due to insufficient system memory."
BROKEN = "[NCC_EVRF059] the graph is not supported"
GRAPH = ("--graphs", "adam_update")


def run(
    script: str, host: Daemon, *arguments: str, hook: bool = True, environ: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """A trainer of the stand-in stack on `host`, with the hook installed or without it."""
    child_environ = standin_env(host.cache, compile_log=host.home / "compiles", **options)
    child_environ |= {"NEFFD_SOCKET": str(host.socket), **(environ or {})}
    child_environ["PYTHONPATH"] = f"{child_environ['PYTHONPATH']}:{python_path()}"
    command = [sys.executable, "-m", f"tests.neuron.{script}", *(["--install-neff"] if hook else []), *arguments]
    return subprocess.run(command, env=child_environ, cwd=PROJECT, capture_output=True, text=True, timeout=50)


def neff(host: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The `neff` command."""
    environ = {**os.environ, "PYTHONPATH": python_path(), "NEFFD_SOCKET": str(host.socket)}
    command = [sys.executable, "-m", "neff.cli", *arguments]
    return subprocess.run(command, env=environ, cwd=PROJECT, capture_output=True, text=True, timeout=50)


def compiles(host: Daemon) -> int:
    log = host.home / "compiles"
    return len(log.read_text().splitlines()) if log.exists() else 0


def logs(host: Daemon) -> list[Path]:
    return below(host.cache, "model.log")


def name_of(log: Path) -> str:
    return f"{log.parent.parent.name}/{log.parent.name}"


@pytest.mark.parametrize("generation", ["2.14", "2.15+"])
def test_after_a_compiler_was_killed_the_next_trainer_compiles(make_daemon: MakeDaemon, generation: str) -> None:
    with make_daemon("a") as host:
        failed = run("trainer", host, *GRAPH, exit_code=70, fail_log=OOM, generation=generation)
        assert failed.returncode != 0
        eventually(lambda: host.counter("neffd_failed_compiles", "action=set-aside,reason=out-of-memory"), "set aside")
        done = run("trainer", host, *GRAPH, generation=generation)
        assert done.returncode == 0, done.stderr
        assert compiles(host) == 2
        assert "neff:" not in done.stderr
        assert host.ask("flush", timeout_s=20)[-1]["pending"] == 0
        assert host.counter("neffd_published_entries", "remote=shared") == 1


def test_stock_alone_would_fail_for_ever(make_daemon: MakeDaemon) -> None:
    """What the test above is about: the same without a daemon."""
    host = make_daemon("a")
    host.cache.mkdir()
    assert run("trainer", host, *GRAPH, exit_code=70, fail_log=OOM, hook=False).returncode != 0
    assert run("trainer", host, *GRAPH, hook=False).returncode != 0
    assert compiles(host) == 1


def test_a_diagnosed_failure_stays_and_is_told_once(make_daemon: MakeDaemon) -> None:
    with make_daemon("a") as host:
        assert run("trainer", host, *GRAPH, exit_code=70, fail_log=BROKEN).returncode != 0
        eventually(lambda: host.counter("neffd_failed_compiles", "action=kept,reason=compiler-error"), "kept")
        again = run("trainer", host, *GRAPH)
        assert again.returncode != 0
        assert compiles(host) == 1
        told = [line for line in again.stderr.splitlines() if "(failed-before)" in line]
        assert len(told) == 1
        assert BROKEN in told[0]
        (log,) = logs(host)
        shown = neff(host, "why", log.parent.name)
        assert shown.returncode == 0, shown.stderr
        assert name_of(log) in shown.stdout
        assert BROKEN in shown.stdout
        assert f"to have it compiled again: rm {log}" in shown.stdout
        subprocess.run(["rm", str(log)], check=True)
        assert run("trainer", host, *GRAPH).returncode == 0
        assert compiles(host) == 2


def test_the_bound_holds_over_restarts_of_the_daemon(make_daemon: MakeDaemon) -> None:
    host = make_daemon("a", overrides={"failures": {"max_retries": 2}})
    for attempt in range(3):
        host.start()
        assert run("trainer", host, *GRAPH, exit_code=-9, fail_log="Killed").returncode != 0
        assert compiles(host) == attempt + 1
        counted = f"action={'kept' if attempt == 2 else 'set-aside'},reason=killed"
        eventually(lambda c=counted: host.counter("neffd_failed_compiles", c), "judged")  # type: ignore[misc]
        assert host.stop() == 0
    with host:
        (log,) = logs(host)
        eventually(lambda: host.counter("neffd_failed_compiles", "action=kept,reason=killed"), "judged again")
        story = host.ask("why", name=name_of(log))[-1]["why"]
        assert story["here"][0]["failure"]["kept"] == "retries-used-up"
        assert run("trainer", host, *GRAPH).returncode != 0
        assert compiles(host) == 3
        kinds = [event["what"] for event in story["events"] if event["what"].startswith("failure")]
        assert kinds == ["failure-set-aside", "failure-set-aside", "failure-kept"]


def test_switched_off_nothing_is_touched(make_daemon: MakeDaemon) -> None:
    with make_daemon("a", overrides={"failures": {"set_aside": False}}) as host:
        assert run("trainer", host, *GRAPH, exit_code=70, fail_log=OOM).returncode != 0
        eventually(lambda: host.counter("neffd_failed_compiles", "action=kept,reason=out-of-memory"), "kept")
        again = run("trainer", host, *GRAPH)
        assert again.returncode != 0
        assert "set-aside-off" in again.stderr
        assert len(logs(host)) == 1


def test_failures_from_before_the_daemon_in_two_directories_of_two_daemons(make_daemon: MakeDaemon) -> None:
    hosts = [make_daemon("a"), make_daemon("b")]
    for host in hosts:
        host.cache.mkdir()
        assert run("trainer", host, *GRAPH, exit_code=70, fail_log=OOM, hook=False).returncode != 0
    for host in hosts:
        with host:
            eventually(lambda h=host: not logs(h), "set aside")  # type: ignore[misc]
            assert run("trainer", host, *GRAPH).returncode == 0
            assert compiles(host) == 2


def test_a_failed_entry_that_a_remote_holds_is_fetched(make_daemon: MakeDaemon) -> None:
    with make_daemon("a") as host_a, make_daemon("b") as host_b:
        assert run("trainer", host_b, *GRAPH, exit_code=70, fail_log=BROKEN).returncode != 0
        assert run("trainer", host_a, *GRAPH).returncode == 0
        assert host_a.ask("flush", timeout_s=20)[-1]["pending"] == 0
        (log,) = logs(host_b)

        def is_listed() -> bool:  # a listing may be `poll_s` old
            holds: bool = host_b.ask("why", name=name_of(log))[-1]["why"]["remotes"][0]["holds"]
            return holds

        eventually(is_listed, "the other host has seen it")
        done = run("trainer", host_b, *GRAPH)
        assert done.returncode == 0, done.stderr
        assert compiles(host_b) == 1


def extract(host: Daemon) -> None:
    """neuron_parallel_compile's first phase, without the hook: nobody asks the daemon for anything."""
    done = run("trainer", host, hook=False, environ={"NEURON_EXTRACT_GRAPHS_ONLY": "1"})
    assert done.returncode == 0, done.stderr


def compile_all(host: Daemon) -> list[dict[str, Any]]:
    """Its second phase."""
    done = run("parallel_compile", host, "--parallel", "2", hook=False)
    assert done.returncode == 0, done.stderr
    reports: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return reports


def test_extracted_graphs_are_fetched_before_anybody_compiles(make_daemon: MakeDaemon) -> None:
    with make_daemon("a") as host_a, make_daemon("b") as host_b:
        extract(host_a)
        compile_all(host_a)
        assert compiles(host_a) == 6
        assert host_a.ask("flush", timeout_s=20)[-1]["pending"] == 0
        extract(host_b)
        eventually(lambda: host_b.counter("neffd_fetched_entries", "remote=shared") == 6, "all six are fetched")
        assert compile_all(host_b) == []
        assert compiles(host_b) == 0
        assert not below(host_b.cache, "*.lock")
        key = next(host_b.cache.rglob("model.done")).parent.name
        assert "extracted, and fetched from shared before anybody asked" in neff(host_b, "why", key).stdout


def test_extracted_graphs_are_left_alone_where_that_is_switched_off(make_daemon: MakeDaemon) -> None:
    with make_daemon("a") as host_a, make_daemon("b", overrides={"fetch": {"pending": False}}) as host_b:
        assert run("trainer", host_a, *GRAPH).returncode == 0
        assert host_a.ask("flush", timeout_s=20)[-1]["pending"] == 0
        extract(host_b)
        eventually(lambda: host_b.status()["cache_dirs"][0]["entries"]["pending"] == 6, "seen")
        compile_all(host_b)
        assert compiles(host_b) == 6
        assert host_b.counter("neffd_fetched_entries", "remote=shared") == 0


def test_the_story_of_a_module_on_two_hosts(make_daemon: MakeDaemon) -> None:
    settles = {"settle_s": 2}  # as by default: a trainer tells of its compile before the entry is taken
    with make_daemon("a", overrides={"upload": settles}) as host_a, make_daemon("b") as host_b:
        assert run("trainer", host_a, *GRAPH, compile_s=1, environ={"RANK": "3"}).returncode == 0
        assert host_a.ask("flush", timeout_s=20)[-1]["pending"] == 0
        assert run("trainer", host_b, *GRAPH).returncode == 0
        key = next(host_a.cache.rglob("model.done")).parent.name
        story = host_a.ask("why", name=key)[-1]["why"]
        kinds = [event["what"] for event in story["events"]]
        assert [kind for kind in kinds if kind != "asked"] == ["compiled", "taken", "delivered"]
        asked = story["events"][0]
        assert (asked["reason"], asked["uid"], asked["job"]["RANK"]) == ("not-on-remotes", os.getuid(), "3")
        compiled = next(event for event in story["events"] if event["what"] == "compiled")
        assert 1 <= compiled["seconds"] < 20
        assert story["here"][0]["compile_s"] == compiled["seconds"]

        fetched = host_b.ask("why", name=key[len("MODULE_") : 20])[-1]["why"]
        assert fetched["here"][0]["origin"] == "remote:shared"
        assert fetched["here"][0]["compile_s"] == compiled["seconds"]
        shown = neff(host_b, "why", key).stdout
        assert "fetched from shared" in shown
        assert "remote shared: has it" in shown

        host_a.stop()
        host_a.start()
        assert [event["what"] for event in host_a.ask("why", name=key)[-1]["why"]["events"]] == kinds


def test_a_miss_shows_what_comes_nearest(make_daemon: MakeDaemon) -> None:
    with make_daemon("a") as host:
        assert run("trainer", host, *GRAPH, flags="--model-type=transformer").returncode == 0
        made = next(host.cache.rglob("model.done")).parent
        failed = run("trainer", host, *GRAPH, flags="--lnc=2", exit_code=70, fail_log=BROKEN)
        assert failed.returncode != 0
        (log,) = logs(host)
        story = host.ask("why", name=log.parent.name)[-1]["why"]
        (other,) = story["nearest"]["other_flags"]
        assert other["name"].endswith(made.name)
        assert (other["only_asked"], other["only_other"]) == (["--lnc=2"], ["--model-type=transformer"])
        shutil.copytree(made, host.cache / "neuronxcc-2.21.1.0+abc" / log.parent.name)
        eventually(
            lambda: host.ask("why", name=name_of(log))[-1]["why"]["nearest"]["other_compilers"],
            "the same key under another compiler",
        )


def test_names_that_nobody_knows_or_too_many_have(make_daemon: MakeDaemon) -> None:
    with make_daemon("a") as host:
        unknown = neff(host, "why", "MODULE_123+e30acd3a")
        assert (unknown.returncode, unknown.stdout) == (3, "")
        assert neff(host, "why", "neuronxcc-2.20.1.0+abc/MODULE_123+e30acd3a").returncode == 3
        assert neff(host, "why", "--json", "no/such/thing").returncode == 3
        assert run("trainer", host, flags="--model-type=transformer").returncode == 0
        many = neff(host, "why", "MODULE")
        assert many.returncode == 1
        assert len(many.stdout.splitlines()) == 6
        assert "beginning of more than one" in many.stderr
        bad = host.ask("why", name=["x"])[-1]
        assert bad["error"]["code"] == "bad-request"
