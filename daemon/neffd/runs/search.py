"""Finding a model's entries without listing a registry: ask for the few folders in which they can be.

The folders of all known releases of optimum-neuron fit into a request or two. That there is no other release's folder
is proved from the ids that come with the answer: a folder's id is the hash of what is in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from neffd.runs import layout


@dataclass(frozen=True)
class Wanted:
    """What is looked for.

    Args:
        digests: the architecture's digest under each task that may be meant.
        names: model types and model ids under which people would look for it.
    """

    digests: tuple[str, ...]
    names: tuple[tuple[str, str], ...]


def folders(wanted: Wanted, namespace: str, versions: Iterable[str]) -> list[str]:
    """Every folder in which these versions of optimum-neuron can have put what is wanted."""
    found = []
    for version in versions:
        if layout.has_digests(version):
            found += [layout.digest_folder(namespace, version, digest) for digest in wanted.digests]
        for model_type, model_id in wanted.names:
            if layout.is_model_id(model_id) and layout.is_model_id(model_type):
                found += layout.named_folders(namespace, version, model_type, model_id)
    return found


def version_folders(namespace: str) -> list[str]:
    """The registry's folder and those of the known releases in it."""
    return [layout.registry(namespace), *(layout.registry(namespace, version) for version in layout.RELEASES)]


def is_complete(namespace: str, ids: Mapping[str, str]) -> bool:
    """Whether the known releases' folders are all that the registry of a namespace holds, or there is none.

    Args:
        ids: git ids of the folders that exist, by path.
    """
    registry = ids.get(layout.registry(namespace))
    if registry is None:
        return True
    children = {path.rpartition("/")[2]: ids[path] for path in version_folders(namespace)[1:] if path in ids}
    try:
        return _tree_id(children) == registry
    except ValueError:
        return False


def to_list(existing: Iterable[str]) -> list[str]:
    """Which of the folders have to be listed: an alias only where no digest of the same version was found."""
    paths = sorted(existing)
    by_digest = {tuple(path.split("/")[:3]) for path in paths if path.count("/") == 3}
    return [path for path in paths if path.count("/") == 3 or tuple(path.split("/")[:3]) not in by_digest]


def _tree_id(folders_by_name: Mapping[str, str]) -> str:
    """What git calls a folder that holds just these folders."""
    rows = sorted((name.encode() + b"/", bytes.fromhex(oid)) for name, oid in folders_by_name.items())
    body = b"".join(b"40000 " + name[:-1] + b"\0" + oid for name, oid in rows)
    return hashlib.sha1(b"tree %d\0" % len(body) + body, usedforsecurity=False).hexdigest()
