"""Entries to publish, as the journal hands them over."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from neff.keys import ModuleName
from neffd.remotes.base import OutgoingEntry
from neffd.remotes.provenance import FileDigest, Provenance
from neffd.store.root import PART_SUFFIX


def digests(content: Mapping[str, bytes]) -> dict[str, FileDigest]:
    """What neffd.json states of `content`."""
    return {file: FileDigest(len(data), hashlib.sha256(data).hexdigest()) for file, data in content.items()}


def outgoing(pinned: Path, name: ModuleName, content: Mapping[str, bytes]) -> OutgoingEntry:
    """An entry whose files are pinned in the folder `pinned`."""
    pinned.mkdir(parents=True, exist_ok=True)
    for file, data in content.items():
        (pinned / (file + PART_SUFFIX)).write_bytes(data)
    return OutgoingEntry(name, pinned, Provenance(digests(content), compile_s=7.0))
