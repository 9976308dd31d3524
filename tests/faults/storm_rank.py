"""One rank of the storm: meets every graph, in an order of its own, and tells what it compiled and what it has."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import neff

neff.install()

from libneuronxla import neuron_cc_wrapper  # noqa: E402, what a trainer imports comes after the hook
from neuronxcc.wire import bytes_field  # noqa: E402

from tests.neuron import callers  # noqa: E402
from tests.neuron.graphs import Graph, load_graphs  # noqa: E402

_TRIES = 50
_UNUSED_FIELD = 1000


def graph(number: int) -> Graph:
    """A real graph with a field of its own that nobody reads."""
    (real,) = load_graphs(["softmax_cross_entropy"])
    return Graph(f"graph{number}", Path(os.devnull), real.data + bytes_field(_UNUSED_FIELD, str(number).encode()))


class Events:
    """One line an event, in a file that all ranks append to."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def add(self, what: str, **facts: Any) -> None:
        os.write(self._fd, json.dumps({"what": what, "rank": os.getpid(), **facts}).encode() + b"\n")


def compiled(number: int) -> bytes | None:
    """A graph's NEFF; None where the compiler was killed, after which a trainer's launcher would try again."""
    try:
        return callers.pjrt(graph(number)).neff
    except RuntimeError:
        time.sleep(0.01)
        return None


def main() -> int:
    events, count, seed = Events(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    stock = neuron_cc_wrapper.call_neuron_compiler
    current = ""

    def told(*args: Any, **kwargs: Any) -> None:
        events.add("starts", graph=current)
        try:
            stock(*args, **kwargs)
        except BaseException:
            events.add("failed", graph=current)
            raise

    neuron_cc_wrapper.call_neuron_compiler = told
    events.add("ready")
    for number in random.Random(seed).sample(range(count), count):
        current = graph(number).name
        neff_bytes = next((made for made in map(compiled, [number] * _TRIES) if made is not None), None)
        if neff_bytes is not None:
            events.add("has", graph=current, sha256=hashlib.sha256(neff_bytes).hexdigest())
    events.add("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
