"""Run manifests: which modules a run used, as files on remotes that every host may add to. See docs/formats.md.

    <namespace>/0_RUNS/<model type>/<org>/<model>/<run key>-<digest>.json

A manifest is never written over: its name carries a digest of its content, and readers take the union of what there is.
Whoever can write to a remote can write anything there: nothing of a manifest is trusted, and reading one costs a
bounded amount, whatever it holds. What one names is fetched and verified like anything else, so the worst that it can
do is to waste a few bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neff import keys
from neffd.remotes.base import RUNS_FOLDER
from neffd.runs.jsontext import BadDocument, read_object
from neffd.runs.merging import merged

MAX_BYTES = 2 << 20
MAX_MODULES = 10_000
_FORMAT = 1
_DIGEST_DIGITS = 8
_MAX_INGREDIENTS_BYTES = 1 << 17
_MAX_SIZE_BYTES = 1 << 36
_MAX_COMPILE_S = 7 * 86_400.0
# In place of what a run does not say; no name on the Hub is a dash.
_NOTHING = "-"
_NO_TYPE = "unknown"
# What may become one folder: no leading dot, no separator, bounded.
_NAME = re.compile(r"[0-9A-Za-z_][0-9A-Za-z._-]{0,95}")
_RUN_KEY = re.compile(r"RUN_[0-9a-f]{32}")
_FILE = re.compile(rf"(?P<run_key>{_RUN_KEY.pattern})-(?P<digest>[0-9a-f]{{{_DIGEST_DIGITS}}})\.json")


class BadManifest(BadDocument):
    """What was read is no manifest, or not one that can be used.

    Args:
        reason: short kebab-case code for status and metrics.
        detail: one line for a log.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass(frozen=True)
class UsedModule:
    """A module that a run used, with what the writer knew of it."""

    key: str
    size_bytes: int | None = None
    compile_s: float | None = None


@dataclass(frozen=True)
class Manifest:
    """What a run used in one namespace, in order of first use, and the ingredients of its key."""

    namespace: str
    run_key: str
    ingredients: Mapping[str, Any]
    modules: tuple[UsedModule, ...]


@dataclass(frozen=True)
class ManifestPath:
    """What the path of a manifest says."""

    namespace: str
    folder: str
    run_key: str
    digest: str


def path_of(manifest: Manifest) -> str:
    """Where a manifest belongs on a remote."""
    return filed(manifest)[0]


def filed(manifest: Manifest) -> tuple[str, bytes]:
    """The same, and the file's bytes. Of thousands of modules not for an event loop."""
    data = encode(manifest)
    folder = folder_of(manifest.namespace, manifest.ingredients)
    return f"{folder}/{manifest.run_key}-{_digest_of(data)}.json", data


def folder_of(namespace: str, ingredients: Mapping[str, Any] | None) -> str:
    """The folder of a model's manifests; that of all runs without a name where the model has none."""
    org, name = _model_names(ingredients)
    return f"{type_folder_of(namespace, ingredients)}/{org}/{name}"


def type_folder_of(namespace: str, ingredients: Mapping[str, Any] | None) -> str:
    """The folder of all models of one type."""
    model_type = _model(ingredients).get("type")
    is_name = isinstance(model_type, str) and _NAME.fullmatch(model_type)
    return f"{namespace}/{RUNS_FOLDER}/{model_type if is_name else _NO_TYPE}"


def parse_path(path: str) -> ManifestPath | None:
    """What a path says, or None where it is no manifest's."""
    folder, _, file = path.rpartition("/")
    parts, matched = folder.split("/"), _FILE.fullmatch(file)
    if matched is None or len(parts) != 5 or parts[1] != RUNS_FOLDER or not keys.is_namespace(parts[0]):
        return None
    if not all(part == _NOTHING or _NAME.fullmatch(part) for part in parts[2:]):
        return None
    return ManifestPath(parts[0], folder, matched["run_key"], matched["digest"])


def encode(manifest: Manifest) -> bytes:
    """The file's bytes; equal manifests are equal bytes. Of more than MAX_MODULES modules the first are kept."""
    body = {
        "format": _FORMAT,
        "run_key": manifest.run_key,
        "ingredients": manifest.ingredients,
        "modules": [_encoded(module) for module in manifest.modules[:MAX_MODULES]],
    }
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def decode(path: str, data: bytes) -> Manifest:
    """Read a manifest from untrusted hands; raises BadManifest, a BadDocument, with the reason."""
    place = parse_path(path)
    if place is None:
        raise BadManifest("bad-path", "not where a manifest is")
    if len(data) > MAX_BYTES:
        raise BadManifest("too-large", f"longer than {MAX_BYTES} bytes")
    if _digest_of(data) != place.digest:
        raise BadManifest("digest-mismatch", "not the content that its name tells of")
    try:
        body = read_object(data, MAX_BYTES)
    except BadManifest:
        raise
    except BadDocument as error:
        raise BadManifest("not-a-manifest", str(error)) from None
    if body.get("format") != _FORMAT or body.get("run_key") != place.run_key:
        raise BadManifest("not-a-manifest", "another format, or another run's")
    return Manifest(
        place.namespace, place.run_key, _ingredients(body.get("ingredients")), _modules(body.get("modules"))
    )


def union(manifests: Iterable[Manifest]) -> tuple[UsedModule, ...]:
    """All modules of some manifests, each once, in an order that agrees with every one of them as far as one can.

    The result depends neither on the order of `manifests` nor on how often one is among them.
    """
    orders = sorted({manifest.modules for manifest in manifests}, key=_sort_key)
    known: dict[str, list[UsedModule]] = {}
    for module in (module for order in orders for module in order):
        known.setdefault(module.key, []).append(module)
    return tuple(_agreed(known[key]) for key in merged([[module.key for module in order] for order in orders]))


def adds_to(known: Collection[UsedModule], manifest: Manifest) -> bool:
    """Whether a manifest names a module that is not among `known`."""
    names = {module.key for module in known}
    return any(module.key not in names for module in manifest.modules)


def _model(ingredients: Mapping[str, Any] | None) -> Mapping[str, Any]:
    model = (ingredients or {}).get("model")
    return model if isinstance(model, Mapping) else {}


def _model_names(ingredients: Mapping[str, Any] | None) -> tuple[str, str]:
    """Organisation and name of the model, as folders; dashes where it has none that is safe."""
    model_id = _model(ingredients).get("id")
    parts = model_id.split("/") if isinstance(model_id, str) else []
    if len(parts) in (1, 2) and all(_NAME.fullmatch(part) for part in parts):
        return (_NOTHING, parts[0]) if len(parts) == 1 else (parts[0], parts[1])
    return _NOTHING, _NOTHING


def _encoded(module: UsedModule) -> dict[str, Any]:
    facts = {"size_bytes": module.size_bytes, "compile_s": module.compile_s}
    return {"key": module.key, **{name: value for name, value in facts.items() if value is not None}}


def _modules(listed: object) -> tuple[UsedModule, ...]:
    if not isinstance(listed, list):
        raise BadManifest("not-a-manifest", "no list of modules")
    if len(listed) > MAX_MODULES:
        raise BadManifest("too-many-modules", f"more than {MAX_MODULES}")
    modules: dict[str, UsedModule] = {}
    for item in listed:
        key = item.get("key") if isinstance(item, dict) else None
        if not isinstance(key, str) or not keys.is_module_key(key):
            raise BadManifest("bad-key", "it names what is no module")
        size_bytes, compile_s = _within(item.get("size_bytes"), _MAX_SIZE_BYTES), _seconds(item.get("compile_s"))
        modules.setdefault(key, UsedModule(key, size_bytes, compile_s))
    return tuple(modules.values())


def _ingredients(value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or len(json.dumps(value)) > _MAX_INGREDIENTS_BYTES:
        raise BadManifest("not-a-manifest", "no ingredients, or more than there can be")
    return value


def _within(value: object, most: int) -> int | None:
    """A whole number that is possible; anything else says nothing."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and isinstance(value, int) and 0 <= value <= most else None


def _seconds(value: object) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= _MAX_COMPILE_S:
        return None
    return float(value) if math.isfinite(value) else None


def _digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_DIGEST_DIGITS]


def _sort_key(modules: Sequence[UsedModule]) -> list[tuple[str, int, float]]:
    return [(each.key, each.size_bytes or 0, each.compile_s or 0.0) for each in modules]


def _agreed(told: Sequence[UsedModule]) -> UsedModule:
    """What several say of one module: the value in the middle, so that a single wrong one does not count."""
    sizes = sorted(each.size_bytes for each in told if each.size_bytes is not None)
    seconds = sorted(each.compile_s for each in told if each.compile_s is not None)
    return UsedModule(
        told[0].key,
        sizes[(len(sizes) - 1) // 2] if sizes else None,
        seconds[(len(seconds) - 1) // 2] if seconds else None,
    )
