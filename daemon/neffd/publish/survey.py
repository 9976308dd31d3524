"""What is in one cache directory now, and what the index knows of it. All of it blocks; for worker threads."""

from __future__ import annotations

import errno
from collections.abc import Collection, KeysView, Mapping
from typing import NamedTuple, TypeGuard

from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.publish.baseline import EVERYTHING, Baseline
from neffd.publish.unreadable import check_open
from neffd.publish.watch import Watch
from neffd.store import aftercrash
from neffd.store.index import Index, Known
from neffd.store.root import CacheRoot, FileFacts, Inspection


class Listing(NamedTuple):
    """Every entry that is there, in the directory's order: what is wrong with those that a crash of the machine has
    torn, and why folders could not be listed.
    """

    names: KeysView[ModuleName]
    torn: dict[ModuleName, str]
    closed: list[OSError]


class Seen(NamedTuple):
    """One look at an entry.

    What is noted of a ready one was asked after the look: a fetched entry is noted before its mark can be seen.
    """

    name: ModuleName
    looks: Inspection | OSError
    known: Known | None
    torn: str | None  # what a crash of the machine has done to it, where that was found now

    @property
    def neff(self) -> FileFacts | None:
        """The NEFF of an entry that is ready."""
        return self.looks.neff if _is_ready(self.looks) else None


class Survey:
    """Lists and inspects the entries of `root`; `watch` is told of every folder in time."""

    def __init__(self, root: CacheRoot, index: Index, watch: Watch) -> None:
        self._root = root
        self._index = index
        self._watch = watch
        self._baseline = Baseline(root, index)
        self._late: aftercrash.Late | None = None

    def list_all(self, *, has_lost_events: bool) -> Listing:
        """Every entry that is there; the first time also what a crash of the machine has torn.

        Args:
            has_lost_events: nobody knows which watches are still those of their folders.

        Raises OSError and sqlite3.Error.
        """
        names: list[ModuleName] = []
        closed: dict[str, OSError] = {}
        if has_lost_events:
            self._watch.drop_all()
        # Watch before listing: what comes in between is then an event.
        self._watch.add_folder(self._root.path)
        try:
            check_open(self._root.path)
        except OSError as error:
            closed[EVERYTHING] = error
        for namespace in self._root.namespaces():
            self._watch.add_folder(self._root.path / namespace)
            try:
                check_open(self._root.path / namespace)
                names += [ModuleName(namespace, key) for key in self._root.module_keys(namespace)]
            except OSError as error:
                closed[namespace] = error
        self._baseline.note_once(names, closed)
        torn = {}
        if self._late is None:
            torn = aftercrash.verify(self._root, self._index, names, closed)
            self._late = aftercrash.Late(self._root, self._index, EVERYTHING)
        elif not self._late.is_over and not closed:
            self._late.all_listed(names)
        return Listing(dict.fromkeys(names).keys(), torn, list(closed.values()))

    def look_at(self, names: Collection[ModuleName], *, asking_index: bool) -> list[Seen]:
        """A fresh look at each of these entries, without what is noted of them where nobody needs it.

        Raises sqlite3.Error.
        """
        looks = {name: self._inspect(name) for name in names}
        torn = self._look_through(looks)
        known = self._known(looks) if asking_index else {}
        return [Seen(name, found, known.get(name), torn.get(name)) for name, found in looks.items()]

    def _look_through(self, looks: dict[ModuleName, Inspection | OSError]) -> dict[ModuleName, str]:
        """What is torn of those that could not be read before; `looks` tell how they are now."""
        torn: dict[ModuleName, str] = {}
        if self._late is None or self._late.is_over:
            return torn
        for name, found in [*looks.items()]:
            try:
                if not _is_ready(found):
                    if isinstance(found, Inspection):
                        self._late.is_unready(name)
                    continue
                why = self._late.look_through(name)
            except OSError as error:
                looks[name] = error
                continue
            if why is not None:
                torn[name], looks[name] = why, self._inspect(name)
        return torn

    def _known(self, looks: Mapping[ModuleName, Inspection | OSError]) -> dict[ModuleName, Known]:
        neffs = {name: found.neff for name, found in looks.items() if _is_ready(found)}
        known = self._index.known_of(self._root.path, neffs)
        unknown = {name: neff for name, neff in neffs.items() if neff is not None and name not in known}
        return known | self._baseline.find_old(unknown)

    def _inspect(self, name: ModuleName) -> Inspection | OSError:
        try:
            looks = self._root.inspect(name)
        except OSError as error:
            return error
        return looks if looks.is_readable else PermissionError(errno.EACCES, "no permission", str(name))


def _is_ready(looks: Inspection | OSError) -> TypeGuard[Inspection]:
    return isinstance(looks, Inspection) and looks.state is xla.State.READY
