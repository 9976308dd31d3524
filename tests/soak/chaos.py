"""Carrying out what was drawn: who is hit is drawn when it is done, among those that can be."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from neffd.layouts import xla
from tests.harness.processes import worker_of
from tests.soak import graphs
from tests.soak.crew import Crew
from tests.soak.host import Host
from tests.soak.hub_side import HubSide
from tests.soak.job import graphs_so_far
from tests.soak.plan import Event, Kind, is_kill
from tests.soak.wallclock import JUMPS_S, RIGHT_S

_STALL_S = (0.5, 8.0)
_FULL_S = (4.0, 12.0)
_OUTAGE_S = (3.0, 15.0)
_SENDING_S = 1.5
_PATIENCE_S = 4.0
# As long as a trainer may need from its look at the ready mark to the NEFF.
_MARK_FIRST_S = 2.0
_ATTEMPTS = 30


class Chaos:
    """Does the events of a run.

    Args:
        hosts: those that may be hit.

    Attributes:
        done: how often what was done.
    """

    def __init__(self, hosts: Sequence[Host], crew: Crew, hub: HubSide, began_s: float, seed: int) -> None:
        self._hosts, self._crew, self._hub, self._began_s = hosts, crew, hub, began_s
        self._chance = random.Random(f"{seed}-victims")
        self._over = threading.Event()
        self._aside = ThreadPoolExecutor(8, thread_name_prefix="chaos")
        self.done: Counter[Kind] = Counter()
        self._by_kind: dict[Kind, Callable[[], bool]] = {
            Kind.KILL_DAEMON: self._kill_daemon,
            Kind.KILL_DAEMON_SENDING: self._kill_daemon_sending,
            Kind.KILL_WORKER: self._kill_worker,
            Kind.KILL_TRAINER: self._kill_trainer,
            Kind.KILL_COMPILER: self._kill_compiler,
            Kind.RESTART: lambda: self._host().send(signal.SIGTERM),
            Kind.STALL: self._stall,
            Kind.FILL_DISK: self._fill_disk,
            Kind.JUMP_CLOCK: self._jump_clock,
            Kind.REMOVE: self._remove,
            Kind.OUTAGE: self._outage,
            Kind.FAULT: self._fault,
        }

    def run(self, events: Sequence[Event], length_s: float) -> None:
        """Do each at its time, until `length_s` after the beginning."""
        for event in events:
            time.sleep(max(0.0, self._began_s + event.at_s - time.monotonic()))
            self._carry_out(event.kind)
        time.sleep(max(0.0, self._began_s + length_s - time.monotonic()))

    def end(self) -> None:
        """Undo what can be undone: everything runs, has room and the right time again."""
        self._over.set()
        self._aside.shutdown(wait=True)
        for host in self._hosts:
            host.send(signal.SIGCONT)
            if host.disk is not None:
                host.disk.free()
                host.is_full = False
            if host.clock is not None:
                host.clock.jump(RIGHT_S)

    def _carry_out(self, kind: Kind) -> None:
        """A kill has to hit: another victim where there is none just now, in the end any daemon."""
        work = self._by_kind[kind]
        deadline = time.monotonic() + _PATIENCE_S
        has_hit = work()
        while not has_hit and is_kill(kind) and time.monotonic() < deadline:
            time.sleep(0.1)
            has_hit = work()
        if not has_hit and is_kill(kind):
            kind, has_hit = Kind.KILL_DAEMON, self._kill_any_daemon()
        self.done[kind] += has_hit

    def _host(self) -> Host:
        return self._chance.choice(self._hosts)

    def _kill_daemon(self) -> bool:
        return self._host().send(signal.SIGKILL)

    def _kill_any_daemon(self) -> bool:
        while not self._over.is_set():
            if self._kill_daemon():
                return True
            time.sleep(0.1)
        return False

    def _kill_daemon_sending(self) -> bool:
        """In the middle of a commit, or about then."""
        host, wait_s = self._host(), self._chance.uniform(0, _SENDING_S)
        self._aside.submit(host.question, "flush", timeout_s=_SENDING_S)
        time.sleep(wait_s)
        return host.send(signal.SIGKILL)

    def _kill_worker(self) -> bool:
        host = self._host()
        with contextlib.suppress(OSError, AssertionError):
            worker = worker_of(host.pid)
            if worker is not None:
                os.kill(worker, signal.SIGKILL)
                return True
        return False

    def _kill_trainer(self) -> bool:
        member = self._crew.pick(self._chance)
        return member is not None and member.kill(with_compiler=self._chance.random() < 0.5)

    def _kill_compiler(self) -> bool:
        for member in self._chance.sample(self._crew.members, len(self._crew.members)):
            for compiler in member.compilers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(compiler, signal.SIGKILL)
                    return True
        return False

    def _stall(self) -> bool:
        self._aside.submit(self._host().stall, self._chance.uniform(*_STALL_S))
        return True

    def _fill_disk(self) -> bool:
        host = next((host for host in self._hosts if host.disk is not None and not host.disk.missing), None)
        if host is not None and not host.is_full:
            self._aside.submit(self._full_for, host, self._chance.uniform(*_FULL_S))
        return host is not None

    def _full_for(self, host: Host, seconds: float) -> None:
        assert host.disk is not None
        host.is_full = True
        host.disk.fill()
        self._over.wait(seconds)
        host.disk.free()
        self._over.wait(seconds)  # what a full disk has done may show a little later
        host.is_full = False

    def _jump_clock(self) -> bool:
        host = next((host for host in self._hosts if host.clock is not None and not host.clock.missing), None)
        if host is not None and host.clock is not None:
            host.clock.jump(self._chance.choice(JUMPS_S))
        return host is not None

    def _remove(self) -> bool:
        """A user removes an entry, of which the daemon says that it is sent or waits: not even a mark stays."""
        newest = graphs_so_far(time.monotonic() - self._began_s)
        host = self._host()
        for number in self._chance.choices(range(newest), k=_ATTEMPTS):
            folder = host.cache / graphs.graph(number).name.namespace / graphs.graph(number).name.key
            if (folder / xla.DONE).exists():
                self._aside.submit(self._remove_entry, host, number)
                return True
        return False

    def _remove_entry(self, host: Host, number: int) -> None:
        name = graphs.graph(number).name
        answers = host.question("why", name=str(name))
        remotes = answers[-1].get("why", {}).get("remotes", []) if answers else []
        if not any(remote.get("holds") or remote.get("waiting_since") for remote in remotes):
            return
        folder = host.cache / name.namespace / name.key
        with contextlib.suppress(OSError):
            (folder / xla.DONE).unlink()
            time.sleep(_MARK_FIRST_S)
            if not (folder / xla.LOCK).exists() and not (folder / xla.DONE).exists():  # else somebody makes it anew
                trash = host.cache.with_name(f"trash-{time.monotonic_ns()}")
                folder.rename(trash)
                shutil.rmtree(trash)

    def _outage(self) -> bool:
        self._aside.submit(self._hub.outage, self._chance.uniform(*_OUTAGE_S), self._over)
        return True

    def _fault(self) -> bool:
        with contextlib.suppress(OSError, ValueError):  # it is down
            self._hub.add_fault(self._chance)
            return True
        return False
