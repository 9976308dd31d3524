"""What may not be read: said until a scan meets no more. With real permissions: integration/test_other_users.py."""

from __future__ import annotations

from pathlib import Path

from neffd.publish.unreadable import REASON, Unreadable
from neffd.serve.status import Problems
from neffd.store.root import CacheRoot
from tests.harness import entries

NAME = entries.module(1)
NO_PERMISSION = PermissionError(13, "no permission", "folder")


def test_said_until_a_scan_does_not_meet_it(tmp_path: Path) -> None:
    problems = Problems("cache")
    unreadable = Unreadable(CacheRoot(tmp_path), problems)
    unreadable.met(NO_PERMISSION)
    unreadable.met(OSError(24, "too many open files", "folder"))
    assert [(kept["reason"], bool(kept["hint"])) for kept in problems.status()] == [(REASON, True), (REASON, False)]
    unreadable.scan_ended()
    assert len(problems.status()) == 2
    assert unreadable.scan_begins() == []
    unreadable.met(PermissionError(13, "no permission", "another"))
    assert unreadable.scan_begins() == []  # that scan was given up
    unreadable.met(NO_PERMISSION)
    unreadable.scan_ended()
    assert [kept["detail"] for kept in problems.status()] == [str(NO_PERMISSION)]
    unreadable.scan_begins()
    unreadable.scan_ended()
    assert problems.status() == []


def test_an_entry_is_tried_again_when_its_files_can_be_read_or_are_gone(tmp_path: Path) -> None:
    problems = Problems("cache")
    unreadable = Unreadable(CacheRoot(tmp_path), problems)
    for number in (1, 2):
        unreadable.given_up(entries.module(number), "no permission", "setfacl")
    problems.note(REASON, "a log", "setfacl", "somebody else's")
    entries.write(tmp_path, NAME, entries.files(NAME))
    assert set(unreadable.scan_begins()) == {entries.module(1), entries.module(2)}
    unreadable.scan_ended()
    assert [kept["detail"] for kept in problems.status()] == ["a log"]
    assert unreadable.scan_begins() == []
