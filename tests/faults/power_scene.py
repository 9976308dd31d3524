"""A day on a host, recorded: entries are compiled, pushed, fetched and evicted, the daemon stops and starts again."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from neff.keys import ModuleName
from neffd.remotes import provenance
from tests.faults import power_trace
from tests.faults.power_model import Recording, snapshot
from tests.harness import entries
from tests.harness.daemon import Daemon, python_path
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess

_NEW_NAMESPACE = "neuronxcc-2.21.1.0+0acef03a"  # not on the remote yet
# Compiled here, in this order; each is on the remote before the next is begun.
OWN = [entries.module(1), entries.module(2, entries.OLD_NAMESPACE), entries.module(3, _NEW_NAMESPACE)]
# On a directory and on a Hub from the beginning; the second of each meets a folder of the trainer's.
_FROM_DIRECTORY = [entries.module(11), entries.module(12)]
_FROM_HUB = [entries.module(13, entries.OLD_NAMESPACE), entries.module(14)]
FETCHED = _FROM_DIRECTORY + _FROM_HUB
_PENDING = [_FROM_DIRECTORY[1], _FROM_HUB[1]]
_REPO = "alice/cache"
_IGNORED = frozenset({"log", "notify", "neffd.sock", "neffd.yaml"})
_PENDING_FILES = {"model.hlo_module.pb": b"traced here"}


def content(name: ModuleName) -> dict[str, bytes]:
    """The files of an entry of this day."""
    seed = int(name.key.split("_")[1].split("+")[0]) % 100
    graph = _hlo(name.key.encode(), random.Random(seed).randbytes(5_000))
    return entries.files(name, seed) | {"model.hlo_module.pb": graph, "wrapped_neff.hlo": _hlo(b"wrapped", graph * 3)}


def _hlo(name: bytes, computation: bytes) -> bytes:
    """A protocol buffer as an HLO module is one: its name, then a long field."""
    size = len(computation)
    length = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
    return b"\x0a" + bytes([len(name)]) + name + b"\x1a" + length + computation


@dataclass(frozen=True)
class Scene:
    """What was recorded, and the host to which it happened."""

    host: Daemon
    shared: Path
    recording: Recording


def record(scratch: Path, hub: HubProcess) -> Scene:
    """Play the day on a host below `scratch`, an empty folder, which takes the trace too."""
    home = scratch.resolve() / "home"
    home.mkdir()
    shared = home / "shared"
    for name in _FROM_DIRECTORY:
        _publish_by_hand(shared, name)
    remotes = [
        {"name": "shared", "url": f"file://{shared}", "mode": "read-write", "poll_s": 0.2},
        {"name": "hub", "url": f"hf://{_REPO}", "mode": "read", "endpoint": hub.endpoint, "poll_s": 0.2},
    ]
    hub.seed_files(_REPO, {f"{name}/{file}": data for name in _FROM_HUB for file, data in content(name).items()})
    quick = {"upload": {"quiet_s": 0.05, "settle_s": 0.05, "max_delay_s": 0.2}}
    trace = scratch / "trace"
    recorded = power_trace.environ(trace, home)
    host = Daemon(home, remotes, quick, recorded, ("-m", "tests.faults.recorded_daemon"))
    base = snapshot(home)
    try:
        _play(host, recorded)
    finally:
        host.kill()
    host.environ.clear()
    return Scene(host, shared, Recording(home, power_trace.read(trace), base, _IGNORED))


def _play(host: Daemon, recorded: dict[str, str]) -> None:
    with _Trainer(host.cache, recorded) as trainer:
        host.start()
        host.ask("flush", timeout_s=5)  # what was there before the first scan is nobody's promise
        for name in OWN[:2]:
            trainer.writes(name, content(name))
            host.wait_until_pushed(OWN.index(name) + 1)
        for name in FETCHED:
            if name in _PENDING:
                trainer.writes(name, _PENDING_FILES)
            answers = host.ask("prefetch", names=[str(name)], wait=True)
            assert [answer["state"] for answer in answers if "state" in answer][-1] == "ready"
        assert host.stop() == 0
        host.config |= {"scan_s": 0.2, "store": {"max_entries": 4, "keep_used_s": 0.01}}
        host.start()
        trainer.writes(OWN[2], content(OWN[2]))
        host.wait_until_pushed(1)
        eventually(lambda: len(list(host.cache.glob("*/MODULE_*"))) < len(OWN + FETCHED) - 2, "some are evicted")
        assert host.stop() == 0
        del host.config["store"]


class _Trainer:
    """A process that writes entries when it is told to: of its own, since what it does is recorded too."""

    def __init__(self, cache: Path, recorded: dict[str, str]) -> None:
        environ = {**os.environ, **recorded, "PYTHONPATH": python_path()}
        command = [sys.executable, "-m", "tests.faults.power_trainer", str(cache)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ)

    def __enter__(self) -> _Trainer:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def writes(self, name: ModuleName, files: Mapping[str, bytes]) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump((name, dict(files)), self._process.stdin)
        self._process.stdin.flush()
        assert self._process.stdout.readline() == b"written\n"


def _publish_by_hand(shared: Path, name: ModuleName) -> None:
    folder = entries.write(shared, name, content(name))
    digests = {
        file: provenance.FileDigest(len(data), hashlib.sha256(data).hexdigest()) for file, data in content(name).items()
    }
    (folder / provenance.FILE_NAME).write_bytes(provenance.Provenance(digests).encode())
