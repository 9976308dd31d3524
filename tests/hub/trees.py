"""The files of one commit, seen as folders."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from tests.hub.gitobjects import tree_id


@dataclass(frozen=True, slots=True)
class Entry:
    """One file in a commit; `sha256` is set for LFS files, `xet` for those stored in Xet."""

    oid: str
    size: int
    commit: str = ""
    """Id of the commit that last changed this path."""
    sha256: str | None = None
    xet: str | None = None


FileMap = dict[str, Entry]


class Tree:
    """An immutable view of a file map; folders and their ids are worked out on first use."""

    def __init__(self, files: Mapping[str, Entry]) -> None:
        self.files = files

    @cached_property
    def _children(self) -> dict[str, set[str]]:
        """Full paths of what lies directly in each folder; the root is the empty string."""
        children: dict[str, set[str]] = {"": set()}
        for path in self.files:
            while path:
                parent = path.rpartition("/")[0]
                siblings = children.setdefault(parent, set())
                if path in siblings:
                    break
                siblings.add(path)
                path = parent
        return children

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted([*self.files, *(folder for folder in self._children if folder)])

    @cached_property
    def _ids(self) -> dict[str, str]:
        ids: dict[str, str] = {}
        for folder in sorted(self._children, key=lambda path: path.count("/") + bool(path), reverse=True):
            files: dict[str, str] = {}
            folders: dict[str, str] = {}
            for path in self._children[folder]:
                name = path.rpartition("/")[2]
                if path in self.files:
                    files[name] = self.files[path].oid
                else:
                    folders[name] = ids[path]
            ids[folder] = tree_id(files, folders)
        return ids

    def is_folder(self, path: str) -> bool:
        return path in self._children

    def folder_id(self, path: str) -> str:
        """Return the git id of a folder; the root is the empty string."""
        return self._ids[path]

    def below(self, folder: str) -> list[str]:
        """Return everything below a folder, folders included, sorted by path."""
        if not folder:
            return self._sorted
        start = bisect_left(self._sorted, folder + "/")
        # "0" is the character after "/", so this is the end of the folder's paths.
        return self._sorted[start : bisect_left(self._sorted, folder + "0")]

    def directly_in(self, folder: str) -> list[str]:
        """Return what lies directly in a folder, sorted by path."""
        return sorted(self._children[folder])

    def commits_below(self, folder: str) -> set[str]:
        """Return the ids of the commits that last changed something below a folder."""
        return {self.files[path].commit for path in self.below(folder) if path in self.files}
