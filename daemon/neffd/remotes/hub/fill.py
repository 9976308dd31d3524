"""How full a repo is: the Hub advises against more than so many files in a folder and in a repo. Decisions only.

Entries of a namespace are counted when it is listed. The files of a repo are estimated from those: nothing less than a
listing of the whole tree would count them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from neff.keys import ModuleName

log = logging.getLogger(__name__)

MAX_ENTRIES = 10_000
MAX_FILES = 100_000
FILES_PER_ENTRY = 5
_WARN_AT = 0.8
_ADVICE = "a bucket (hf://buckets/org/name) has no such limit"


class Fill:
    """What is known of one repo's fill; a namespace that was never listed counts as empty."""

    def __init__(self, repo_id: str, max_entries: int = MAX_ENTRIES, max_files: int = MAX_FILES) -> None:
        self._repo_id = repo_id
        self._max_entries = max_entries
        self._max_repo_entries = max_files // FILES_PER_ENTRY
        self._entries: dict[str, int] = {}
        self._warned: set[str] = set()

    def listed(self, namespace: str, entries: int) -> None:
        """A namespace was listed and holds so many."""
        self._entries[namespace] = entries
        if not entries:
            del self._entries[namespace]
        self._warn(namespace, entries, self._max_entries)
        self._warn(self._repo_id, sum(self._entries.values()), self._max_repo_entries)

    def added(self, names: Iterable[ModuleName]) -> None:
        """These new entries were committed."""
        for name in names:
            self.listed(name.namespace, self._entries.get(name.namespace, 0) + 1)

    def without_room(self, names: Iterable[ModuleName]) -> dict[ModuleName, str]:
        """Which of these new entries do not fit any more, each with the reason."""
        entries, total = dict(self._entries), sum(self._entries.values())
        left_out: dict[ModuleName, str] = {}
        for name in names:
            if entries.get(name.namespace, 0) >= self._max_entries:
                left_out[name] = "namespace-full"
            elif total >= self._max_repo_entries:
                left_out[name] = "repo-full"
            else:
                entries[name.namespace] = entries.get(name.namespace, 0) + 1
                total += 1
        return left_out

    def _warn(self, what: str, entries: int, limit: int) -> None:
        if entries < _WARN_AT * limit:
            self._warned.discard(what)
        elif what not in self._warned:
            self._warned.add(what)
            log.warning("%s holds %d of at most %d entries; %s", what, entries, limit, _ADVICE)
