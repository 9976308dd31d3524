"""What tests do to a Hub behind the clients' backs: tokens, seeds, switches, faults, and looking inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.hub.access import Role
from tests.hub.attributes import upload_mode
from tests.hub.buckets import Bucket, BucketFile, valid_key
from tests.hub.commits import lfs_entry, regular_entry
from tests.hub.faults import Fault
from tests.hub.preupload import repo_lfs_patterns
from tests.hub.repo_routes import make_repo
from tests.hub.repos import Repo, now_iso
from tests.hub.state import Hub
from tests.hub.trees import Entry

_SAMPLE_BYTES = 512


class Operations:
    """Acts on the state directly; nothing here counts as a request."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    @property
    def endpoint(self) -> str:
        """URL for HF_ENDPOINT."""
        return self.hub.endpoint

    @property
    def cdn(self) -> str:
        """URL of the second port."""
        return self.hub.cdn

    def token(self, user: str, role: Role = "write") -> str:
        """Return this user's token of this role; the user owns the namespace of the same name."""
        return self.hub.accounts.token(user, role)

    def revoke(self, token: str) -> None:
        """Make a token unknown."""
        self.hub.accounts.revoke(token)

    def set(self, **changes: Any) -> None:
        """Change settings by name; see `Settings`.

        Raises:
            ValueError: unknown name or wrong value; nothing has changed then.
        """
        self.hub.settings.update(changes)

    def add_fault(self, match: str, **options: Any) -> Fault:
        """Add a fault for requests whose `METHOD path` matches; see `Fault` for the options.

        Returns:
            The rule in force: its `times` shows how many hits are left.

        Raises:
            ValueError: an option is unknown or wrong.
        """
        fault = Fault.parse({"match": match, **options})
        self.hub.faults.add(fault)
        return fault

    def clear_faults(self) -> None:
        """Drop all faults and end every stall."""
        self.hub.faults.clear()

    def faults(self) -> list[dict[str, Any]]:
        return [fault.as_dict() for fault in self.hub.faults.rules]

    def counters(self) -> dict[str, Any]:
        """Return requests and errors by route, unrouted paths and bytes since the last reset."""
        return self.hub.counters.snapshot()

    def reset_counters(self) -> None:
        self.hub.counters.reset()

    def reset_limits(self) -> None:
        """Give everyone the full quota again."""
        self.hub.limits.reset()

    def _repo(self, repo_id: str, repo_type: str) -> Repo:
        namespace, _, name = repo_id.partition("/")
        repo = self.hub.repos.get(repo_type, namespace, name)
        if repo is None:
            raise KeyError(f"no such {repo_type} repo: {repo_id}")
        return repo

    def seed_files(
        self,
        repo_id: str,
        files: Mapping[str, bytes],
        *,
        repo_type: str = "model",
        private: bool = False,
        xet: bool = False,
        title: str = "Seed",
    ) -> str:
        """Commit files to `main` by the server's own rule for what goes to LFS; makes the repo if need be.

        Args:
            private: for a repo that is made here.
            xet: store LFS contents in Xet instead of as plain LFS blobs.

        Returns:
            The commit id.

        Raises:
            HubError: 409 while a client's commit is under way.
        """
        namespace, _, name = repo_id.partition("/")
        repo = self.hub.repos.get(repo_type, namespace, name)
        if repo is None:
            repo = make_repo(self.hub, repo_type, namespace, name, private=private)
        repo.require_idle("main")
        tree = repo.tree(repo.head("main"))
        patterns = repo_lfs_patterns(self.hub, tree)
        entries = {path: self._store(path, content, patterns, xet) for path, content in files.items()}
        return repo.add_commit("main", {**tree.files, **entries}, title=title, message="", author=namespace).id

    def _store(self, path: str, content: bytes, patterns: list[str], xet: bool) -> Entry:
        if upload_mode(path, len(content), content[:_SAMPLE_BYTES], patterns) == "regular":
            return regular_entry(self.hub, content)
        sha256 = self.hub.xet.seed(content).sha256 if xet else self.hub.blobs.put_lfs(content)
        entry = lfs_entry(self.hub, str(sha256))
        assert entry is not None
        return entry

    def head(self, repo_id: str, *, repo_type: str = "model", revision: str = "main") -> str:
        """Return the commit id of a revision."""
        return self._repo(repo_id, repo_type).resolve(revision)

    def commits(self, repo_id: str, *, repo_type: str = "model", revision: str = "main") -> list[dict[str, Any]]:
        """Return id, title, message, date and author of the commits, newest first."""
        repo = self._repo(repo_id, repo_type)
        return [
            {"id": c.id, "title": c.title, "message": c.message, "date": c.date, "author": c.author}
            for c in repo.history(repo.resolve(revision))
        ]

    def read_files(self, repo_id: str, *, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        """Return the contents of all files of a revision."""
        repo = self._repo(repo_id, repo_type)
        files = repo.tree(repo.resolve(revision)).files
        return {path: self._read(entry) for path, entry in files.items()}

    def _read(self, entry: Entry) -> bytes:
        if entry.sha256 is None:
            return self.hub.blobs.git_path(entry.oid).read_bytes()
        path = self.hub.xet.content_path(entry.xet) if entry.xet else self.hub.blobs.lfs_path(entry.sha256)
        assert path is not None
        return path.read_bytes()

    def _bucket(self, bucket_id: str) -> Bucket:
        namespace, _, name = bucket_id.partition("/")
        bucket = self.hub.buckets.get(namespace, name)
        if bucket is None:
            raise KeyError(f"no such bucket: {bucket_id}")
        return bucket

    def seed_bucket(self, bucket_id: str, files: Mapping[str, bytes], *, private: bool = False) -> None:
        """Put files into a bucket; makes it if need be.

        Raises:
            ValueError: a path that cannot be a key.
        """
        namespace, _, name = bucket_id.partition("/")
        bucket = self.hub.buckets.get(namespace, name)
        if bucket is None:
            bucket = self.hub.buckets.create(namespace, name, private=private)
        for path, content in files.items():
            if not valid_key(path):
                raise ValueError(f"invalid path: {path!r}")
            record = self.hub.xet.seed(content)
            now = now_iso()
            bucket.files[path] = BucketFile(path, len(content), record.hash, now, now)
        self.hub.buckets.save(bucket)

    def read_bucket(self, bucket_id: str) -> dict[str, bytes]:
        """Return the contents of all files of a bucket."""
        contents = {}
        for path, file in self._bucket(bucket_id).files.items():
            stored = self.hub.xet.content_path(file.xet)
            assert stored is not None
            contents[path] = stored.read_bytes()
        return contents
