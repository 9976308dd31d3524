"""Documents in a shared directory: listed, read and put there without ever following a link. Blocking."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from neffd.remotes.base import MAX_DOCUMENTS, Document, EntryFailed, PublishResult, is_document_path
from neffd.store import fsops, sharing

# Model type, organisation, model, and the file itself.
_LEVELS = 4
# Of what is no document, so much is passed over before the listing ends.
_MAX_SEEN = 5 * MAX_DOCUMENTS


def listed(root: Path, folder: str) -> list[Document]:
    """The documents below `folder`, at most MAX_DOCUMENTS; none where it is no folder of documents. Raises OSError."""
    if not is_document_path(f"{folder}/-") or not _is_inside(root, folder):
        return []
    seen = itertools.islice(_files(root / folder, folder, _LEVELS), _MAX_SEEN)
    return list(itertools.islice((document for document in seen if is_document_path(document.path)), MAX_DOCUMENTS))


def read(root: Path, documents: Sequence[Document], max_bytes: int) -> list[bytes | None]:
    """Contents, in order; None for what is gone, no file, or too long."""
    return [_read(root, document.path, max_bytes) for document in documents]


def put(
    root: Path, path: str, content: bytes, staging: Path, make_folder: Callable[[Path], None]
) -> PublishResult | EntryFailed:
    """Write a document, whole or not at all; one that is there stays. Raises OSError.

    Args:
        staging: a folder on the same file system for what is not complete.
        make_folder: makes one folder with the rights that all hosts need; one that is there is no error.
    """
    if not is_document_path(path):
        return EntryFailed("bad-path")
    folder = root
    for part in path.split("/")[:-1]:
        folder /= part
        make_folder(folder)
        if not fsops.is_folder(folder):
            return EntryFailed("not-a-folder")
    make_folder(staging)
    draft = staging / secrets.token_hex(8)
    try:
        fsops.write_synced(draft, content)
        sharing.inherit(draft, folder)
        fsops.rename_exclusive(draft, root / path)
        fsops.sync_directory(folder)
    except FileExistsError:
        return PublishResult.ALREADY_THERE
    finally:
        draft.unlink(missing_ok=True)
    return PublishResult.STORED


def _files(folder: Path, path: str, levels: int) -> Iterator[Document]:
    """Regular files, the folder's own first; what goes away meanwhile is left out."""
    folders = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
        for item in found:
            if item.is_dir(follow_symlinks=False):
                folders.append(item.name)
            elif item.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    facts = item.stat(follow_symlinks=False)
                    yield Document(f"{path}/{item.name}", facts.st_size, f"{facts.st_ino} {facts.st_mtime_ns}")
    for name in sorted(folders) if levels > 1 else ():
        yield from _files(folder / name, f"{path}/{name}", levels - 1)


def _read(root: Path, path: str, max_bytes: int) -> bytes | None:
    if not is_document_path(path) or not _is_inside(root, path.rpartition("/")[0]):
        return None
    try:
        return fsops.read_small(root / path, max_bytes)
    except OSError:  # gone, a link, too long, not ours to read
        return None


def _is_inside(root: Path, folder: str) -> bool:
    """Whether no part of the way is a link."""
    parts = folder.split("/")
    return all(fsops.is_folder(root.joinpath(*parts[:count])) for count in range(1, len(parts) + 1))
