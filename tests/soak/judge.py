"""Lost, torn, doubled, stuck: decisions only, on what was read when everything had settled."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.remotes import provenance
from neffd.remotes.provenance import FileDigest
from tests.soak import graphs

KINDS = ("lost", "torn", "doubled", "stuck")
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Violation:
    """A promise that was broken: which, what was found, and where to look."""

    kind: str
    what: str
    where: str = ""


@dataclass
class Found:
    """What is there at the end.

    Attributes:
        numbers: the graph of each entry that the soak knows.
        compiled: for each graph the digests of the NEFFs that compilers made of it.
        had: graphs that were ready on some host at some time, and where.
        remote: files of each entry on the Hub.
        waiting: entries that some journal still holds, whether they may go or are parked.
        caches: by host the files of each entry that is ready there.
        commits: what each commit says that it brings, one entry a line.
    """

    numbers: Mapping[ModuleName, int]
    compiled: Mapping[int, set[str]]
    had: Mapping[int, set[str]]
    remote: Mapping[ModuleName, Files]
    waiting: set[ModuleName] = field(default_factory=set)
    caches: Mapping[str, Mapping[ModuleName, Files]] = field(default_factory=dict)
    commits: Sequence[str] = ()


def judge(found: Found) -> list[Violation]:
    """Everything that is lost, torn or doubled."""
    return [*_lost(found), *_torn(found), *_doubled(found)]


def by_kind(violations: Sequence[Violation]) -> dict[str, int]:
    """How many of each kind."""
    count = Counter(violation.kind for violation in violations)
    return {kind: count[kind] for kind in KINDS}


def by_entry(files: Mapping[str, bytes]) -> dict[ModuleName, dict[str, bytes]]:
    """A repo's files, by entry; what belongs to none is left out."""
    entries: dict[ModuleName, dict[str, bytes]] = {}
    for path, content in files.items():
        namespace, _, rest = path.partition("/")
        key, _, file = rest.partition("/")
        if file:
            entries.setdefault(ModuleName(namespace, key), {})[file] = content
    return entries


def _lost(found: Found) -> list[Violation]:
    """What was ready somewhere, and is neither on the Hub nor in a journal."""
    hosts = {number: set(names) for number, names in found.had.items()}
    for host, entries in found.caches.items():
        for name in entries:
            if name in found.numbers:
                hosts.setdefault(found.numbers[name], set()).add(host)
    names = {number: name for name, number in found.numbers.items()}
    return [
        Violation("lost", f"graph {number}, {names[number]}", f"was ready on {', '.join(sorted(where))}")
        for number, where in sorted(hosts.items())
        if names[number] not in found.remote and names[number] not in found.waiting
    ]


def _torn(found: Found) -> list[Violation]:
    violations = []
    for name, files in sorted(found.remote.items()):
        flaw = _flaw(found, name, files) or _flaw_of_description(files)
        if flaw:
            violations.append(Violation("torn", f"{name}: {flaw}", "on the Hub"))
    for host, entries in sorted(found.caches.items()):
        for name, files in sorted(entries.items()):
            if flaw := _flaw(found, name, files):
                violations.append(Violation("torn", f"{name}: {flaw}", f"in the cache directory of host {host}"))
    return violations


def _flaw(found: Found, name: ModuleName, files: Files) -> str:
    number = found.numbers.get(name)
    if number is None:
        return "nobody has made it"
    if xla.DONE not in files:
        return "no ready mark"
    if flaw := graphs.flaw(graphs.graph(number), files):
        return flaw
    is_known = hashlib.sha256(files[xla.NEFF]).hexdigest() in found.compiled.get(number, ())
    return "" if is_known else "a NEFF that no compiler made"


def _flaw_of_description(files: Files) -> str:
    """Whether `neffd.json` describes exactly what is beside it."""
    described = provenance.parse(files.get(provenance.FILE_NAME, b""))
    if described is None:
        return "no neffd.json"
    beside = {
        file: FileDigest(len(content), hashlib.sha256(content).hexdigest())
        for file, content in files.items()
        if file != provenance.FILE_NAME
    }
    return "" if described.files == beside else "neffd.json describes other files than are there"


def _doubled(found: Found) -> list[Violation]:
    """A graph that is there twice, or was sent twice."""
    violations = []
    times = Counter(line for commit in found.commits for line in commit.splitlines() if "/MODULE_" in line)
    for name, count in sorted(times.items()):
        if count > 1:
            violations.append(Violation("doubled", f"{name} is in {count} commits", "history of the repo"))
    graph_of = Counter((name.namespace, name.key.partition("+")[0]) for name in found.remote)
    for (namespace, graph), count in sorted(graph_of.items()):
        if count > 1:
            violations.append(Violation("doubled", f"{namespace}/{graph} is there {count} times", "on the Hub"))
    return violations
