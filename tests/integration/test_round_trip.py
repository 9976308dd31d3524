"""What one host compiled, the next does not: through real daemons and a directory remote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neffd.remotes import provenance
from tests.harness import entries
from tests.harness.daemon import RawClient
from tests.harness.waiting import eventually
from tests.integration.conftest import MakeDaemon


@pytest.mark.parametrize(
    "namespace",
    ["neuronxcc-2.13.66.0+6dfecc895", entries.OLD_NAMESPACE, "neuronxcc-2.15.128.0+56dc5a86", entries.NAMESPACE],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_generation_arrives_byte_for_byte(
    make_daemon: MakeDaemon, shared: Path, namespace: str, wrapped: bool
) -> None:
    name = entries.module(1, namespace)
    content = entries.files(name, seed=7, wrapped=wrapped)
    with make_daemon("a") as host_a, make_daemon("b") as host_b:
        entries.write(host_a.cache, name, content)
        host_a.wait_until_pushed(1)
        answers = host_b.ask("prefetch", names=[str(name)], wait=True)
        assert [answer["state"] for answer in answers if "state" in answer][-1] == "ready"
        assert entries.read(host_b.cache, name) == content
        assert entries.shared(entries.read(shared, name)) == content


def test_an_entry_that_was_fetched_is_not_pushed_again(make_daemon: MakeDaemon) -> None:
    name = entries.module(1)
    with make_daemon("a") as host_a, make_daemon("b") as host_b:
        entries.write(host_a.cache, name, entries.files(name))
        host_a.wait_until_pushed(1)
        host_b.ask("prefetch", names=[str(name)], wait=True)
        assert host_b.ask("flush", timeout_s=20)[-1]["pending"] == 0
        assert host_b.counter("neffd_published_entries", "remote=shared") == 0
        assert host_b.counter("neffd_already_there", "remote=shared") == 0


def test_provenance_states_every_file(make_daemon: MakeDaemon, shared: Path) -> None:
    name = entries.module(1)
    content = entries.files(name)
    with make_daemon("a") as host:
        entries.write(host.cache, name, content)
        host.wait_until_pushed(1)
    stated = provenance.parse((shared / name.namespace / name.key / "neffd.json").read_bytes())
    assert stated is not None
    assert {file: digest.size_bytes for file, digest in stated.files.items()} == {
        file: len(data) for file, data in content.items()
    }
    assert stated.compile_s is not None


def test_a_file_that_comes_later_goes_as_an_amendment(make_daemon: MakeDaemon, shared: Path) -> None:
    name = entries.module(1)
    content = entries.files(name)
    with make_daemon("a") as host:
        folder = entries.write(host.cache, name, content)
        host.wait_until_pushed(1)
        (folder / "wrapped_neff.hlo").write_bytes(b"late")
        assert host.ask("flush", timeout_s=20)[-1]["pending"] == 0
        remote = shared / name.namespace / name.key
        assert (remote / "wrapped_neff.hlo").read_bytes() == b"late"
        assert "wrapped_neff.hlo" in json.loads((remote / "neffd.json").read_bytes())["files"]


def test_the_same_key_with_other_bytes_stays_the_first_hosts(make_daemon: MakeDaemon, shared: Path) -> None:
    name = entries.module(1)
    first, second = entries.files(name, seed=1), entries.files(name, seed=2)
    with make_daemon("a") as host_a, make_daemon("b") as host_b:
        entries.write(host_a.cache, name, first)
        host_a.wait_until_pushed(1)
        entries.write(host_b.cache, name, second)
        host_b.wait_until_pushed(1)
        assert host_b.counter("neffd_already_there", "remote=shared") == 1
        assert host_b.journal_is_empty()
    assert entries.shared(entries.read(shared, name)) == first
    assert entries.read(host_b.cache, name) == second


def test_32_askers_at_once_cause_one_fetch(make_daemon: MakeDaemon) -> None:
    name = entries.module(1)
    with make_daemon("a") as host_a, make_daemon("b") as host_b:
        entries.write(host_a.cache, name, entries.files(name))
        host_a.wait_until_pushed(1)
        facts = host_b.cache.stat()
        hello = {"root": "/another/path", "device": facts.st_dev, "inode": facts.st_ino}
        clients = [RawClient(host_b.socket, hello) for _ in range(32)]
        for client in clients:
            client.send({"id": 1, "op": "resolve", "namespace": name.namespace, "keys": [name.key]})
        for client in clients:
            states: list[str] = []
            while not states or states[-1] != "done":
                answer = client.receive()
                states.append(answer.get("state") or "done")
            assert states[-2] == "ready"
            client.close()
        assert host_b.counter("neffd_fetched_entries", "remote=shared") == 1


def test_a_host_sees_what_another_published_meanwhile(make_daemon: MakeDaemon) -> None:
    with make_daemon("a") as host_a, make_daemon("b") as host_b:
        for number in range(3):
            name = entries.module(number)
            assert host_b.ask("prefetch", names=[str(name)], wait=True)[-2]["reason"] == "not-on-remotes"
            entries.write(host_a.cache, name, entries.files(name))
            host_a.wait_until_pushed(number + 1)
            eventually(
                lambda name=name: host_b.ask("prefetch", names=[str(name)], wait=True)[-2]["state"] == "ready",  # type: ignore[misc]
                "the other host's entry",
                timeout_s=5,
            )


def test_unfinished_failed_and_foreign_things_are_never_taken(make_daemon: MakeDaemon, shared: Path) -> None:
    with make_daemon("a") as host:
        good = entries.module(0)
        locked, pending, failed, traced = (entries.module(number) for number in range(1, 5))
        content = entries.files(locked)
        folder = entries.write(host.cache, locked, {"model.hlo_module.pb": b"x", "compile_flags.json": b"[]"})
        (folder / "model.hlo_module.pb.lock").touch()
        (folder / "model.neff").write_bytes(content["model.neff"])
        entries.write(host.cache, pending, {"model.hlo_module.pb": b"x", "compile_flags.json": b"[]"})
        entries.write(host.cache, failed, {"model.hlo_module.pb": b"x", "model.done": b""})
        (entries.write(host.cache, failed, {}) / "model.log").write_text("Failed compilation")
        traced_folder = host.cache / traced.namespace / "MODULE_0123456789abcdef0123"
        traced_folder.mkdir()
        (traced_folder / "model.neff").write_bytes(b"weights inside")
        (traced_folder / "model.done").touch()
        outside = host.home / "secret"
        outside.write_bytes(b"secret")
        linked = entries.module(9)
        (entries.write(host.cache, linked, entries.files(linked)) / "wrapped_neff.hlo").symlink_to(outside)
        entries.write(host.cache, good, {**entries.files(good), "notes.txt": b"mine"})
        host.wait_until_pushed(2)
        assert host.ask("flush", timeout_s=20)[-1]["pending"] == 0
    on_remote = sorted(path.name for path in (shared / good.namespace).iterdir())
    assert on_remote == sorted([good.key, linked.key])
    assert set(entries.read(shared, good)) == {*entries.files(good), "neffd.json"}
    assert "wrapped_neff.hlo" not in entries.read(shared, linked)
