"""What is parked for which reason, and when it goes again. Decisions only, but for a look at pinned files."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from neffd.publish.journal import Parked
from neffd.remotes.base import OutgoingEntry
from neffd.store.root import PART_SUFFIX

# Goes again once the remote is private or allowed to be public.
CAUSED_BY_ACCESS = ("public-repo",)
# Goes again once the remote is private, or may have it, or it turns out to belong to no private model.
PRIVATE_MODEL = "private-model"
# Tried once more when their file system may be there again.
LOST = ("files-lost", "gone-locally")
# Tried once more after a start: somebody may have made room since.
WORTH_A_TRY_AT_START = ("namespace-full", "repo-full", "too-large", "refused-by-hub", "refused-copy-there", *LOST)


def is_any_for(parked: Iterable[Parked], reasons: Collection[str]) -> bool:
    """Whether something is parked for one of `reasons`."""
    return any(kept.reason in reasons for kept in parked)


def is_whole(entry: OutgoingEntry) -> bool:
    """Whether all pinned files of an entry are there. Blocking; raises OSError."""
    return all((entry.directory / (file + PART_SUFFIX)).exists() for file in entry.provenance.files)
