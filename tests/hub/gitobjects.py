"""Git object ids and LFS pointers.

Format: a git object id is the sha1 of `<kind> <length>` + NUL + content (git's `hash-object`); a pointer is
the three-line text of the Git LFS specification, version 1.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping


def object_id(kind: str, content: bytes) -> str:
    """Return the 40-hex id that git gives to an object of this kind and content."""
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def blob_id(content: bytes) -> str:
    return object_id("blob", content)


def tree_id(files: Mapping[str, str], directories: Mapping[str, str]) -> str:
    """Return the id of one directory.

    Args:
        files: name -> blob id.
        directories: name -> tree id.
    """
    rows = [(name.encode(), b"100644 ", oid) for name, oid in files.items()]
    # Git orders a directory as if its name ended with a slash.
    rows += [(name.encode() + b"/", b"40000 ", oid) for name, oid in directories.items()]
    body = b"".join(mode + name.rstrip(b"/") + b"\0" + bytes.fromhex(oid) for name, mode, oid in sorted(rows))
    return object_id("tree", body)


def new_commit_id(parent: str | None, author: str, title: str) -> str:
    """Return a fresh commit id; clients take it as opaque, so it only has to be unique."""
    text = f"parent {parent}\nauthor {author}\nsalt {secrets.token_hex(16)}\n\n{title}\n"
    return object_id("commit", text.encode())


def lfs_pointer(sha256: str, size_bytes: int) -> bytes:
    """Return the text that git stores in place of an LFS file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size_bytes}\n".encode()
