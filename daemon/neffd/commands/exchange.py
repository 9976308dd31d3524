"""Both directions of `neff synchronize`, spoken to a daemon: what waits is sent, what is missing is fetched."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neff import greeting, keys
from neff.commands.session import CONNECT_S, WAITS, fields, number, objects, status_of, texts
from neff.connection import Connection, connect
from neff.patience import SilencePatience
from neff.protocol import ABSENT, FETCHING, READY

if TYPE_CHECKING:
    from neffd.remotes.hub.client import HubClient

# Sent or fetched bytes so far, all of them as far as known, and a word on what is left.
Progress = Callable[[int, int | None, str], None]

_NAMES_PER_REQUEST = 500
_SILENCE_S = 60.0
_FLUSH_S = 1.0
_QUIET_LOOKS = 2
# Without a byte or an entry for so long, what is left stays in the journal.
_STALL_S = 120.0
# Nothing that passes by itself while somebody waits.
HOPELESS = frozenset({"no-write-access", "not-logged-in", "no-token", "bad-token", "forbidden", "repo-not-found"})


@dataclass
class Outcome:
    """What became of each direction; None for one that was not asked for."""

    pushed: int | None = None
    pulled: int | None = None
    waiting: int = 0
    reason: str | None = None
    parked: list[dict[str, str]] = field(default_factory=list)
    not_pulled: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def session(socket: str, root: Path) -> Iterator[Connection]:
    """A connection on which the cache directory is `root`; raises DaemonError."""
    device, inode = greeting.identity_of(str(root))
    hello = {**greeting.of_command(), "root": str(root), "device": device, "inode": inode}
    connection = connect([socket], hello, WAITS, CONNECT_S)
    try:
        yield connection
    finally:
        connection.close()


def push(connection: Connection, remote: str, outcome: Outcome, progress: Progress) -> None:
    """Send everything that waits for a remote, until nothing does or nothing moves; raises DaemonError."""
    began, moved_at = _sent(status_of(connection), remote), time.monotonic()
    seen: tuple[int, int, int] | None = None
    quiet_looks = 0
    while quiet_looks < _QUIET_LOOKS:
        last = list(connection.answers("flush", {"timeout_s": _FLUSH_S}, SilencePatience(WAITS.now_s(), _SILENCE_S)))
        status = status_of(connection)
        entries, sent_bytes = (now - then for now, then in zip(_sent(status, remote), began, strict=True))
        facts = facts_of(status, remote)
        outcome.waiting = int(number(fields(facts.get("journal")).get("waiting")) or 0)
        outcome.pushed, outcome.reason = entries, facts.get("reason")
        progress(sent_bytes, None, f"{outcome.waiting} left")
        # Until it is known whether the remote may be written, what is parked may still come back.
        is_quiet = not last[-1].get("pending") and not outcome.waiting and facts.get("can_write") is True
        quiet_looks = quiet_looks + 1 if is_quiet else 0
        if (entries, sent_bytes, outcome.waiting) != seen:
            seen, moved_at = (entries, sent_bytes, outcome.waiting), time.monotonic()
        if outcome.reason in HOPELESS or time.monotonic() - moved_at > _STALL_S:
            break
    for item in objects(last[-1].get("parked")):
        name, where, reason = texts(item, "name", "remote", "reason")
        if where == remote:
            outcome.parked.append({"name": name, "reason": reason})


async def missing(client: HubClient, namespaces: Sequence[str], present: Collection[str]) -> list[str]:
    """Names of the modules that the repo holds and this host does not, by one listing a compiler version."""
    from neffd.commands import hub

    names: list[str] = []
    for namespace in namespaces:
        async for page in hub.pages(client, namespace):
            found = [str(item.get("path")) for item in page if item.get("type") == "directory"]
            names += [path for path in found if _is_module(path, namespace) and path not in present]
    return names


def pull(connection: Connection, names: Sequence[str], outcome: Outcome, progress: Progress) -> None:
    """Have modules fetched; raises DaemonError."""
    outcome.pulled = 0
    sizes: dict[str, tuple[int, int]] = {}
    for start in range(0, len(names), _NAMES_PER_REQUEST):
        request = {"names": list(names[start : start + _NAMES_PER_REQUEST]), "wait": True}
        for answer in connection.answers("prefetch", request, SilencePatience(WAITS.now_s(), _SILENCE_S)):
            name, state = answer.get("name"), answer.get("state")
            if not isinstance(name, str):
                continue
            if state == FETCHING:
                done, total = number(answer.get("done_bytes")) or 0, number(answer.get("total_bytes")) or 0
                sizes[name] = (int(done), int(total))
            elif state == READY:
                outcome.pulled += 1
                total_bytes = sizes.get(name, (0, 0))[1]
                sizes[name] = (total_bytes, total_bytes)
            elif state == ABSENT:
                outcome.not_pulled.append(dict(zip(("name", "reason"), texts(answer, "name", "reason"), strict=True)))
            done_bytes, known_bytes = (sum(column) for column in zip(*sizes.values(), strict=True)) if sizes else (0, 0)
            left = len(names) - outcome.pulled - len(outcome.not_pulled)
            progress(done_bytes, known_bytes, f"{left} left")


def _is_module(path: str, namespace: str) -> bool:
    return path.startswith(f"{namespace}/") and keys.is_module_key(path[len(namespace) + 1 :])


def _sent(status: dict[str, Any], remote: str) -> tuple[int, int]:
    """Entries and bytes that the daemon has brought to a remote since it started."""
    counters = fields(status.get("counters"))
    counts = [fields(counters.get(name)) for name in ("neffd_published_entries", "neffd_published_bytes")]
    entries, sent_bytes = (int(number(count.get(f"remote={remote}")) or 0) for count in counts)
    return entries, sent_bytes


def facts_of(status: dict[str, Any], name: str) -> dict[str, Any]:
    """What a daemon's status says of one remote."""
    return next((remote for remote in objects(status.get("remotes")) if remote.get("name") == name), {})
