"""Is a downloaded copy what it should be? Refuses what is damaged, counts what is merely odd."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from neff import keys
from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.remotes.base import EntryRefused, RemoteEntry
from neffd.remotes.provenance import FileDigest
from neffd.store import fsops
from neffd.store.root import PART_SUFFIX

MAX_FLAGS_BYTES = 1 << 20


def check(entry: RemoteEntry, staged: Path, digests: Mapping[str, FileDigest]) -> list[str]:
    """Check a staged copy of `entry`.

    A digest that the remote itself states decides. Where it states none, provenance decides; where there is neither,
    a NEFF shorter than its own header says is refused.

    Args:
        digests: size and sha256 of every file that was written.

    Returns what looks odd without being a reason to refuse: `flags-hash`, `neff-header`, `provenance`.
    Raises EntryRefused.
    """
    _check_complete(entry, digests)
    stated = {file.name: file.sha256 for file in entry.files if file.sha256 is not None}
    for name, sha256 in stated.items():
        if digests[name].sha256 != sha256:
            raise EntryRefused("digest-mismatch", f"{name} is not what the remote states")
    odd = _check_provenance(entry, stated, digests)
    neff_is_proved = xla.NEFF in stated or (entry.provenance is not None and xla.NEFF in entry.provenance.files)
    return odd + _check_neff(entry.name, staged, digests[xla.NEFF], neff_is_proved) + _check_flags(entry.name, staged)


def _check_complete(entry: RemoteEntry, digests: Mapping[str, FileDigest]) -> None:
    for file in entry.files:
        if digests[file.name].size_bytes != file.size_bytes:
            raise EntryRefused(
                "size-mismatch", f"{file.name} has {digests[file.name].size_bytes} of {file.size_bytes} bytes"
            )
    if keys.ready_mark(entry.name.namespace) not in digests or xla.NEFF not in digests:
        raise EntryRefused("incomplete", "ready mark or NEFF is missing")
    if digests[xla.NEFF].size_bytes == 0:
        raise EntryRefused("empty-neff")


def _check_provenance(entry: RemoteEntry, stated: Mapping[str, str], digests: Mapping[str, FileDigest]) -> list[str]:
    if entry.provenance is None:
        return []
    wrong = [
        name for name, digest in entry.provenance.files.items() if name in xla.SHARED and digests.get(name) != digest
    ]
    if not wrong:
        return []
    if xla.NEFF in stated:
        return ["provenance"]  # stale: another tool wrote the entry again, and the remote vouches for its bytes
    raise EntryRefused("digest-mismatch", f"{', '.join(sorted(wrong))}: not what neffd.json says")


def _check_neff(name: ModuleName, staged: Path, neff: FileDigest, is_proved: bool) -> list[str]:
    start = fsops.read_start(staged / (xla.NEFF + PART_SUFFIX), xla.NEFF_HEADER_BYTES)
    if keys.ready_mark(name.namespace) == xla.NEFF and xla.is_failure_text(start):
        raise EntryRefused("failed-compile", "model.neff holds the text of a failed compile")
    header = xla.neff_header(start)
    if header is not None and header.file_bytes == neff.size_bytes:
        return []
    least_bytes = xla.NEFF_HEADER_BYTES if header is None else header.file_bytes
    if neff.size_bytes < least_bytes and not is_proved:
        raise EntryRefused("short-neff", f"{neff.size_bytes} of {least_bytes} bytes")
    return ["neff-header"]


def _check_flags(name: ModuleName, staged: Path) -> list[str]:
    try:
        flags = fsops.read_small(staged / (xla.FLAGS + PART_SUFFIX), MAX_FLAGS_BYTES)
    except OSError:
        return []
    return ["flags-hash"] if xla.flags_fit(name, flags) is False else []
