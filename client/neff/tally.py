"""What the processes of one `neff run` meet: noted as it happens, so that the share of a killed process counts too.

Each process appends one line an event to a file of its own in the run's private folder, which `NEFF_RUN_DIR` names.
Outside `neff run` there is no folder, and nothing is noted.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from neff import forks
from neff.handlers import pass_on
from neff.keys import ModuleName, is_module_key, is_namespace

RUN_DIR = "NEFF_RUN_DIR"
SUFFIX = ".events"

LOCAL = "local"
FETCHED = "fetched"
COMPILED = "compiled"
WAITED = "waited"
MISSED = "missed"
_KINDS = frozenset({LOCAL, FETCHED, COMPILED, WAITED, MISSED})
_LONGEST_S = 1e9

Module = tuple[str, ModuleName]


class Event(NamedTuple):
    """One line: what happened to the module `name` of the cache directory `root`.

    `seconds`: how long the compile or the wait took; for a fetch, what the compile once took, or None.
    """

    kind: str
    root: str
    name: ModuleName
    seconds: float | None = None


def of_environment(environ: Mapping[str, str] | None = None) -> Tally | None:
    """The notes of this process if it belongs to a `neff run`, else None."""
    folder = (os.environ if environ is None else environ).get(RUN_DIR)
    return Tally(folder) if folder else None


class Tally:
    """Notes the first event of a kind that this process has with a module. Thread-safe; no failure leaves it."""

    def __init__(self, folder: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder: str | None = folder
        self._clock = clock
        self._found: set[Module] = set()
        self._missed: set[Module] = set()
        self._locked_s: dict[Module, float] = {}
        forks.watch(self)

    def after_fork_in_child(self) -> None:
        """What the parent compiles is not the child's work."""
        self._locked_s.clear()

    def local(self, root: str, name: ModuleName) -> None:
        """The module was in the cache directory."""
        if (root, name) not in self._found:
            self._note(Event(LOCAL, root, name))

    def fetched(self, root: str, name: ModuleName, compile_s: float | None = None) -> None:
        """The daemon brought the module; compiling it once took `compile_s` seconds, if that is known."""
        if (root, name) not in self._found:
            self._note(Event(FETCHED, root, name, compile_s))

    def missed(self, root: str, name: ModuleName) -> None:
        """The module was looked for and is nowhere; what this process does about it is another event, or none."""
        if (root, name) not in self._missed:
            self._missed.add((root, name))
            self._append(Event(MISSED, root, name))

    def lock_taken(self, root: str, name: ModuleName) -> None:
        """This process has the module's lock, and compiles it unless it finds it."""
        self._locked_s[root, name] = self._clock()

    def lock_ends(self, root: str, name: ModuleName, *, is_ready: bool) -> None:
        """This process gives the module's lock back; with the ready mark there and nothing found, it compiled."""
        locked_s = self._locked_s.pop((root, name), None)
        if locked_s is not None and is_ready and (root, name) not in self._found:
            self._note(Event(COMPILED, root, name, self._clock() - locked_s))

    def waited(self, root: str, name: ModuleName, waited_s: float) -> None:
        """This process waited for another one's compile of the module."""
        self._append(Event(WAITED, root, name, waited_s))

    def _note(self, event: Event) -> None:
        self._found.add((event.root, event.name))
        self._append(event)

    def _append(self, event: Event) -> None:
        if self._folder is None:
            return
        path = os.path.join(self._folder, f"{os.getpid()}{SUFFIX}")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            # Opened each time: an event is rare, and a forked child never writes into its parent's file.
            fd = os.open(path, flags, 0o600)
            try:
                os.write(fd, encode(event))
            finally:
                os.close(fd)
        except OSError as error:  # the run is over, the disk full, or this process another user's by now
            pass_on(error)
            self._folder = None


def encode(event: Event) -> bytes:
    """The event's line. It begins with a line feed too, so that it never joins a torn one."""
    fields = {
        "event": event.kind,
        "root": event.root,
        "namespace": event.name.namespace,
        "key": event.name.key,
        "seconds": None if event.seconds is None else round(event.seconds, 3),
    }
    return b"\n" + json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Event | None:
    """The event of a line; None for everything that is none."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    kind, root, namespace, key = (fields.get(name) for name in ("event", "root", "namespace", "key"))
    if not (isinstance(kind, str) and isinstance(root, str) and isinstance(namespace, str) and isinstance(key, str)):
        return None
    if kind not in _KINDS or not is_namespace(namespace) or not is_module_key(key):
        return None
    return Event(kind, root, ModuleName(namespace, key), seconds_of(fields.get("seconds")))


def seconds_of(value: object) -> float | None:
    """`value` if it is a usable number of seconds, else None."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < _LONGEST_S else None  # type: ignore[operator, arg-type]
