"""`NEFF_RUN`: which run this process belongs to, inherited by its children and told in every greeting."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from neff.handlers import pass_on
from neff.keys import is_run_key
from neff.protocol import MAX_TEXT_CHARS, Message, safe_text

VARIABLE = "NEFF_RUN"
MAX_BYTES = 16_000
_NO_RENDEZVOUS = "none"  # what torchrun calls a job that nobody named


class Run(NamedTuple):
    """One start of a job.

    Attributes:
        key: its run key.
        instance: which start of which job, the same for all its processes; None where the daemon can tell better.
        ingredients: what the key is the digest of; None where it is not told.
        is_private: whether its model is.
        prefetch: whether what it will need may be brought ahead.
    """

    key: str
    instance: str | None
    ingredients: Mapping[str, Any] | None
    is_private: bool
    prefetch: bool = True

    def message(self) -> Message:
        """As the daemon is told."""
        told: Message = {} if self.prefetch else {"prefetch": False}
        return told | {
            "key": self.key,
            "instance": self.instance,
            "ingredients": None if self.ingredients is None else dict(self.ingredients),
            "private": self.is_private,
        }


def bounded(run: Run) -> Run:
    """The run with as much of its ingredients as may be told: of a large configuration the digest, then nothing."""
    if _fits(run) or run.ingredients is None:
        return run
    from neff.runs.canonical import digest  # only here: most are small

    model = dict(run.ingredients.get("model", {}))
    if (config := model.pop("config", None)) is not None:
        model["config_digest"] = digest(config)
    smaller = run._replace(ingredients={**run.ingredients, "model": model})
    return smaller if _fits(smaller) else run._replace(ingredients=None)


def to_text(run: Run) -> str:
    """The variable's value."""
    return json.dumps(bounded(run).message(), separators=(",", ":"))


def of_environment(environ: Mapping[str, str] | None = None) -> Run | None:
    """The run of this environment; None where it names none, or not in our form."""
    text = (os.environ if environ is None else environ).get(VARIABLE)
    if not text or len(text) > MAX_BYTES:
        return None
    try:
        return of_message(json.loads(text))
    except (ValueError, RecursionError):
        return None


def of_message(value: object) -> Run | None:
    """The run that an object of the protocol's form names, or None."""
    if not isinstance(value, dict):
        return None
    key, instance, ingredients = value.get("key"), value.get("instance"), value.get("ingredients")
    if not isinstance(key, str) or not is_run_key(key):
        return None
    if not isinstance(instance, (str, type(None))) or not isinstance(ingredients, (dict, type(None))):
        return None
    # Who does not say that everybody may know of the model is taken at the safer word.
    is_private, prefetch = value.get("private") is not False, value.get("prefetch") is not False
    return Run(key, instance and safe_text(instance), ingredients, is_private, prefetch)


def new_instance(key: str, environ: Mapping[str, str]) -> str:
    """What tells this start of the run `key` from others: the launcher's word, which is the same for all its ranks."""
    outer = of_environment(environ)
    if outer is not None and outer.instance is not None:
        return _within(outer.instance, key)
    torchrun = environ.get("TORCHELASTIC_RUN_ID")
    if torchrun and torchrun != _NO_RENDEZVOUS:
        return _within(f"torchrun:{torchrun}:{environ.get('MASTER_ADDR')}:{environ.get('MASTER_PORT')}", key)
    if environ.get("SLURM_JOB_ID") and environ.get("SLURM_STEP_ID"):
        return _within(f"slurm:{environ['SLURM_JOB_ID']}:{environ['SLURM_STEP_ID']}", key)
    if torchrun or environ.get("WORLD_SIZE"):  # a job that nobody named: the launcher's process names it on this host
        return _within(f"process:{os.getppid()}.{_started(os.getppid())}", key)
    return os.urandom(16).hex()


def leads(environ: Mapping[str, str]) -> bool:
    """Whether this process speaks for its job on this host: a launcher, or the first rank of the host."""
    rank = environ.get("LOCAL_RANK") or environ.get("SLURM_LOCALID") or "0"
    return rank == "0"


def _fits(run: Run) -> bool:
    return len(json.dumps(run.message(), separators=(",", ":"))) <= MAX_BYTES


def _within(job: str, key: str) -> str:
    """One job may hold several runs."""
    tail = f":{key[-12:]}"
    return safe_text(job)[: MAX_TEXT_CHARS - len(tail)] + tail


def _started(pid: int) -> str:
    """When the process began, in ticks since the host did; empty where that cannot be seen."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError) as error:
        pass_on(error)
        return ""
