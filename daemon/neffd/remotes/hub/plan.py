"""What a commit has to hold so that every entry on the Hub is wholly one host's: decisions only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from neff import keys
from neffd.layouts import xla
from neffd.remotes import provenance
from neffd.remotes.base import OutgoingEntry, RemoteFile
from neffd.remotes.provenance import FileDigest


@dataclass
class CommitPlan:
    """Which entries a commit brings, and with which files; `there` are entries that another host published first.

    `documents` are what else it adds, by path.
    """

    add: dict[str, tuple[OutgoingEntry, str]] = field(default_factory=dict)
    documents: dict[str, bytes] = field(default_factory=dict)
    delete: list[str] = field(default_factory=list)
    there: list[OutgoingEntry] = field(default_factory=list)

    @property
    def brings(self) -> list[OutgoingEntry]:
        """The entries that this commit changes, each once, in order."""
        return list({entry.name: entry for entry, _ in self.add.values()}.values())

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not self.add and not self.documents


def files_of(entry: OutgoingEntry) -> list[str]:
    """Every path that an entry may have on the Hub."""
    return [f"{entry.name}/{file}" for file in sorted({*xla.SHARED, provenance.FILE_NAME})]


def make_plan(entries: Sequence[OutgoingEntry], present: Mapping[str, RemoteFile]) -> CommitPlan:
    """Compare own entries with what the Hub holds at one commit.

    Args:
        present: by path, every file of `files_of` that the Hub has.
    """
    plan = CommitPlan()
    for entry in entries:
        theirs = {path.rpartition("/")[2]: present[path] for path in files_of(entry) if path in present}
        ours = entry.provenance.files
        mark = keys.ready_mark(entry.name.namespace)
        is_ready = mark in theirs and xla.NEFF in theirs and theirs[xla.NEFF].size_bytes > 0
        if is_ready and not _is_ours(theirs, ours):
            plan.there.append(entry)
            continue
        if not is_ready:  # half an entry, from a tool that does not care: replaced as a whole
            replaced = {*ours, provenance.FILE_NAME}
            plan.delete += [f"{entry.name}/{file}" for file in theirs if file not in replaced]
        wanted = [file for file in ours if not is_ready or file not in theirs]
        if wanted:
            wanted.append(provenance.FILE_NAME)
        plan.add |= {f"{entry.name}/{file}": (entry, file) for file in wanted}
    return plan


def _is_ours(theirs: Mapping[str, RemoteFile], ours: Mapping[str, FileDigest]) -> bool:
    """Whether a ready entry may gain what it lacks of ours: the same NEFF, and nothing that tells them apart."""
    if theirs[xla.NEFF].sha256 != ours[xla.NEFF].sha256:
        return False
    return all(
        theirs[file].size_bytes == digest.size_bytes and theirs[file].sha256 in (None, digest.sha256)
        for file, digest in ours.items()
        if file in theirs
    )


def describe_commit(entries: Sequence[OutgoingEntry], documents: int = 0) -> tuple[str, str]:
    """Title and description: the description lists the module keys, one a line."""
    brought = [_counted(len(entries), "compiled graph")] if entries or not documents else []
    brought += [_counted(documents, "run manifest")] if documents else []
    return f"Add {' and '.join(brought)}", "\n".join(str(entry.name) for entry in entries)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
