"""What may not be read: said until a scan meets no more. With real permissions: integration/test_other_users.py."""

from __future__ import annotations

from pathlib import Path

from neffd.publish.unreadable import REASON, Unreadable
from neffd.store.root import CacheRoot
from tests.harness import entries

NAME = entries.module(1)


def test_said_until_a_scan_meets_nothing(tmp_path: Path) -> None:
    problems: list[tuple[str, str, str]] = []
    healed: list[str] = []
    unreadable = Unreadable(CacheRoot(tmp_path), lambda *problem: problems.append(problem), healed.append)
    unreadable.met(PermissionError(13, "no permission", "folder"))
    unreadable.met(OSError(24, "too many open files", "folder"))
    assert [(reason, bool(hint)) for reason, _, hint in problems] == [(REASON, True), (REASON, False)]
    unreadable.scan_ended()
    assert healed == []
    assert unreadable.scan_begins() == []
    unreadable.scan_ended()
    assert healed == [REASON]


def test_an_entry_is_tried_again_when_its_files_can_be_read_or_are_gone(tmp_path: Path) -> None:
    healed: list[str] = []
    unreadable = Unreadable(CacheRoot(tmp_path), lambda *problem: None, healed.append)
    for number in (1, 2):
        unreadable.given_up(entries.module(number), "no permission", "setfacl")
    entries.write(tmp_path, NAME, entries.files(NAME))
    assert set(unreadable.scan_begins()) == {entries.module(1), entries.module(2)}
    unreadable.scan_ended()
    assert healed == [REASON]
    assert unreadable.scan_begins() == []
