"""What lies beside the pinned files of an entry that waits for upload: enough to note it again if the journal is lost.

A receipt is written before the journal's row and goes with the folder. It names the remotes that the entry was meant
for then; one that has it by now says so when it is offered the entry again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from neff import keys
from neff.keys import ModuleName
from neffd.publish.journal import Journal, Taken
from neffd.remotes import provenance
from neffd.store import fsops
from neffd.store.root import CacheRoot, FileFacts

log = logging.getLogger(__name__)

FILE_NAME = "receipt.json"
_FORMAT = 1
_MAX_BYTES = 2 * provenance.MAX_BYTES


def write(taken: Taken, remotes: Collection[str], queued_at: float) -> None:
    """Write the receipt of an entry into its folder, synced; one that is there stays. Raises OSError. Blocking."""
    body = {
        "format": _FORMAT,
        "name": list(taken.name),
        "provenance": taken.provenance.encode().decode(),
        "neff": asdict(taken.neff),
        "origin": taken.origin,
        "remotes": sorted(remotes),
        "queued_at": queued_at,
    }
    path = taken.folder / FILE_NAME
    if not path.exists():
        fsops.write_synced(path, json.dumps(body).encode())
        fsops.sync_directory(taken.folder)


def recover(journal: Journal, roots: Iterable[CacheRoot]) -> int:
    """Note in a new journal whatever waited in the staging folders; returns how many entries did. Blocking.

    Does nothing where the journal is not new. Raises sqlite3.Error.
    """
    if not journal.is_new_blocking():
        return 0
    known = journal.folders_blocking()
    found: list[tuple[float, Taken, list[str]]] = []
    for root in roots:
        for path in (root.staging / "outbox").glob(f"*/{FILE_NAME}"):
            if path.parent in known:
                continue
            try:
                found.append(_read(root, path))
            except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
                log.error("%s cannot be read, so its entry is not sent: %s", path, error)
    for _, taken, remotes in sorted(found, key=lambda waiting: waiting[0]):
        journal.insert_blocking(taken, remotes)
    journal.is_complete_blocking()
    return len(found)


def _read(root: CacheRoot, path: Path) -> tuple[float, Taken, list[str]]:
    body: dict[str, Any] = json.loads(fsops.read_small(path, _MAX_BYTES))
    namespace, key = body["name"]
    described = provenance.parse(body["provenance"].encode())
    if body["format"] != _FORMAT or described is None or not (keys.is_namespace(namespace) and keys.is_module_key(key)):
        raise ValueError("not a receipt")
    facts = FileFacts(**{field: int(value) for field, value in body["neff"].items()})
    taken = Taken(root.path, ModuleName(namespace, key), path.parent, described, facts, str(body["origin"]))
    return float(body["queued_at"]), taken, [str(remote) for remote in body["remotes"]]
