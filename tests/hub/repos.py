"""Repos on disk: branches and tags in one JSON file, and for each commit its header and its full file map.

Layout under the root: `<type>/<namespace>/<name>/repo.json`, `commits/<id>.json`, `trees/<id>.json`.
"""

from __future__ import annotations

import dataclasses
import re
import secrets
import shutil
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from tests.hub.errors import HubError, revision_not_found
from tests.hub.files import read_json, write_json
from tests.hub.gitobjects import new_commit_id
from tests.hub.trees import Entry, FileMap, Tree

_TREES_IN_MEMORY = 16
_BUSY = "Another commit operation is in progress for this repository. Please try again later."
_FULL_ID = re.compile(r"[0-9a-f]{40}")


def now_iso() -> str:
    return iso(datetime.now(timezone.utc))


def iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


@dataclass(frozen=True)
class Commit:
    """A commit's header. `number` counts from the first commit of the branch."""

    id: str
    parent: str | None
    number: int
    title: str
    message: str
    date: str
    author: str


@dataclass
class Repo:
    """One repo; `type` is model, dataset or space."""

    root: Path
    type: str
    namespace: str
    name: str
    private: bool
    created: str
    key: str
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)
    """Branches that a commit is being made on."""
    _commits: dict[str, Commit] = field(default_factory=dict)
    _trees: OrderedDict[str, Tree] = field(default_factory=OrderedDict)

    @property
    def id(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def url_path(self) -> str:
        """Path of the repo's pages: models carry no prefix."""
        return self.id if self.type == "model" else f"{self.type}s/{self.id}"

    def save(self) -> None:
        state = {"private": self.private, "created": self.created, "key": self.key}
        write_json(self.root / "repo.json", {**state, "branches": self.branches, "tags": self.tags})

    def resolve(self, revision: str) -> str:
        """Return the commit id of a branch, a tag or a full commit id.

        Raises:
            HubError: 404 RevisionNotFound.
        """
        for refs in (self.branches, self.tags):
            if revision in refs:
                return refs[revision]
        if _FULL_ID.fullmatch(revision) and self._commit_path(revision).is_file():
            return revision
        raise revision_not_found(revision)

    def head(self, branch: str) -> str:
        """Return the commit id of a branch.

        Raises:
            HubError: 404 RevisionNotFound when it is no branch.
        """
        if branch not in self.branches:
            raise revision_not_found(branch)
        return self.branches[branch]

    def require_idle(self, branch: str) -> None:
        """Check that no commit is being made on a branch.

        Raises:
            HubError: 409.
        """
        if branch in self.busy:
            raise HubError(409, _BUSY)

    def _commit_path(self, commit_id: str) -> Path:
        return self.root / "commits" / f"{commit_id}.json"

    def commit(self, commit_id: str) -> Commit:
        if commit_id not in self._commits:
            self._commits[commit_id] = Commit(**read_json(self._commit_path(commit_id)))
        return self._commits[commit_id]

    def history(self, commit_id: str) -> Iterator[Commit]:
        """Yield a commit and its ancestors, newest first."""
        following: str | None = commit_id
        while following:
            commit = self.commit(following)
            yield commit
            following = commit.parent

    def tree(self, commit_id: str) -> Tree:
        """Return the files of a commit; the last few are kept in memory."""
        tree = self._trees.pop(commit_id, None)
        if tree is None:
            rows = read_json(self.root / "trees" / f"{commit_id}.json")
            tree = Tree({path: Entry(*row) for path, row in rows.items()})
        self._remember(commit_id, tree)
        return tree

    def _remember(self, commit_id: str, tree: Tree) -> None:
        self._trees[commit_id] = tree
        while len(self._trees) > _TREES_IN_MEMORY:
            self._trees.popitem(last=False)

    def add_commit(
        self, branch: str, files: FileMap, *, title: str, message: str, author: str, orphan: bool = False
    ) -> Commit:
        """Write a commit and move the branch to it.

        Args:
            files: the full file map; entries without a commit id are the ones that this commit changed.
            orphan: make it parentless, as a squash does.
        """
        parent = None if orphan else self.branches.get(branch)
        commit_id = new_commit_id(parent, author, title)
        number = self.commit(parent).number + 1 if parent else 1
        commit = Commit(commit_id, parent, number, title, message, now_iso(), author)
        stamped = {
            path: entry if entry.commit else dataclasses.replace(entry, commit=commit_id)
            for path, entry in files.items()
        }
        rows = {path: (e.oid, e.size, e.commit, e.sha256, e.xet) for path, e in stamped.items()}
        write_json(self.root / "trees" / f"{commit_id}.json", rows)
        write_json(self._commit_path(commit_id), dataclasses.asdict(commit))
        self.branches[branch] = commit_id
        self.save()
        self._remember(commit_id, Tree(stamped))
        return commit


class RepoStore:
    """All repos under one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._repos: dict[tuple[str, str, str], Repo] = {}
        for path in sorted(root.glob("*/*/*/repo.json")):
            repo = self._load(path)
            self._repos[repo.type, repo.namespace, repo.name] = repo

    def _load(self, path: Path) -> Repo:
        repo_type, namespace, name = path.parent.relative_to(self._root).parts
        return Repo(path.parent, repo_type, namespace, name, **read_json(path))

    def get(self, repo_type: str, namespace: str, name: str) -> Repo | None:
        return self._repos.get((repo_type, namespace, name))

    def create(self, repo_type: str, namespace: str, name: str, *, private: bool, files: FileMap) -> Repo:
        """Make a repo whose first commit on `main` holds `files`."""
        root = self._root / repo_type / namespace / name
        repo = Repo(root, repo_type, namespace, name, private, now_iso(), secrets.token_hex(12))
        repo.add_commit("main", files, title="initial commit", message="", author=namespace)
        self._repos[repo_type, namespace, name] = repo
        return repo

    def delete(self, repo: Repo) -> None:
        del self._repos[repo.type, repo.namespace, repo.name]
        # Without its repo.json the folder is no repo any more, even if the removal is cut short.
        (repo.root / "repo.json").unlink()
        shutil.rmtree(repo.root)
