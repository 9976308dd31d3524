"""The trainers: started, started again when they are killed, and watched for those that hang."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.harness.daemon import PROJECT, python_path
from tests.harness.processes import children
from tests.neuron.env import standin_env
from tests.soak.host import Host
from tests.soak.job import Job

_COMPILE_S = 0.6
# How often a waiter looks at a lock for itself, where the daemon does not wake it.
_LOCK_LOOK_S = 0.5
_RESTART_S = 0.5
# Much longer than any limit of a trainer's, also on a machine that is busy with other things.
HANGS_AFTER_S = 60.0


class Member:
    """One trainer, all its lives.

    Args:
        life_s: how long each of them is, unless it is killed; None for one that goes on.
    """

    def __init__(
        self,
        who: str,
        host: Host,
        folder: Path,
        began_s: float,
        home_s: float,
        seed: int,
        life_s: float | None = None,
    ) -> None:
        self.who, self.host = who, host
        self.records = folder / f"{who}.records"
        self.errors = folder / f"{who}.log"
        self.orders = folder / f"{host.name}.orders"
        self.lives = 0
        self.own_ends: list[int] = []
        self.hung = 0
        self._folder, self._began_s, self._home_s, self._seed = folder, began_s, home_s, seed
        self._life_s = life_s
        self._asked: set[int] = set()
        self.process: subprocess.Popen[bytes] | None = None
        self._again_at = 0.0
        self._started_at = 0.0
        self.orders.mkdir(exist_ok=True)

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def job(self, sweep: list[int] | None = None) -> Job:
        return Job(
            who=self.who,
            host=self.host.name,
            cache=str(self.host.cache),
            records=str(self.records),
            orders=str(self.orders),
            work=str(self._folder / f"{self.who}-{self.lives}.work"),
            parent=os.getpid(),
            began_s=self._began_s,
            home_s=self._home_s,
            seed=f"{self._seed}-{self.who}-{self.lives}",
            sweep=sweep,
            length_s=self._life_s,
        )

    def start(self, sweep: list[int] | None = None) -> subprocess.Popen[bytes]:
        """Begin one more life."""
        shutil.rmtree(self.job().work, ignore_errors=True)
        self.lives += 1
        environ = standin_env(
            self.host.cache, compile_s=_COMPILE_S, lock_probe_s=_LOCK_LOOK_S, neff_bytes_per_hlo_byte=1
        )
        environ |= {"NEFFD_SOCKET": str(self.host.socket), "PYTHONPATH": f"{environ['PYTHONPATH']}:{python_path()}"}
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.soak.trainer", self.job(sweep).encode()],
                env=environ,
                cwd=PROJECT,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
        self._started_at = time.time()
        return self.process

    def kill(self, *, with_compiler: bool) -> bool:
        """kill -9; without its compiler, that goes on."""
        process = self.process
        if process is None or process.poll() is not None:
            return False
        self._asked.add(process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL) if with_compiler else process.kill()
        return True

    def compilers(self) -> list[int]:
        """Its compilers at work."""
        process = self.process
        with contextlib.suppress(OSError):
            return children(process.pid) if process is not None and self.is_alive else []
        return []

    def look_after(self) -> None:
        """Start it again if it has ended; end it if it hangs."""
        if self.process is None or self.process.poll() is not None:
            if self.process is not None and self._again_at == 0.0:
                self._note_end(self.process)
                self._again_at = time.monotonic() + _RESTART_S
            elif time.monotonic() >= self._again_at:
                self._again_at = 0.0
                self.start()
        elif self.is_hung:
            self.hung += 1
            self.kill(with_compiler=True)

    @property
    def is_hung(self) -> bool:
        """Whether it has written nothing down for too long."""
        written_at = self.records.stat().st_mtime if self.records.exists() else 0.0
        return time.time() - max(written_at, self._started_at) > HANGS_AFTER_S

    def finish(self, deadline: float) -> None:
        """Wait until it has ended as it was told to; it hangs if that is not before `deadline`, monotonic seconds."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.hung += 1
            self.kill(with_compiler=True)
        if self.process.wait() != 0:
            self._note_end(self.process)

    def _note_end(self, process: subprocess.Popen[bytes]) -> None:
        may_end = self._life_s is not None and process.returncode == 0
        if process.pid not in self._asked and not may_end:
            self.own_ends.append(process.returncode)


class Crew:
    """All trainers, and a thread that looks after them."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look_after, name="crew", daemon=True)

    def begin(self) -> None:
        for member in self.members:
            member.start()
        self._thread.start()

    def pick(self, chance: random.Random, host: str | None = None) -> Member | None:
        """One that is alive."""
        alive = [member for member in self.members if member.is_alive and host in (None, member.host.name)]
        return chance.choice(alive) if alive else None

    def end(self) -> None:
        """Let each finish what it is at; who cannot hangs."""
        self._ending.set()
        self._thread.join()
        for member in self.members:
            (member.orders / "end").touch()
        deadline = time.monotonic() + HANGS_AFTER_S
        for member in self.members:
            member.finish(deadline)

    def abandon(self) -> None:
        """kill -9 for all."""
        self._ending.set()
        for member in self.members:
            member.kill(with_compiler=True)

    def _look_after(self) -> None:
        while not self._ending.wait(0.2):
            for member in self.members:
                member.look_after()
