"""Whose graphs modules are: the models whose runs used them, as far as runs say. A plain object."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from neff.keys import ModuleName
from neffd.runs.identity import PRIVATE, Identity

_NOBODY: frozenset[str] = frozenset()


class Owners:
    """Never forgets in this life of the daemon: what was held back yesterday is held back today."""

    def __init__(self) -> None:
        self._of: dict[ModuleName, frozenset[str]] = {}
        self._alike: dict[frozenset[str], frozenset[str]] = {}

    def load(self, known: Iterable[tuple[ModuleName, str]]) -> None:
        """Go on with what an earlier life of the daemon knew."""
        for name, model in known:
            self._add(name, model)

    def note(self, names: Iterable[ModuleName], identity: Identity) -> None:
        """A run has used these."""
        if identity.owner is not None:
            for name in names:
                self._add(name, identity.owner)

    def of(self, name: ModuleName) -> frozenset[str]:
        """Ids of models on the Hub, which may be anybody's, and PRIVATE; empty where no run has named one."""
        return self._of.get(name, _NOBODY)

    def _add(self, name: ModuleName, model: str) -> None:
        before = self._of.get(name, _NOBODY)
        if model not in before:
            owners = before | {model}
            self._of[name] = self._alike.setdefault(owners, owners)


def of_manifest(ingredients: Mapping[str, object], *, is_private: bool) -> frozenset[str]:
    """The same for what a run is told as."""
    owner = Identity("", "", ingredients, is_private).owner
    return _NOBODY if owner is None else frozenset((owner,))


def is_any_private(owners: Collection[str]) -> bool:
    """Whether one of them is nobody's business, whatever the others are."""
    return PRIVATE in owners
