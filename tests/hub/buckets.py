"""Buckets on disk: one JSON file each, with the path of every file and the Xet hash of its content."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from tests.hub.files import read_json, write_json
from tests.hub.repos import iso, now_iso


@dataclass(frozen=True)
class BucketFile:
    """One file; times are ISO strings."""

    path: str
    size: int
    xet: str
    mtime: str
    uploaded: str
    content_type: str | None = None


@dataclass(frozen=True)
class BucketFolder:
    """What a flat listing shows for all keys below a `/`."""

    path: str
    uploaded: str


@dataclass
class Bucket:
    """One bucket; it has no history."""

    namespace: str
    name: str
    private: bool
    created: str
    updated: str
    key: str
    files: dict[str, BucketFile] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files.values())


class BucketStore:
    """All buckets under one folder: `<namespace>/<name>.json`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._buckets: dict[tuple[str, str], Bucket] = {}
        for path in sorted(root.glob("*/*.json")):
            bucket = _load(path)
            self._buckets[bucket.namespace, bucket.name] = bucket

    def get(self, namespace: str, name: str) -> Bucket | None:
        return self._buckets.get((namespace, name))

    def of(self, namespace: str) -> list[Bucket]:
        """Return a namespace's buckets, sorted by name."""
        return [bucket for key, bucket in sorted(self._buckets.items()) if key[0] == namespace]

    def create(self, namespace: str, name: str, *, private: bool) -> Bucket:
        now = now_iso()
        bucket = Bucket(namespace, name, private, now, now, secrets.token_hex(12))
        self._buckets[namespace, name] = bucket
        self.save(bucket)
        return bucket

    def save(self, bucket: Bucket) -> None:
        bucket.updated = now_iso()
        write_json(self._path(bucket), dataclasses.asdict(bucket))

    def delete(self, bucket: Bucket) -> None:
        del self._buckets[bucket.namespace, bucket.name]
        self._path(bucket).unlink()

    def _path(self, bucket: Bucket) -> Path:
        return self._root / bucket.namespace / f"{bucket.name}.json"


def _load(path: Path) -> Bucket:
    state = read_json(path)
    files = {name: BucketFile(**file) for name, file in state.pop("files").items()}
    return Bucket(**state, files=files)


def iso_from_ms(mtime_ms: int | None) -> str:
    """Return a time in ISO form; now if None."""
    if mtime_ms is None:
        return now_iso()
    return iso(datetime.fromtimestamp(mtime_ms / 1000, timezone.utc))


def valid_key(path: object) -> bool:
    """Tell whether a path may name a file in a bucket."""
    if not isinstance(path, str) or not path or path.startswith(("/", "./")) or path.endswith(("/", "..")):
        return False
    return not any(part in path for part in ("//", "../", "\\", "\0"))


def listing(bucket: Bucket, prefix: str, *, recursive: bool) -> list[BucketFile | BucketFolder]:
    """Return what starts with the prefix (a plain string, not a folder), sorted by path.

    Args:
        recursive: every file; otherwise keys are cut at the first `/` after the prefix.
    """
    files = [file for path, file in sorted(bucket.files.items()) if path.startswith(prefix)]
    return list(files) if recursive else sorted(_cut(files, prefix), key=lambda item: item.path)


def _cut(files: list[BucketFile], prefix: str) -> Iterator[BucketFile | BucketFolder]:
    folders: dict[str, str] = {}
    for file in files:
        slash = file.path.find("/", len(prefix))
        if slash < 0:
            yield file
        else:
            folder = file.path[:slash]
            folders[folder] = max(folders.get(folder, ""), file.uploaded)
    for folder, uploaded in folders.items():
        yield BucketFolder(folder, uploaded)
