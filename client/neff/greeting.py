"""The client's half of the greeting: who asks, about which cache directory, as part of which job."""

from __future__ import annotations

import os
import time
from binascii import crc32
from collections.abc import Mapping
from typing import NamedTuple

from neff._version import __version__
from neff.handlers import pass_on
from neff.hubrepo import custom_repo
from neff.protocol import MAX_TEXT_CHARS, PROTOCOL_VERSION, Message
from neff.runs import marker

# Which ranks belong together (torchrun, Slurm) and what they compile for.
JOB_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "TORCHELASTIC_RUN_ID",
    "MASTER_ADDR",
    "MASTER_PORT",
    "SLURM_JOB_ID",
    "SLURM_PROCID",
    "SLURM_STEP_ID",
    "NEURON_RT_NUM_CORES",
    "NEURON_RT_VIRTUAL_CORE_SIZE",
    "NEURON_LOGICAL_NC_CONFIG",
)

Identity = tuple[int, int] | tuple[None, None]


class ToldAs(NamedTuple):
    """What a connection is for: with another directory or run it takes a new greeting."""

    identity: Identity
    run: str | None


def of_command(root: str | None = None) -> Message:
    """The greeting of a command: no job, and a cache directory only where it asks about one."""
    device, inode = (None, None) if root is None else identity_of(root)
    return {**_base(), "root": root, "device": device, "inode": inode, "repo": None, "job": {}}


def of_trainer(root: str, identity: Identity, environ: Mapping[str, str] | None = None) -> Message:
    """The greeting of a process whose cache directory is `root`."""
    environ = os.environ if environ is None else environ
    device, inode = identity
    job = {name: environ[name][:MAX_TEXT_CHARS] for name in JOB_VARIABLES if environ.get(name)}
    hello = {**_base(), "root": root, "device": device, "inode": inode, "repo": custom_repo(environ), "job": job}
    hello |= _program()
    run = marker.of_environment(environ)
    return hello if run is None else {**hello, "run": run.message()}


def identity_of(root: str) -> Identity:
    """(device, inode) of the directory, which tell it under any of its paths."""
    try:
        stat = os.stat(root)
    except OSError as error:
        pass_on(error)
        return None, None
    return stat.st_dev, stat.st_ino


def told_as(root: str) -> ToldAs:
    """What a greeting for `root` would tell of this process now."""
    return ToldAs(identity_of(root), os.environ.get(marker.VARIABLE))


def _program() -> Message:
    """Which program this process is now: by `exec` another takes its place, and its pid. Empty where that is unseen."""
    try:
        with open("/proc/self/auxv", "rb") as file:
            drawn = file.read()  # addresses that each start of a program draws anew
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            started = int(file.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError) as error:
        pass_on(error)
        return {}
    return {"program": {"number": crc32(drawn), "started": started, "at_ns": time.monotonic_ns()}} if drawn else {}


def _base() -> Message:
    return {"protocol": PROTOCOL_VERSION, "client": f"neff {__version__}", "pid": os.getpid()}
