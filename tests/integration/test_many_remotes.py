"""An ordered list of remotes of any kind: nearest first, copies where they are wanted, no trouble handed on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neff import exitcodes
from neff.commands import prefetch
from tests.harness import entries
from tests.harness.commands import Person
from tests.harness.daemon import Daemon
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess


def directory(path: Path, mode: str = "read-write", **options: Any) -> dict[str, Any]:
    path.mkdir(exist_ok=True)
    return {"name": path.name, "url": f"file://{path}", "mode": mode, "poll_s": 0.5, **options}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    started: list[Daemon] = []

    def make(host: str, *remotes: dict[str, Any]) -> Daemon:
        daemon = Daemon(tmp_path / host, list(remotes))
        started.append(daemon)
        daemon.start()
        return daemon

    yield make
    for daemon in started:
        daemon.kill()


def state(host: Daemon, name: object) -> str:
    answers = host.ask("prefetch", names=[str(name)], wait=True)
    final = [answer for answer in answers if answer.get("state") in ("ready", "absent")][-1]
    return str(final.get("source") or final.get("reason"))


def test_own_entries_go_to_every_writable_remote(tmp_path: Path, start: Any) -> None:
    near, far, closed = tmp_path / "near", tmp_path / "far", tmp_path / "closed"
    host = start("a", directory(near), directory(far), directory(closed, "read"))
    name = entries.module(1)
    content = entries.files(name)
    entries.write(host.cache, name, content)
    host.wait_until_pushed(1, "near")
    host.wait_until_pushed(1, "far")
    assert entries.shared(entries.read(near, name)) == entries.shared(entries.read(far, name)) == content
    assert list(closed.iterdir()) == []


def test_the_first_remote_that_has_it_is_used(tmp_path: Path, start: Any) -> None:
    name, only_far = entries.module(1), entries.module(2)
    near, far = tmp_path / "near", tmp_path / "far"
    for folder in (near, far):
        entries.write(folder, name, entries.files(name))
    entries.write(far, only_far, entries.files(only_far))
    host = start("a", directory(near, "read"), directory(far, "read"))
    assert state(host, name) == "near"
    assert state(host, only_far) == "far"


def test_a_refused_copy_is_had_from_the_next_remote(tmp_path: Path, start: Any) -> None:
    name = entries.module(1)
    near, far = tmp_path / "near", tmp_path / "far"
    content = entries.files(name)
    entries.write(near, name, content | {"model.neff": content["model.neff"][:5000]})
    entries.write(far, name, content)
    host = start("a", directory(near, "read"), directory(far, "read"))
    assert state(host, name) == "far"
    assert entries.read(host.cache, name) == content
    assert host.counter("neffd_refused", "remote=near,reason=short-neff") == 1


def test_fetched_entries_are_copied_only_to_a_mirror(tmp_path: Path, start: Any) -> None:
    theirs, mirror, plain = tmp_path / "theirs", tmp_path / "mirror", tmp_path / "plain"
    name = entries.module(1)
    content = entries.files(name)
    entries.write(theirs, name, content)
    host = start("a", directory(theirs, "read"), directory(mirror, mirror=True), directory(plain))
    assert state(host, name) == "theirs"
    host.wait_until_pushed(1, "mirror")
    assert host.ask("flush", timeout_s=20)[-1]["pending"] == 0
    assert entries.shared(entries.read(mirror, name)) == content
    assert entries.read(plain, name) == {}


def test_a_silent_remote_does_not_delay_the_others_answer(tmp_path: Path, start: Any) -> None:
    name = entries.module(1)
    far = tmp_path / "far"
    entries.write(far, name, entries.files(name))
    with HubProcess(tmp_path / "hub") as hub:
        hub.seed_files("alice/cache", {})
        hub.add_fault(".", kind="stall", times=None)
        silent = {"name": "silent", "url": "hf://alice/cache", "endpoint": hub.endpoint, "anonymous": True}
        host = start("a", silent, directory(far, "read"))
        assert state(host, name) == "far"
        eventually(hub.recent_requests, "the nearer remote is asked, and still silent")
        # What nobody else holds is answered too, within the asker's limit.
        assert state(host, entries.module(2)) == "remote-unavailable"
        hub.clear_faults()
        eventually(lambda: state(host, entries.module(2)) == "not-on-remotes", "the remote to be asked again")


@pytest.mark.parametrize("is_silent", [False, True])
def test_nobody_takes_an_outage_for_nothing_to_bring(tmp_path: Path, start: Any, is_silent: bool) -> None:
    """An init container goes by the exit code of `neff prefetch --wait`."""
    name = entries.module(1)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    near = tmp_path / "near"
    with HubProcess(tmp_path / "hub") as hub:
        hub.add_fault(".", times=None, **({"kind": "stall"} if is_silent else {"status": 503}))
        sick = {"name": "sick", "url": "hf://alice/cache", "endpoint": hub.endpoint, "anonymous": True}
        host, person = start("a", sick, directory(near, "read")), Person(tmp_path / "person", hub.endpoint)

        def prefetched(*which: str) -> tuple[int, str]:
            done = person.neff("--socket", str(host.socket), "prefetch", "--wait", *which)
            return done.returncode, done.stdout

        away = "  could not be asked, or not to the end: sick\n"
        compiler = ("--compiler", name.namespace)
        for which in (("--model", str(tmp_path)), ("--run", f"RUN_{'0' * 32}"), compiler):
            assert prefetched(*which) == (exitcodes.FAILED, f"nothing is known to be brought\n{away}")
        told = json.loads(prefetched(*compiler, "--json")[1])["plan"]
        assert set(told) == set(re.findall(r"(\w+) \(", prefetch.JSON["plan"])), "what is documented"
        assert (told["modules"], told["away"]) == (0, ["sick"])
        entries.write(near, name, entries.files(name))
        eventually(lambda: prefetched(*compiler)[0] == exitcodes.OK, "what the other remote holds")
        assert prefetched(*compiler)[1] == f"ready     {name} from local\n{away}"
