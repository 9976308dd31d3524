"""A daemon run by root and a trainer that is somebody else, with umask 077: neither hinders the other."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from neffd.layouts import xla
from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.unit.store.as_user import User, needs_root

TRAINER = User(61_001, 61_001)


@pytest.fixture
def hosts() -> Iterator[list[Daemon]]:
    """Two hosts with one directory, in a folder that every user can pass through; pytest's own are for one alone."""
    place = Path(tempfile.mkdtemp(prefix="neffd users "))
    place.chmod(0o755)
    (place / "shared").mkdir()
    remotes = [{"name": "shared", "url": f"file://{place / 'shared'}", "mode": "read-write", "poll_s": 0.5}]
    made = [Daemon(place / name, remotes) for name in ("a", "b")]
    for host in made:
        host.cache.mkdir()
        os.chown(host.cache, TRAINER.uid, TRAINER.gid)
        host.start()
    yield made
    for host in made:
        host.kill()
    shutil.rmtree(place)


def _compile(cache: Path, number: int) -> None:
    name = entries.module(number)
    entries.write(cache, name, entries.files(name, seed=number))


def _use_and_compile_again(cache: Path, number: int) -> dict[str, int]:
    name = entries.module(number)
    folder = cache / name.namespace / name.key
    read = {file: len(data) for file, data in entries.read(cache, name).items()}
    (folder / xla.LOCK).touch()
    entries.write(cache, name, entries.files(name, seed=number))
    (folder / xla.LOCK).unlink()
    return read


@needs_root
def test_round_trip(hosts: list[Daemon]) -> None:
    host_a, host_b = hosts
    TRAINER.run(lambda: _compile(host_a.cache, 1))
    host_a.wait_until_pushed(1)
    name = entries.module(1)
    assert host_b.ask("prefetch", names=[str(name)], wait=True)[-2]["state"] == "ready"
    sizes = {file: len(data) for file, data in entries.files(name, seed=1).items()}
    assert TRAINER.run(lambda: _use_and_compile_again(host_b.cache, 1)) == sizes
    # In the namespace that the daemon made, too.
    TRAINER.run(lambda: _compile(host_b.cache, 2))
    host_b.wait_until_pushed(1)


@needs_root
def test_into_a_folder_of_the_trainers(hosts: list[Daemon]) -> None:
    host_a, host_b = hosts
    name = entries.module(1)
    TRAINER.run(lambda: _compile(host_a.cache, 1))
    host_a.wait_until_pushed(1)
    TRAINER.run(lambda: entries.write(host_b.cache, name, {"model.hlo_module.pb": b"x"}) and None)
    assert host_b.ask("prefetch", names=[str(name)], wait=True)[-2]["state"] == "ready"
    sizes = {file: len(data) for file, data in entries.files(name).items()} | {"model.hlo_module.pb": 1}
    assert TRAINER.run(lambda: _use_and_compile_again(host_b.cache, 1)) == sizes
    assert not (host_b.cache / name.namespace).stat().st_mode & 0o077
