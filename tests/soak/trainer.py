"""One trainer of the soak: meets graphs through the hook and the stand-in stack, and checks every byte that it gets.

`python -m tests.soak.trainer JOB` in the environment of `tests.neuron.env.standin_env`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import neff

neff.install()

import libneuronxla  # noqa: E402, what a trainer imports comes after the hook
from libneuronxla import neuron_cc_wrapper  # noqa: E402

from neffd.layouts import xla  # noqa: E402
from tests.soak import graphs  # noqa: E402
from tests.soak.graphs import SoakGraph  # noqa: E402
from tests.soak.job import Job, choose, graphs_so_far  # noqa: E402
from tests.soak.records import Records  # noqa: E402

_PAUSE_S = (0.8, 2.4)
_LOOK_SHARE = 0.3
_SWEEP_TRIES = 15
_REST_LOOK_S = 0.5


class Trainer:
    """One life."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._chance = random.Random(job.seed)
        self._records = Records(Path(job.records), job.who)
        self._number = 0
        self._listen_to_the_compiler()

    def run(self) -> int:
        if self._job.sweep is not None:
            return 0 if all([self._obtain(number) for number in self._job.sweep]) else 1
        began = time.monotonic()
        while os.getppid() == self._job.parent and not self._job.is_told("end"):
            if self._job.is_told("rest"):
                self._records.add("rests")
                time.sleep(_REST_LOOK_S)
                continue
            if self._job.length_s is not None and time.monotonic() - began > self._job.length_s:
                return 0
            self._meet(choose(self._chance, self._job, time.monotonic() - self._job.began_s))
            if self._chance.random() < _LOOK_SHARE:
                self._look()
            time.sleep(self._chance.uniform(*_PAUSE_S))
        return 0

    def _obtain(self, number: int) -> bool:
        """Have a graph in the end, as a launcher that tries again would."""
        for _ in range(_SWEEP_TRIES):
            if self._meet(number):
                return True
            time.sleep(1)
        self._records.add("unobtainable", number=number)
        return False

    def _meet(self, number: int) -> bool:
        """Have one graph compiled or found; false where that failed in a way that a trainer has to expect."""
        self._number, graph, began = number, graphs.graph(number), time.monotonic()
        self._records.add("meets", number=number)
        try:
            neff_bytes, wrapped = self._compile(graph)
        except (subprocess.CalledProcessError, OSError) as error:
            expected = isinstance(error, subprocess.CalledProcessError) or error.errno in _DISK_ERRORS
            self._records.add("failed" if expected else "odd", number=number, error=repr(error)[:500])
            return False
        finally:
            shutil.rmtree(self._job.work, ignore_errors=True)
        flaw = graphs.flaw_of_neff(graph, neff_bytes)
        if not flaw and graph.is_wrapped and neff_bytes not in wrapped:
            flaw = "a wrapped module of another compile"
        if flaw:
            self._torn(graph, flaw)
        seconds = round(time.monotonic() - began, 3)
        self._records.add("has", number=number, host=self._job.host, seconds=seconds)
        return True

    def _compile(self, graph: SoakGraph) -> tuple[bytes, bytes]:
        options: dict[str, Any] = {"cache_key": graph.graph_hash, "work_dir": self._job.work}
        flags = list(graph.flags)
        if graph.is_wrapped:
            return libneuronxla.neuron_xla_wlo_compile(graph.hlo, flags, **options)
        return libneuronxla.neuron_xla_compile(graph.hlo, flags, **options), b""

    def _look(self) -> None:
        """Read an entry in place; all of it must be whole if the ready mark was there before and after."""
        newest = graphs_so_far(time.monotonic() - self._job.began_s)
        graph = graphs.graph(self._chance.randrange(newest))
        folder = Path(self._job.cache, graph.name.namespace, graph.name.key)
        before = _identity(folder / xla.DONE)
        if before is None:
            return
        files: dict[str, bytes] = {}
        with contextlib.suppress(OSError):
            files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        flaw = graphs.flaw(graph, files)
        if _identity(folder / xla.DONE) != before:
            return  # evicted meanwhile
        self._records.add("looked", number=graph.number)
        if flaw:
            self._torn(graph, f"in place: {flaw}")

    def _torn(self, graph: SoakGraph, flaw: str) -> None:
        """Keep what was seen."""
        folder = Path(self._job.cache, graph.name.namespace, graph.name.key)
        kept = Path(self._job.records).parent / f"torn-{graph.number}-{time.monotonic_ns()}"
        with contextlib.suppress(OSError, shutil.Error):
            shutil.copytree(folder, kept)
        self._records.add("torn", number=graph.number, flaw=flaw, name=str(graph.name), kept=str(kept))

    def _listen_to_the_compiler(self) -> None:
        """Note what every compile has made, before the stack publishes it."""
        stock = neuron_cc_wrapper.call_neuron_compiler

        def told(*args: Any, **kwargs: Any) -> None:
            stock(*args, **kwargs)
            output = args[3]
            digest = hashlib.sha256(Path(output).read_bytes()).hexdigest()
            self._records.add("compiled", number=self._number, sha256=digest)

        neuron_cc_wrapper.call_neuron_compiler = told


# The small disk is full.
_DISK_ERRORS = (errno.ENOSPC,)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_ctime_ns


if __name__ == "__main__":
    sys.exit(Trainer(Job.parse(sys.argv[1])).run())
