"""Whatever is wrong with the daemon, a trainer's results are those that it has without neffd, and it asks once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import PROJECT, python_path
from tests.harness.files import below
from tests.harness.waiting import eventually
from tests.integration.conftest import MakeDaemon
from tests.neuron.env import standin_env
from tests.unit.client.scripted import HELLO, Peer, ScriptedDaemon, answering
from tests.unit.store.as_user import needs_root

# What stock makes of a graph depends on nothing else.
SAME_BYTES = {"neff_uuid": "12345678-1234-5678-1234-567812345678"}


def hung(peer: Peer) -> None:
    peer.read()
    peer.hang()


def hung_after_the_greeting(peer: Peer) -> None:
    peer.greet(alive_s=1.0)
    peer.hang()


def slow(peer: Peer) -> None:
    """Says that it lives, and never the answer."""
    peer.greet(alive_s=1.0)
    request = peer.read()
    while True:
        peer.send({"id": request["id"], "key": request.get("keys", ["?"])[0], "state": "asking"})
        time.sleep(0.2)


def killed_in_the_middle(peer: Peer) -> None:
    peer.greet()
    peer.read()
    peer.send_raw(b'{"id": 1, "key": "MODULE_')


def garbage(peer: Peer) -> None:
    peer.read()
    peer.send_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def garbage_after_the_greeting(peer: Peer) -> None:
    peer.greet()
    peer.read()
    peer.send_raw(b"\x00\xff\n" * 100)


def ready_and_it_is_not(peer: Peer) -> None:
    answering(lambda request, key: [{"state": "ready", "source": "nowhere"}], [])(peer)


def older(peer: Peer) -> None:
    """A daemon without locks and waits, and without a word on how often it speaks."""
    answering(lambda request, key: [{"state": "absent", "reason": "not-on-remotes"}], [])(peer)


def newer(peer: Peer) -> None:
    hello: dict[str, Any] = {"protocol": 7, "capabilities": ["resolve", "teleport"], "moons": [1, 2]}
    answering(lambda request, key: [{"state": "dreaming"}, {"state": "absent", "reason": "new"}], [], **hello)(peer)


def too_new(peer: Peer) -> None:
    peer.read()
    peer.send({"hello": {**HELLO["hello"], "protocol": 7, "capabilities": ["ask"]}})
    peer.hang()


_DAEMONS: dict[str, tuple[Callable[[Peer], None], str | None]] = {
    "hung": (hung, "silent"),
    "hung after the greeting": (hung_after_the_greeting, "silent"),
    "slow": (slow, "too-slow"),
    "killed in the middle": (killed_in_the_middle, "lost"),
    "garbage": (garbage, "garbage"),
    "garbage after the greeting": (garbage_after_the_greeting, "garbage"),
    "ready and it is not": (ready_and_it_is_not, None),
    "older": (older, None),
    "newer": (newer, None),
    "too new": (too_new, "unsupported"),
}
# Of these one question is enough; the others answer every one.
_BACKED_OFF = {
    "hung",
    "hung after the greeting",
    "slow",
    "killed in the middle",
    "garbage",
    "garbage after the greeting",
    "too new",
}


def train(cache: Path, *, daemon: Path | None, prefix: tuple[str, ...] = ()) -> tuple[list[dict[str, Any]], str]:
    """A trainer over all graphs: its steps without their times, and its log."""
    environ = standin_env(cache, **SAME_BYTES)
    environ["PYTHONPATH"] = f"{environ['PYTHONPATH']}:{python_path()}"
    hook = [] if daemon is None else ["--install-neff"]
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "tests.neuron.trainer", *hook],
        env=environ | ({} if daemon is None else {"NEFFD_SOCKET": str(daemon)}),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for step in steps:
        del step["seconds"]
    return steps, done.stderr


def said(log: str) -> list[str]:
    """The reasons that the hook gave."""
    return [line.rpartition("(")[2].rstrip(")") for line in log.splitlines() if line.startswith("neff: ")]


@pytest.fixture
def socket_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="neff") as folder:
        yield Path(folder) / "s"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What a trainer has without neffd."""
    steps, log = train(tmp_path_factory.mktemp("alone") / "cache", daemon=None)
    assert all(step["compiled"] for step in steps)
    assert said(log) == []
    return steps


@pytest.mark.parametrize("kind", _DAEMONS)
def test_a_daemon_of_any_kind(tmp_path: Path, alone: list[dict[str, Any]], socket_path: Path, kind: str) -> None:
    script, reason = _DAEMONS[kind]
    with ScriptedDaemon(socket_path, script) as daemon:
        steps, log = train(tmp_path / "cache", daemon=socket_path)
        # A silent or slow one is left a message at each lock: it may only be starved.
        assert daemon.connections == 1 or reason in ("silent", "too-slow") or kind not in _BACKED_OFF
    assert steps == alone
    assert said(log) == ([] if reason is None else [reason])


@pytest.mark.parametrize("kind", ["no socket", "refused"])
def test_nobody_there(tmp_path: Path, alone: list[dict[str, Any]], socket_path: Path, kind: str) -> None:
    if kind == "refused":
        with socket.socket(socket.AF_UNIX) as left:  # closed, and the file stays
            left.bind(str(socket_path))
            left.listen()
    steps, log = train(tmp_path / "cache", daemon=socket_path)
    assert steps == alone
    assert said(log) == ["no-daemon"]


@needs_root
def test_no_permission(make_daemon: MakeDaemon, alone: list[dict[str, Any]]) -> None:
    with make_daemon("host") as host:
        host.socket.chmod(0o600)
        cache = host.home / "of-nobody"
        cache.mkdir(mode=0o777)
        cache.chmod(0o777)
        prefix = ("setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search", "--no-new-privs")
        # Root without its capabilities is nobody to a socket that belongs to somebody else.
        os.chown(host.socket, 65534, 65534)
        steps, log = train(cache, daemon=host.socket, prefix=prefix)
        assert steps == alone
        assert said(log) == ["no-permission"]


def test_a_full_disk_of_the_daemons(make_daemon: MakeDaemon, tmp_path: Path, alone: list[dict[str, Any]]) -> None:
    """Its database cannot grow: everything is answered, and locks are watched all the same."""
    with make_daemon("host") as host:
        wal = host.home / "state" / "neffd.db-wal"
        eventually(wal.exists, "the database is in use")
        limit = wal.stat().st_size + 1
        subprocess.run(["prlimit", "--pid", str(host.pid), f"--fsize={limit}:{limit}"], check=True)
        steps, log = train(host.cache, daemon=host.socket)
        assert steps == alone
        assert said(log) == []
        assert not below(host.cache, "*.lock")
        assert host.status()["state"] == "running"


def test_the_daemon_hears_afterwards_what_could_not_be_asked(make_daemon: MakeDaemon) -> None:
    script = (
        "import sys; from neff.asking import Asker; from neff.keys import ModuleName\n"
        "from neff.waits import Waits\n"
        "class Later(Waits):\n"
        "    late_s = 0.0\n"
        "    def now_s(self): return super().now_s() + self.late_s\n"
        "waits = Later(); asker = Asker(sys.argv[1] + '.not-yet', waits=waits)\n"
        "def ask(number):\n"
        "    asker.is_ready(sys.argv[2], ModuleName(sys.argv[3], f'MODULE_{number}+00000000'), holding=False)\n"
        "ask(1); ask(2); asker.socket_path = sys.argv[1]; waits.late_s = 60.0; ask(3)\n"
    )
    with make_daemon("host") as host:
        arguments = [str(host.socket), str(host.cache), "neuronxcc-2.20.9961.0+0acef03a"]
        environ = {**os.environ, "PYTHONPATH": python_path()}
        subprocess.run([sys.executable, "-c", script, *arguments], env=environ, check=True, timeout=30)
        assert host.counter("neffd_client_failures", "reason=no-daemon") == 1
        page = subprocess.run(
            [sys.executable, "-m", "neff.cli", "--socket", str(host.socket), "status"],
            env=environ,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert "neffd_client_failures{reason=no-daemon}" in page.stdout, page.stderr
