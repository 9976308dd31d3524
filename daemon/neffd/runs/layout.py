"""Where the registry's files are: one grammar for all its generations.

    <namespace>/0_REGISTRY/<optimum-neuron>/<model type>/<model>/<hash>.json                0.0.18, 0.2.0 and later
    <namespace>/0_REGISTRY/<optimum-neuron>/{inference,training}/<model type>/<model>/<hash>.json   0.0.19 to 0.1
    <namespace>/0_REGISTRY/<optimum-neuron>/<arch digest>/<hash>.json                       0.4.5 and later

From 0.4.5 on the first form is an alias of the last, for people.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from neff import keys

FOLDER = "0_REGISTRY"
# The version whose hashes and layout this package writes.
WRITTEN_VERSION = "0.4.5"
# Releases with a registry. A folder of another version is found by listing, see `neffd.runs.search`.
RELEASES = (
    *(f"0.0.{patch}" for patch in range(18, 29)),
    *("0.1.0", "0.2.0", "0.2.1", "0.2.2", "0.3.0"),
    *(f"0.4.{patch}" for patch in range(6)),
)
MODES = ("inference", "training")
_FIRST_WITH_MODES, _FIRST_WITHOUT_MODES, _FIRST_WITH_DIGESTS = (0, 0, 19), (0, 2, 0), (0, 4, 5)
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]{0,40}")
_FILE = re.compile(r"(?P<hash>[0-9a-f]{20})\.json")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# What may become folders below ours: no leading dot, no separator, bounded.
_NAME = re.compile(r"[0-9A-Za-z_][0-9A-Za-z._-]{0,95}")
_MODEL_ID = re.compile(rf"{_NAME.pattern}(/{_NAME.pattern})?")
_MAX_PATH = 1_000


@dataclass(frozen=True)
class EntryPath:
    """Where an entry's file is, and what its path says of it.

    Args:
        mode: `inference` or `training` where the layout has it.
        digest: of its folder; None for one that is found by the model's name.
        model_type, model_id: None below a digest.
    """

    namespace: str
    version: str
    hash: str
    mode: str | None = None
    digest: str | None = None
    model_type: str | None = None
    model_id: str | None = None


def parse(path: str) -> EntryPath | None:
    """What the path of a registry file says, or None if it is none."""
    namespace, folder, version, *rest = [*path.split("/", 3), "", "", ""][:4]
    if len(path) > _MAX_PATH or folder != FOLDER or not keys.is_namespace(namespace) or not is_version(version):
        return None
    *folders, file = rest[0].split("/")
    matched = _FILE.fullmatch(file)
    if matched is None or not folders:
        return None
    if len(folders) == 1:
        digest = folders[0]
        return EntryPath(namespace, version, matched["hash"], digest=digest) if _DIGEST.fullmatch(digest) else None
    mode = folders.pop(0) if folders[0] in MODES and len(folders) > 2 and _has_modes(version) else None
    return EntryPath(namespace, version, matched["hash"], mode, None, folders[0], "/".join(folders[1:]))


def is_version(name: str) -> bool:
    """Whether `name` can be the folder of an optimum-neuron version."""
    return _VERSION.fullmatch(name) is not None


def is_model_id(name: str) -> bool:
    """Whether `name` is a model's on the Hub, and so safe as folders."""
    return _MODEL_ID.fullmatch(name) is not None


def version_key(version: str) -> tuple[int, ...]:
    """To sort versions by; `0.4.5.dev0` counts as `0.4.5`."""
    leading = re.match(r"[0-9]{1,9}(\.[0-9]{1,9})*", version)
    return tuple(map(int, leading[0].split("."))) if leading else ()


def has_digests(version: str) -> bool:
    """Whether this optimum-neuron keeps entries below their digest."""
    return version_key(version) >= _FIRST_WITH_DIGESTS


def _has_modes(version: str) -> bool:
    return _FIRST_WITH_MODES <= version_key(version) < _FIRST_WITHOUT_MODES


def registry(namespace: str, version: str | None = None) -> str:
    """Folder of the registry, of one optimum-neuron version in it."""
    return f"{namespace}/{FOLDER}" + (f"/{version}" if version else "")


def named_folders(namespace: str, version: str, model_type: str, model_id: str) -> list[str]:
    """The folders in which this version keeps a model's entries under its name."""
    base = registry(namespace, version)
    bases = [f"{base}/{mode}" for mode in MODES] if _has_modes(version) else [base]
    return [f"{base}/{model_type}/{model_id}" for base in bases]


def digest_folder(namespace: str, version: str, digest: str) -> str:
    """The folder in which this version keeps all entries of one architecture."""
    return f"{registry(namespace, version)}/{digest}"
