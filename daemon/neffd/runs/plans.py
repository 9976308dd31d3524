"""Will a run compile? Decisions only: what is known of runs like it, against what is here and on remotes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from neff.keys import ModuleName
from neff.protocol import safe_text
from neffd.runs.interfaces import Found
from neffd.runs.manifests import Manifest, UsedModule, path_of, union

SAME_KEY, SAME_MODEL, NONE = "same-key", "same-model", "none"
# Another source of guesses: what was published together.
SAME_COMMIT = "same-commit"
WARM, FETCHABLE, WILL_COMPILE, UNKNOWN = "warm", "fetchable", "will-compile", "unknown"

# Of these, another value means other graphs; a difference in what is left usually does not.
_DECISIVE = ("model.", "task", "shapes.", "dtype", "cores", "parallel.", "compiler", "target", "inferred.")
_SHOWN_NAMES = 1_000
_SHOWN_INGREDIENTS = 50
_HERE = "this host"
# What is assumed of the line until something was fetched.
_BYTES_PER_S = 50e6
_LATENCY_S = 0.2

# A manifest and where it is known from.
Known = tuple[str, Manifest]


@dataclass(frozen=True)
class Expected:
    """What a run is going to need, as far as earlier ones tell.

    Attributes:
        modules: in order of first use.
        sure: SAME_KEY where a run of the same key tells, SAME_MODEL where one of the same model does.
        differs: in what the runs of the same model differ from this one.
        unsaid: what may mean other graphs, and is known of these runs and not of this one.
        sources: where it is known from.
        away: remotes that could not be asked to the end: there may be more.
    """

    modules: Mapping[ModuleName, UsedModule] = field(default_factory=dict)
    sure: str = NONE
    differs: tuple[str, ...] = ()
    unsaid: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    away: tuple[str, ...] = ()

    @property
    def is_likely(self) -> bool:
        """Whether the modules are worth fetching unasked: what differs, if anything, makes no other graphs."""
        return bool(self.modules) and not any(name.startswith(_DECISIVE) for name in self.differs)


def nothing_known(name: ModuleName) -> UsedModule:
    """A module of which only the name is known."""
    return UsedModule(name.key, None, None)


def differences(asked: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, ...]:
    """The ingredients, by dotted name, that `asked` states and `theirs` has otherwise.

    A parallel size that is not stated is 1.
    """
    ours, others = dict(_flat(asked)), dict(_flat(theirs))
    names = {name for name, value in ours.items() if name != "version" and others.get(name) != value}
    return tuple(sorted(names | {name for name in others if ours and name not in ours and _is_degree(name)}))


def unsaid(asked: Mapping[str, Any], theirs: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The ingredients, by dotted name, that some of `theirs` state and `asked` does not, of those that make graphs.

    Names are anybody's words: they are printable and bounded, and so is their number.
    """
    ours = dict(_flat(asked))
    names = {name for other in theirs for name, _ in _flat(other) if name not in ours and not _is_degree(name)}
    open_ones = [name for name in names if name.startswith(_DECISIVE) and name != "model.id"]  # a name makes no graphs
    return tuple(safe_text(name) for name in sorted(open_ones, key=_by_weight)[:_SHOWN_INGREDIENTS])


def put_together(
    same_here: Sequence[Manifest],
    others_here: Sequence[Manifest],
    found: Sequence[Found],
    ingredients: Mapping[str, Any],
) -> Expected:
    """What this host and remotes know of a run. Slow where that is much: nothing for the event loop.

    Args:
        same_here, others_here: what this host's runs of the same key used, and those of the same model.
        found: on remotes, one for each compiler version.
        ingredients: of the run that is asked about.
    """
    same = [(_HERE, one) for one in same_here] + [(path_of(one), one) for of in found for one in of.same_key]
    others: list[Known] = []
    if not same:
        others = [(_HERE, one) for one in others_here] + [(path_of(one), one) for of in found for one in of.nearest]
    away = dict.fromkeys(remote for of in found for remote in of.away)
    return replace(expect(same, others, ingredients), away=tuple(away))


def expect(same_key: Sequence[Known], others: Sequence[Known], ingredients: Mapping[str, Any]) -> Expected:
    """Put together what is known.

    Args:
        same_key: manifests of the same run key, each with where it is known from.
        others: those of the same model.
        ingredients: of the run that is asked about.
    """
    if same_key:
        return Expected(_union(same_key), SAME_KEY, sources=_sources(same_key))
    ranked = sorted(
        ((differences(ingredients, other.ingredients), (source, other)) for source, other in others), key=_rank
    )
    if not ranked:
        return Expected()
    differs = ranked[0][0]
    nearest = [known for names, known in ranked if names == differs]
    left_open = unsaid(ingredients, [manifest.ingredients for _, manifest in nearest])
    return Expected(_union(nearest), SAME_MODEL, differs, left_open, _sources(nearest))


def plan(
    expected: Expected,
    *,
    is_local: Callable[[ModuleName], bool],
    is_remote: Callable[[ModuleName], bool],
    bytes_per_s: float | None = None,
) -> dict[str, Any]:
    """What `neff plan` is told; its form is in docs/protocol.md.

    Args:
        is_local: whether a module is ready in a cache directory.
        is_remote: whether some remote that answers holds it.
        bytes_per_s: how fast entries came lately; None where none did.
    """
    local, remote, missing = list[ModuleName](), list[ModuleName](), list[ModuleName]()
    for name in expected.modules:
        (local if is_local(name) else remote if is_remote(name) else missing).append(name)
    if expected.modules and not expected.is_likely:
        missing, remote, local = list(expected.modules), [], []  # other graphs, about as many
    remote_bytes = _total([expected.modules[name].size_bytes for name in remote])
    compile_s = _estimate([expected.modules[name].compile_s for name in missing], expected)
    return {
        "state": _state(expected, remote, missing),
        "modules": len(expected.modules),
        "local": len(local),
        "remote": len(remote),
        "missing": len(missing),
        "remote_bytes": remote_bytes,
        "fetch_s": _fetch_s(remote, remote_bytes, bytes_per_s),
        "compile_s": compile_s,
        "sure": expected.sure,
        "differs": list(expected.differs),
        "unsaid": list(expected.unsaid),
        "from": list(expected.sources),
        "away": list(expected.away),
        "names": [str(name) for name in expected.modules][:_SHOWN_NAMES],
    }


def _state(expected: Expected, remote: Sequence[ModuleName], missing: Sequence[ModuleName]) -> str:
    if not expected.modules:
        return UNKNOWN
    return WILL_COMPILE if missing else FETCHABLE if remote else WARM


def _fetch_s(remote: Sequence[ModuleName], size_bytes: float | None, bytes_per_s: float | None) -> float | None:
    if size_bytes is None:
        return None
    return round(size_bytes / (bytes_per_s or _BYTES_PER_S) + (_LATENCY_S if remote else 0), 1)


def _estimate(seconds: Sequence[float | None], expected: Expected) -> float | None:
    """The sum; what is not known counts as the mean of what is."""
    known = [module.compile_s for module in expected.modules.values() if module.compile_s is not None]
    if not seconds:
        return 0.0
    if not known:
        return None
    mean = sum(known) / len(known)
    return round(sum(mean if each is None else each for each in seconds), 1)


def _total(sizes: Iterable[int | None]) -> int | None:
    known = list(sizes)
    return None if None in known else sum(size for size in known if size is not None)


def _sources(known: Iterable[Known]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(source for source, _ in known))


def _union(known: Iterable[Known]) -> dict[ModuleName, UsedModule]:
    by_namespace: dict[str, list[Manifest]] = {}
    for _, manifest in known:
        by_namespace.setdefault(manifest.namespace, []).append(manifest)
    return {
        ModuleName(namespace, module.key): module
        for namespace, manifests in by_namespace.items()
        for module in union(manifests)
    }


def _rank(pair: tuple[tuple[str, ...], Known]) -> tuple[int, int]:
    decisive = sum(name.startswith(_DECISIVE) for name in pair[0])
    return decisive, len(pair[0])


def _is_degree(name: str) -> bool:
    """Whether an ingredient, by dotted name, is over how many something is split; those of 1 are never stated."""
    return name.startswith("parallel.") and name.endswith("_parallel_size")


def _by_weight(name: str) -> tuple[int, str]:
    return next(place for place, start in enumerate(_DECISIVE) if name.startswith(start)), name


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, part in value.items():
        if name in ("config", "config_digest") and prefix == "model.":
            yield "model.config", part
        elif isinstance(part, Mapping):
            yield from _flat(part, f"{prefix}{name}.")
        elif part is not None and part != []:
            yield f"{prefix}{name}", part
