"""What the daemon knows of jobs: what they used, what the next one is going to need, whether it will compile."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import entries
from tests.harness.daemon import Daemon, RawClient
from tests.harness.listing import modules_told
from tests.harness.waiting import TOLD_S, eventually
from tests.integration.conftest import MakeDaemon

pytestmark = pytest.mark.timeout(120)

NAMES = [entries.module(number) for number in range(6)]
INGREDIENTS: dict[str, Any] = {
    "version": 1,
    "model": {"id": "org/model", "type": "llama"},
    "shapes": {"batch_size": 1, "sequence_length": 128},
    "compiler": entries.NAMESPACE.removeprefix("neuronxcc-"),
    "cores": 8,
}


def a_run(instance: str, ingredients: dict[str, Any] = INGREDIENTS) -> dict[str, Any]:
    digest = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()
    return {"key": f"RUN_{digest[:32]}", "instance": instance, "ingredients": ingredients, "private": False}


@contextlib.contextmanager
def rank_of(daemon: Daemon, run: dict[str, Any] | None, **fields: Any) -> Iterator[RawClient]:
    """A process of a run, greeted as the client greets."""
    daemon.cache.mkdir(parents=True, exist_ok=True)
    facts = daemon.cache.stat()
    hello = {"root": str(daemon.cache), "device": facts.st_dev, "inode": facts.st_ino, "pid": os.getpid(), **fields}
    with contextlib.closing(RawClient(daemon.socket, hello | ({"run": run} if run else {}))) as client:
        yield client


def compile_all(daemon: Daemon, client: RawClient, names: list[Any]) -> None:
    """Ask for each in turn and make what is not there, as a trainer does."""
    for name in names:
        client.ask("resolve", namespace=name.namespace, keys=[name.key])
        entries.write(daemon.cache, name, entries.files(name))


def plan(daemon: Daemon, run: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = daemon.ask("plan", run=run)[-1]["plan"]
    return answer


def known(told: dict[str, Any]) -> dict[str, Any]:
    """A plan that no remote was too slow for; else nothing."""
    return {} if told["away"] else told


def test_the_next_host_has_all_before_it_asks(make_daemon: MakeDaemon, shared: Path) -> None:
    first, second, third = make_daemon("first"), make_daemon("second"), make_daemon("third")
    first.start()
    with rank_of(first, a_run("one")) as client:
        compile_all(first, client, NAMES)
        first.wait_until_pushed(len(NAMES))
        summary = client.ask("run-ended")[-1]["run"]
    assert summary["names"] == [str(name) for name in NAMES]
    eventually(lambda: len(modules_told(shared)) == len(NAMES), "the manifest is on the remote", TOLD_S)
    assert plan(first, a_run("again"))["state"] == "warm"

    second.start()
    told = eventually(lambda: known(plan(second, a_run("two"))), "what the remote tells, read to its end")
    assert (told["state"], told["modules"], told["remote"], told["sure"]) == ("fetchable", 6, 6, "same-key")
    assert told["names"] == [str(name) for name in NAMES]
    third.start()
    changed = a_run("three", {**INGREDIENTS, "shapes": {"batch_size": 4, "sequence_length": 128}})
    other = eventually(lambda: known(plan(third, changed)), "the same for another run")
    assert (other["state"], other["missing"], other["differs"]) == ("will-compile", 6, ["shapes.batch_size"])

    with rank_of(second, a_run("two")) as client:
        eventually(
            lambda: all(entries.read(second.cache, name).keys() >= {"model.done"} for name in NAMES),
            "all are there though nobody asked",
        )
        client.ask("used", modules=[[*name, 0.0] for name in NAMES])
        summary = client.ask("run-ended")[-1]["run"]
    assert (summary["prefetched"], summary["compiled"]) == (6, 0)
    assert second.counter("neffd_prefetch_used_bytes", "source=same-key") > 0
    assert second.counter("neffd_prefetch_wasted_bytes", "source=same-key") == 0


def test_a_run_goes_on_after_a_restart_of_the_daemon(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon("host")
    daemon.start()
    with rank_of(daemon, a_run("one")) as client:
        compile_all(daemon, client, NAMES[:3])
        eventually(lambda: written_modules(daemon) == 3, "they are written down")
    daemon.kill()
    daemon.start()
    with rank_of(daemon, a_run("one")) as client:
        compile_all(daemon, client, NAMES[3:])
        summary = client.ask("run-ended")[-1]["run"]
    assert summary["names"] == [str(name) for name in NAMES]


def test_who_says_nothing_is_known_by_its_command(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon("host")
    daemon.start()
    with rank_of(daemon, None) as first, rank_of(daemon, None) as second:
        compile_all(daemon, first, NAMES[:2])
        second.ask("used", modules=[[*NAMES[2], 0.0]])
        (shown,) = daemon.status()["runs"]["running"]
        assert (shown["modules"], shown["processes"]) == (3, 2)
        assert shown["key"].startswith("RUN_")


def test_what_a_run_uses_is_not_evicted(make_daemon: MakeDaemon) -> None:
    limits = {"max_entries": 2, "keep_used_s": 0.01, "evict_unshared": True}
    daemon = make_daemon("host", overrides={"store": limits})
    daemon.start()
    with rank_of(daemon, a_run("one")) as client:
        client.ask("used", modules=[[*name, 0.0] for name in NAMES[:3]])
        for name in NAMES[:3]:
            entries.write(daemon.cache, name, entries.files(name))
        daemon.ask("flush", timeout_s=20)
        eventually(lambda: daemon.status()["cache_dirs"][0]["space"]["kept"] == {"pinned": 3}, "all three stay")
        assert all(entries.read(daemon.cache, name) == entries.files(name) for name in NAMES[:3])


def test_ranks_of_one_launcher_are_one_run(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon("host")
    daemon.start()
    job = {"TORCHELASTIC_RUN_ID": "abc", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29400", "WORLD_SIZE": "2"}
    with rank_of(daemon, None, job={**job, "RANK": "0"}), rank_of(daemon, None, job={**job, "RANK": "1"}):
        (shown,) = daemon.status()["runs"]["running"]
        assert shown["instance"] == "torchrun:abc:10.0.0.1:29400"
        assert shown["processes"] == 2


def test_what_a_compiler_version_has_is_brought_within_a_budget(make_daemon: MakeDaemon, shared: Path) -> None:
    for name in NAMES:
        entries.write(shared, name, entries.files(name))
    daemon = make_daemon("host")
    daemon.start()
    answers = daemon.ask("prefetch", compiler=entries.NAMESPACE, wait=True)
    assert answers[0]["plan"]["modules"] == len(NAMES)
    assert {a["name"]: a["state"] for a in answers if "name" in a} == {str(name): "ready" for name in NAMES}


def written_modules(daemon: Daemon) -> int:
    """How many modules of runs are in the daemon's database."""
    import sqlite3

    path = daemon.home / "state" / "neffd.db"
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM run_modules").fetchone()[0])
