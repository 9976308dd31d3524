"""Which run a process belongs to: what its greeting says, else the launcher's variables, else the process tree."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from neff.keys import is_run_key
from neff.protocol import Message, safe_text
from neffd.compiles.processes import start_time

# As much as a client may say of its run.
MAX_RUN_BYTES = 16_000
# How a launcher tells each rank apart, which makes no other run of it.
_RANK_ARGUMENTS = ("--local_rank=", "--local-rank=")
_NO_RENDEZVOUS = "none"
_MOST_COMMAND_BYTES = 65_536
_MOST_DEPTH = 40
_MOST_ANCESTORS = 64
_NAME = re.compile(r"(-?[0-9]{1,10}):(.*)", re.DOTALL)
_INFERRED = "inferred"
# The owner of what is nobody's business.
PRIVATE = ""
# Of runs that were written down before their users were.
UNKNOWN_UID = -1


@dataclass(frozen=True)
class Identity:
    """Names a run.

    Attributes:
        instance: which start of which job; the same for all its processes, and whatever a client says it is.
        run_key: what it runs; empty where nobody can tell.
        ingredients: what the key was made of.
        is_private: whether its model is nothing that everybody may know of.
        wants_prefetch: whether what it will need may be brought ahead.
        uid: whose it is, as the kernel tells the daemon.
    """

    instance: str
    run_key: str = ""
    ingredients: Mapping[str, Any] = field(default_factory=dict)
    is_private: bool = False
    wants_prefetch: bool = True
    uid: int = UNKNOWN_UID

    @property
    def name(self) -> str:
        """What tells the run from all others of this host: nobody can name somebody else's."""
        return f"{self.uid}:{self.instance}"

    @property
    def owner(self) -> str | None:
        """The model whose graphs these are: PRIVATE, an id on the Hub that may be anybody's, or None for no model."""
        if self.is_private or (self.run_key and not self.ingredients):  # of which model, nobody can find out
            return PRIVATE
        return None if _INFERRED in self.ingredients else model_id(self.ingredients)


def model_id(ingredients: Mapping[str, Any]) -> str | None:
    """What a run's model is called on the Hub; None where nobody said."""
    model = ingredients.get("model")
    name = model.get("id") if isinstance(model, Mapping) else None
    return name if isinstance(name, str) and name else None


def split_name(name: str) -> tuple[int, str]:
    """User and instance of a run's name, also of one from before names had users."""
    found = _NAME.fullmatch(name)
    return (UNKNOWN_UID, name) if found is None else (int(found[1]), found[2])


def identify(hello: Message, pid: int, uid: int) -> Identity | None:
    """The run of a client that has greeted; None where nothing tells it.

    Args:
        pid, uid: the client's, as the kernel states them; pid is 0 for one that cannot be seen.
    """
    told = of_message(hello.get("run"))
    job = hello.get("job")
    instance = _launched(job if isinstance(job, dict) else {}, pid) or _started(pid)
    if told is not None:
        instance = told.instance or instance
        return replace(told, instance=instance, uid=uid) if instance else None
    if instance is None or hello.get("root") is None:
        return None
    ingredients = _inferred(job if isinstance(job, dict) else {}, pid)
    return Identity(instance, _key_of(ingredients) if ingredients else "", ingredients, uid=uid)


def ancestors(pid: int) -> Iterator[int]:
    """The processes that a process descends from, the nearest first, as far as they can be seen."""
    for _ in range(_MOST_ANCESTORS):
        parent = _parent(pid)
        if not parent:
            return
        yield parent
        pid = parent


def of_message(value: object) -> Identity | None:
    """What a client says of a run, where that can be used; its `instance` may be empty, and whose it is is not told."""
    if not isinstance(value, dict) or not isinstance(key := value.get("key"), str) or not is_run_key(key):
        return None
    ingredients, instance = value.get("ingredients"), value.get("instance")
    if not isinstance(ingredients, dict) or not _is_bounded(ingredients) or not _is_text(model_id(ingredients) or ""):
        ingredients = {}
    text = safe_text(instance) if isinstance(instance, str) else ""
    return Identity(text, key, ingredients, value.get("private") is not False, value.get("prefetch") is not False)


def _launched(job: Mapping[str, object], pid: int) -> str | None:
    """What torchrun or Slurm call the job."""
    torchrun, slurm = job.get("TORCHELASTIC_RUN_ID"), job.get("SLURM_JOB_ID")
    where = f"{job.get('MASTER_ADDR')}:{job.get('MASTER_PORT')}"
    if torchrun and torchrun != _NO_RENDEZVOUS:
        return safe_text(f"torchrun:{torchrun}:{where}")
    if slurm:
        return safe_text(f"slurm:{slurm}:{job.get('SLURM_STEP_ID')}")
    if job.get("WORLD_SIZE") and (parent := _parent(pid)):  # its ranks are sessions of their own
        return safe_text(f"launcher:{where}:{parent}.{start_time(parent)}")
    return None


def _started(pid: int) -> str | None:
    """The process group, which is one command of a shell with all its children."""
    if pid <= 0:
        return None
    try:
        group = os.getpgid(pid)
    except OSError:
        return None
    began = start_time(group)
    return None if began is None and start_time(pid) is None else f"group:{group}.{began or start_time(pid)}"


def _parent(pid: int) -> int | None:
    try:
        words = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return int(words[1]) if pid > 0 else None
    except (OSError, ValueError, IndexError):
        return None


def _inferred(job: Mapping[str, object], pid: int) -> dict[str, Any]:
    """What can be seen of a run that says nothing of itself: the same command will need the same graphs."""
    try:
        with Path(f"/proc/{pid}/cmdline").open("rb") as file:
            command = file.read(_MOST_COMMAND_BYTES).rstrip(b"\0").split(b"\0")
    except OSError:
        return {}
    words = [word for word in command if not word.decode(errors="replace").startswith(_RANK_ARGUMENTS)]
    if not words or not words[0]:
        return {}
    words[0] = words[0].rpartition(b"/")[2]
    inferred = {"command": hashlib.sha256(b"\0".join(words)).hexdigest()[:16]}
    for name in ("WORLD_SIZE", "NEURON_RT_NUM_CORES", "NEURON_LOGICAL_NC_CONFIG"):
        if isinstance(value := job.get(name), str):
            inferred[name.lower()] = safe_text(value)
    return {"version": 1, _INFERRED: inferred}


def _is_bounded(ingredients: Mapping[str, Any]) -> bool:
    """Whether whoever walks through them comes to an end soon."""
    level: list[object] = [ingredients]
    for _ in range(_MOST_DEPTH):
        level = [part for value in level if isinstance(value, (dict, list)) for part in _parts(value)]
        if not level:
            return len(json.dumps(ingredients)) <= MAX_RUN_BYTES
    return False


def _is_text(text: str) -> bool:
    """Whether it can be written down: half of a pair of surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parts(value: dict[str, Any] | list[Any]) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value


def _key_of(ingredients: Mapping[str, Any]) -> str:
    text = json.dumps(ingredients, sort_keys=True, separators=(",", ":"))
    return "RUN_" + hashlib.sha256(text.encode()).hexdigest()[:32]
