"""How full namespaces and repos are."""

from __future__ import annotations

import pytest

from neffd.remotes.hub.fill import FILES_PER_ENTRY, Fill
from tests.harness import entries

NAMES = [entries.module(number) for number in range(4)]
OTHER = entries.module(1, entries.OLD_NAMESPACE)


def test_a_namespace_takes_what_fits() -> None:
    fill = Fill("alice/cache", max_entries=10)
    assert fill.without_room(NAMES) == {}
    fill.listed(entries.NAMESPACE, 8)
    assert fill.without_room([*NAMES, OTHER]) == {NAMES[2]: "namespace-full", NAMES[3]: "namespace-full"}
    fill.added(NAMES[:2])
    assert set(fill.without_room([*NAMES, OTHER])) == set(NAMES)
    fill.listed(entries.NAMESPACE, 3)  # somebody tidied up
    assert fill.without_room(NAMES) == {}


def test_a_repo_takes_what_fits() -> None:
    fill = Fill("alice/cache", max_entries=100, max_files=20 * FILES_PER_ENTRY)
    fill.listed(entries.NAMESPACE, 10)
    fill.listed(entries.OLD_NAMESPACE, 9)
    assert fill.without_room([OTHER, *NAMES[:1]]) == {NAMES[0]: "repo-full"}


def test_a_warning_at_four_fifths_once(caplog: pytest.LogCaptureFixture) -> None:
    fill = Fill("alice/cache", max_entries=10)
    fill.listed(entries.NAMESPACE, 7)
    assert not caplog.records
    fill.listed(entries.NAMESPACE, 8)
    fill.listed(entries.NAMESPACE, 9)
    (record,) = caplog.records
    assert "bucket" in record.getMessage()
    fill.listed(entries.NAMESPACE, 1)
    fill.listed(entries.NAMESPACE, 8)
    assert len(caplog.records) == 2
