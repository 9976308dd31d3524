"""What a commit holds, for everything that the Hub may hold already."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from neff import keys
from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.remotes.base import OutgoingEntry, RemoteFile
from neffd.remotes.hub.plan import CommitPlan, describe_commit, files_of, make_plan
from neffd.remotes.provenance import FILE_NAME, FileDigest, Provenance
from tests.harness import entries

NAMES = [entries.module(1), entries.module(2), entries.module(1, entries.OLD_NAMESPACE)]
# Names of contents; the Hub states a sha256 of large files only.
LARGE = ("model.hlo_module.pb", xla.NEFF, "wrapped_neff.hlo")

Tree = Mapping[str, str]  # path to content


def digest(content: str) -> FileDigest:
    return FileDigest(len(content), hashlib.sha256(content.encode()).hexdigest())


def listed(path: str, content: str) -> RemoteFile:
    file = path.rpartition("/")[2]
    if file in LARGE:
        return RemoteFile(file, len(content), digest(content).sha256)
    return RemoteFile(file, len(content), git_sha1="0" * 40)


def outgoing(name: ModuleName, files: Mapping[str, str]) -> OutgoingEntry:
    return OutgoingEntry(name, Path("pinned"), Provenance({file: digest(content) for file, content in files.items()}))


def files_by(host: str, name: ModuleName, extra: bool) -> dict[str, str]:
    """A ready entry as `host` made it: sizes differ between hosts, except for what the compiler makes empty."""
    made = {"model.hlo_module.pb": f"hlo of {host}", xla.NEFF: f"neff of {host}"}
    if keys.ready_mark(name.namespace) == xla.DONE:
        made |= {xla.FLAGS: "flags", xla.DONE: ""}
    if extra:
        made["wrapped_neff.hlo"] = f"wrapped by {host}"
    return made


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[OutgoingEntry], dict[str, dict[str, str]], Tree]:
    """Own entries, their contents, and a repo in which others, and we earlier, left entries whole or in part."""
    ours: dict[str, dict[str, str]] = {}
    going: list[OutgoingEntry] = []
    there: dict[str, str] = {}
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True)):
        mine = files_by("us", name, draw(st.booleans()))
        going.append(outgoing(name, mine))
        ours[str(name)] = mine
        author = draw(st.sampled_from(["us", "them"]))
        theirs = files_by(author, name, draw(st.booleans()))
        kept = draw(st.just(set(theirs)) | st.sets(st.sampled_from(sorted(theirs))))
        there |= {f"{name}/{file}": theirs[file] for file in kept}
        if draw(st.booleans()) and kept:
            there[f"{name}/{FILE_NAME}"] = f"by {author}"
    there["README.md"] = "anything"
    return going, ours, there


def plan_for(going: list[OutgoingEntry], there: Tree) -> CommitPlan:
    asked = {path for entry in going for path in files_of(entry)}
    return make_plan(going, {path: listed(path, content) for path, content in there.items() if path in asked})


def applied(plan: CommitPlan, ours: Mapping[str, Mapping[str, str]], there: Tree) -> dict[str, str]:
    after = {path: content for path, content in there.items() if path not in plan.delete}
    for path, (entry, file) in plan.add.items():
        after[path] = "by us" if file == FILE_NAME else ours[str(entry.name)][file]
    return after


def entry_in(tree: Tree, name: ModuleName) -> dict[str, str]:
    return {path.rpartition("/")[2]: content for path, content in tree.items() if path.startswith(f"{name}/")}


def is_ready(files: Mapping[str, str], name: ModuleName) -> bool:
    return keys.ready_mark(name.namespace) in files and bool(files.get(xla.NEFF))


@given(situations())
def test_every_entry_is_wholly_one_hosts(
    situation: tuple[list[OutgoingEntry], dict[str, dict[str, str]], Tree],
) -> None:
    going, ours, there = situation
    plan = plan_for(going, there)
    after = applied(plan, ours, there)
    assert not set(plan.add) & set(plan.delete)
    assert set(plan.delete) <= set(there)
    assert {path for path in there if "MODULE" not in path} == {path for path in after if "MODULE" not in path}
    for entry in going:
        before, now, mine = entry_in(there, entry.name), entry_in(after, entry.name), ours[str(entry.name)]
        assert is_ready(now, entry.name)
        if entry in plan.there:
            assert now == before
            continue
        now.pop(FILE_NAME, None)
        assert now.items() >= mine.items()
        # What is there beyond ours was made with this very NEFF.
        assert all(content.endswith("us") or file in mine for file, content in now.items())
        if is_ready(before, entry.name):
            assert now.items() >= {(file, content) for file, content in before.items() if file != FILE_NAME}


@given(situations())
def test_what_was_committed_needs_no_second_commit(
    situation: tuple[list[OutgoingEntry], dict[str, dict[str, str]], Tree],
) -> None:
    going, ours, there = situation
    again = plan_for(going, applied(plan_for(going, there), ours, there))
    assert not again.add
    assert not again.delete


def test_a_ready_entry_with_our_neff_and_another_hlo_is_another_hosts() -> None:
    name = NAMES[0]
    mine = files_by("us", name, extra=True)
    theirs = {**files_by("us", name, extra=False), "model.hlo_module.pb": "other hlo"}
    going = [outgoing(name, mine)]
    plan = plan_for(going, {f"{name}/{file}": content for file, content in theirs.items()})
    assert plan.there == going
    assert not plan.add


def test_a_commit_names_its_entries() -> None:
    going = [outgoing(name, files_by("us", name, extra=False)) for name in NAMES[:2]]
    assert describe_commit(going) == ("Add 2 compiled graphs", f"{NAMES[0]}\n{NAMES[1]}")
    assert describe_commit(going[:1])[0] == "Add 1 compiled graph"
    assert describe_commit(going[:1], 2)[0] == "Add 1 compiled graph and 2 run manifests"
    assert describe_commit([], 1) == ("Add 1 run manifest", "")
    assert [entry.name for entry in plan_for(going, {}).brings] == NAMES[:2]
