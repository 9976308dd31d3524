"""An entry as the files that the newest optimum-neuron looks for, in a cache directory or for a commit."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

from neff import keys
from neffd.runs import layout
from neffd.runs.entries import Entry
from neffd.store import sharing


def files(entry: Entry, namespace: str, version: str = layout.WRITTEN_VERSION) -> dict[str, bytes]:
    """Path and content of an entry's file and of its alias, below the root of a cache directory or repo.

    The alias is a file like the other: a link would name a path of this host. A model without a name that is safe as
    folders has none.

    Raises:
        ValueError: `namespace` or `version` is none, or optimum-neuron of that version keeps no digests.
    """
    if not keys.is_namespace(namespace) or not layout.is_version(version) or not layout.has_digests(version):
        raise ValueError(f"no registry to write: {namespace}, optimum-neuron {version}")
    name, content = f"{entry.hash}.json", entry.serialize().encode()
    paths = [f"{layout.digest_folder(namespace, version, entry.arch_digest)}/{name}"]
    if layout.is_model_id(entry.model_id) and layout.is_model_id(entry.model_type):
        paths += [
            f"{path}/{name}" for path in layout.named_folders(namespace, version, entry.model_type, entry.model_id)
        ]
    return dict.fromkeys(paths, content)


def write(root: Path, entry: Entry, namespace: str, version: str = layout.WRITTEN_VERSION) -> list[Path]:
    """Write an entry into a cache directory; returns its files, new or there before.

    Raises:
        OSError: the directory cannot be written, or leads elsewhere by a link.
        ValueError: see `files`.
    """
    written = []
    for name, content in files(entry, namespace, version).items():
        path = root / name
        if not path.is_file():
            _make_folders(root, path.parent)
            _put(path, content)
        written.append(path)
    return written


def _make_folders(root: Path, folder: Path) -> None:
    if not folder.resolve().is_relative_to(root.resolve()):
        raise OSError(errno.ELOOP, "a link leads out of the cache directory", str(folder))
    for path in [*reversed(folder.relative_to(root).parents), folder.relative_to(root)][1:]:
        with contextlib.suppress(FileExistsError):
            (root / path).mkdir()
            sharing.inherit(root / path, (root / path).parent)


def _put(path: Path, content: bytes) -> None:
    """Whole or not at all, also over a link that leads nowhere."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        temporary.chmod(0o644)
        sharing.inherit(temporary, path.parent)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
