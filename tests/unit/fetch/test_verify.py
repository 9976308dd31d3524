"""The decision over a downloaded copy: what refuses, what is only counted."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from neff.keys import ModuleName
from neffd.fetch import verify
from neffd.remotes.base import EntryRefused, RemoteEntry, RemoteFile
from neffd.remotes.provenance import FileDigest, Provenance
from neffd.store.root import PART_SUFFIX
from tests.harness import entries

NAME = entries.module(1)
_GOOD = entries.neff_bytes(1, 3_000)
_NEFFS = {
    "ok": _GOOD,
    "short": _GOOD[:-1],
    "long": _GOOD + b"x",
    "odd": bytes(3_000),
    "headless": _GOOD[:10],
    "empty": b"",
}


def _digests(content: dict[str, bytes]) -> dict[str, FileDigest]:
    return {file: FileDigest(len(data), hashlib.sha256(data).hexdigest()) for file, data in content.items()}


def _decide(
    folder: Path,
    content: dict[str, bytes],
    *,
    states: str = "nothing",
    said: str = "absent",
    name: ModuleName = NAME,
) -> str:
    """`refused: <reason>`, or the oddities found, joined by commas."""
    digests = _digests(content)
    for file, data in content.items():
        (folder / (file + PART_SUFFIX)).write_bytes(data)
    stated = {"nothing": None, "right": digests["model.neff"].sha256, "wrong": "0" * 64}[states]
    listing = tuple(
        RemoteFile(file, digest.size_bytes, stated if file == "model.neff" else None)
        for file, digest in digests.items()
    )
    stale = {**digests, "model.neff": FileDigest(7, "0" * 64)}
    said_of = {"good": digests, "stale": stale, "nothing": {}}
    provenance = None if said == "absent" else Provenance(said_of[said])
    try:
        return ",".join(verify.check(RemoteEntry(name, listing, provenance=provenance), folder, digests))
    except EntryRefused as error:
        return f"refused: {error.reason}"


# One column a NEFF: ok, short, long, odd, headless.
_TABLE = {
    ("right", "good"): ("", "neff-header", "neff-header", "neff-header", "neff-header"),
    ("right", "stale"): ("provenance", *["provenance,neff-header"] * 4),
    ("right", "absent"): ("", "neff-header", "neff-header", "neff-header", "neff-header"),
    ("right", "nothing"): ("", "neff-header", "neff-header", "neff-header", "neff-header"),
    **{("wrong", said): ("refused: digest-mismatch",) * 5 for said in ("good", "stale", "absent", "nothing")},
    ("nothing", "good"): ("", "neff-header", "neff-header", "neff-header", "neff-header"),
    ("nothing", "stale"): ("refused: digest-mismatch",) * 5,
    ("nothing", "absent"): ("", "refused: short-neff", "neff-header", "neff-header", "refused: short-neff"),
    # A neffd.json that does not name the NEFF proves nothing.
    ("nothing", "nothing"): ("", "refused: short-neff", "neff-header", "neff-header", "refused: short-neff"),
}


@pytest.mark.parametrize(
    ("states", "said", "neff", "expected"),
    [
        (states, said, neff, expected)
        for (states, said), row in _TABLE.items()
        for neff, expected in zip(("ok", "short", "long", "odd", "headless"), row, strict=True)
    ]
    + [(states, said, "empty", "refused: empty-neff") for states, said in _TABLE],
)
def test_decision(tmp_path: Path, states: str, said: str, neff: str, expected: str) -> None:
    content = {**entries.files(NAME), "model.neff": _NEFFS[neff]}
    assert _decide(tmp_path, content, states=states, said=said) == expected


def test_other_flags_are_counted(tmp_path: Path) -> None:
    assert _decide(tmp_path, {**entries.files(NAME), "compile_flags.json": b'["--target=trn2"]'}) == "flags-hash"


@pytest.mark.parametrize("flags", [b"[" * 200_000, b"\xff", b'["\\ud800"]', b"x" * (verify.MAX_FLAGS_BYTES + 1)])
def test_flags_that_cannot_be_read_do_no_harm(tmp_path: Path, flags: bytes) -> None:
    assert _decide(tmp_path, {**entries.files(NAME), "compile_flags.json": flags}) in ("", "flags-hash")


def test_a_failed_compile_of_2_14_is_refused(tmp_path: Path) -> None:
    name = entries.module(1, entries.OLD_NAMESPACE)
    content = {**entries.files(name), "model.neff": b"Failed compilation: out of memory " * 50}
    assert _decide(tmp_path, content, states="right", name=name) == "refused: failed-compile"


@pytest.mark.parametrize("missing", ["model.neff", "model.done"])
def test_incomplete(tmp_path: Path, missing: str) -> None:
    digests = _digests({file: data for file, data in entries.files(NAME).items() if file != missing})
    entry = RemoteEntry(NAME, tuple(RemoteFile(file, digest.size_bytes) for file, digest in digests.items()))
    with pytest.raises(EntryRefused, match="incomplete"):
        verify.check(entry, tmp_path, digests)


def test_another_size_than_listed(tmp_path: Path) -> None:
    digests = _digests(entries.files(NAME))
    listing = tuple(RemoteFile(file, digest.size_bytes) for file, digest in digests.items())
    digests["model.neff"] = replace(digests["model.neff"], size_bytes=1)
    with pytest.raises(EntryRefused, match="size-mismatch"):
        verify.check(RemoteEntry(NAME, listing), tmp_path, digests)


@pytest.mark.parametrize("file", ["../../evil", "/etc/passwd", "notes.txt"])
def test_names_in_provenance_that_leave_the_entry_are_not_looked_at(tmp_path: Path, file: str) -> None:
    content = entries.files(NAME)
    for known, data in content.items():
        (tmp_path / (known + PART_SUFFIX)).write_bytes(data)
    digests = _digests(content)
    listing = tuple(RemoteFile(known, digest.size_bytes) for known, digest in digests.items())
    said = Provenance({**digests, file: FileDigest(1, "0" * 64)})
    assert verify.check(RemoteEntry(NAME, listing, provenance=said), tmp_path, digests) == []
