"""The socket of a real daemon: which directory a client means, and what a hostile one can do."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from neff import protocol
from tests.harness import entries
from tests.harness.daemon import Daemon, RawClient
from tests.harness.waiting import eventually
from tests.integration.conftest import MakeDaemon

NAME = entries.module(1)


def greet(host: Daemon, path: Path, **fields: Any) -> dict[str, Any]:
    """The daemon's greeting for a trainer that uses the cache directory `path`."""
    facts = path.stat()
    hello = {"root": str(path), "device": facts.st_dev, "inode": facts.st_ino, **fields}
    with contextlib.closing(RawClient(host.socket, hello)) as client:
        answer: dict[str, Any] = client.hello
        return answer


def test_the_same_directory_under_another_path(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    with make_daemon("a") as host:
        link = tmp_path / "link"
        link.symlink_to(host.cache)
        for path in (host.cache, link):
            assert greet(host, path)["root"] == str(host.cache)
            assert greet(host, path)["reason"] is None
        other = tmp_path / "other"
        other.mkdir()
        answer = greet(host, other)
        assert (answer["root"], answer["reason"]) == (None, "other-cache-dir")
        entries.write(host.cache, NAME, entries.files(NAME))
        facts = link.stat()
        hello = {"root": str(link), "device": facts.st_dev, "inode": facts.st_ino}
        with contextlib.closing(RawClient(host.socket, hello)) as client:
            assert client.ask("resolve", namespace=NAME.namespace, keys=[NAME.key])[0]["state"] == "ready"
        with contextlib.closing(RawClient(host.socket)) as client:
            answer = client.ask("resolve", namespace=NAME.namespace, keys=[NAME.key])[0]
            assert (answer["state"], answer["reason"]) == ("absent", "no-cache-dir")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a directory")
def test_the_same_directory_through_a_bind_mount(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    with make_daemon("a") as host:
        mount = tmp_path / "mount"
        mount.mkdir()
        if subprocess.run(["mount", "--bind", str(host.cache), str(mount)], capture_output=True).returncode:
            pytest.skip("no mounts here")
        try:
            assert greet(host, mount)["root"] == str(host.cache)
        finally:
            subprocess.run(["umount", "-l", str(mount)], check=True)


def test_noise_never_hurts_the_daemon(make_daemon: MakeDaemon) -> None:
    chance = random.Random(7)
    hello = json.dumps({"hello": {"protocol": 1}}).encode() + b"\n"
    lines = [
        chance.randbytes(5_000),
        b"\n" * 1_000,
        b"x" * (protocol.MAX_LINE_BYTES + 2),
        b"[" * 50_000 + b"\n",
        b'{"id": 1, "op": ' + b"[" * 960 + b"]" * 960 + b"}\n",
        b'{"id": 1, "op": "prefetch", "names": 7}\n',
        b'{"id": 1, "op": "prefetch", "names": ["' + b"\\u0001" * 40_000 + b'"]}\n',
        b'{"id": 1, "op": "flush", "timeout_s": 1e400}\n',
        b'{"id": 1, "op": "resolve", "namespace": {}, "keys": [""]}\n',
        b'{"id": 1, "op": "stat',
    ]
    with make_daemon("a") as host:
        for line in lines:
            for start in (b"", hello):
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(10)
                    client.connect(str(host.socket))
                    with contextlib.suppress(ConnectionError):
                        client.sendall(start + line)
                        client.shutdown(socket.SHUT_WR)
                        while client.recv(65_536):
                            pass
        eventually(lambda: host.counter("neffd_connections") == 1, "all connections have ended")
        assert host.stop() == 0
        assert "Traceback" not in host.log
        assert "ERROR" not in host.log


def test_flush_that_is_withdrawn_in_the_middle(make_daemon: MakeDaemon) -> None:
    with make_daemon("a") as host:
        for _ in range(30):
            with contextlib.closing(RawClient(host.socket)) as client:
                client.send({"id": 1, "op": "flush", "timeout_s": 60})
        assert host.ask("flush", timeout_s=10)[-1]["done"]
        assert host.stop() == 0
        assert "Traceback" not in host.log
