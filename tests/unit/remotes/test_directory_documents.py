"""Documents in a shared directory: put whole, never over another, and never by way of a link."""

from __future__ import annotations

from pathlib import Path

import pytest

from neffd.remotes import base, directory_documents
from neffd.remotes.base import NOT_TRIED, Document, EntryFailed, PublishResult, RemoteUnavailable
from neffd.remotes.directory import DirectoryRemote
from tests.harness import entries
from tests.harness.listing import all_keys
from tests.unit.remotes.publishing import outgoing

STORED, ALREADY_THERE = PublishResult.STORED, PublishResult.ALREADY_THERE
RUNS = f"{entries.NAMESPACE}/0_RUNS"
PATH = f"{RUNS}/llama/org/name/RUN_1.json"


async def read(remote: DirectoryRemote, folder: str = RUNS, max_bytes: int = 1_000) -> dict[str, bytes | None]:
    found = await remote.documents(folder)
    contents = await remote.read_documents(found, max_bytes)
    return {document.path: content for document, content in zip(found, contents, strict=True)}


async def test_what_was_put_is_read(remote: DirectoryRemote, shared: Path) -> None:
    assert await remote.documents(RUNS) == []
    assert await remote.publish([], {PATH: b"one"}) == [STORED]
    assert await remote.publish([], {PATH: b"two"}) == [ALREADY_THERE]
    assert await read(remote) == await read(remote, f"{RUNS}/llama/org/name") == {PATH: b"one"}
    assert await read(remote, max_bytes=2) == {PATH: None}
    assert list((shared / ".neffd-staging").iterdir()) == []


async def test_it_is_no_entry(remote: DirectoryRemote, tmp_path: Path) -> None:
    name = entries.module(1)
    going = outgoing(tmp_path / "pinned", name, entries.files(name))
    assert await remote.publish([going], {PATH: b"one"}) == [STORED, STORED]
    assert await all_keys(remote, entries.NAMESPACE) == {name.key}
    assert await remote.namespaces() == [entries.NAMESPACE]


async def test_without_its_entries_it_does_not_go(remote: DirectoryRemote, tmp_path: Path) -> None:
    name = entries.module(1)
    going = outgoing(tmp_path / "pinned", name, entries.files(name))
    (tmp_path / "pinned" / "model.neff.part").write_bytes(b"other")
    failed, document = await remote.publish([going], {PATH: b"one"})
    assert isinstance(failed, EntryFailed)
    assert document == EntryFailed(NOT_TRIED, permanent=False)
    assert await remote.documents(RUNS) == []


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "../x",
        f"{entries.NAMESPACE}/0_RUNS",
        f"{RUNS}/../x",
        f"{RUNS}/.hidden",
        f"{RUNS}//x",
        f"{RUNS}/{'x' * 200}",
    ],
)
async def test_nothing_is_put_or_read_elsewhere(remote: DirectoryRemote, shared: Path, path: str) -> None:
    (shared / "README.md").write_text("secret")
    assert await remote.publish([], {path: b"one"}) == [EntryFailed("bad-path")]
    assert [item.name for item in shared.iterdir()] == ["README.md"]
    assert await remote.read_documents([Document(path, 6, "")], 100) == [None]
    assert await remote.documents("..") == await remote.documents(entries.NAMESPACE) == []


async def test_links_lead_nowhere(remote: DirectoryRemote, shared: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "org").mkdir(parents=True)
    (outside / "secret.json").write_text("secret")
    (shared / RUNS).mkdir(parents=True)
    (shared / RUNS / "llama").symlink_to(outside)
    (shared / RUNS / "link.json").symlink_to(outside / "secret.json")
    assert await remote.documents(RUNS) == await remote.documents(f"{RUNS}/llama") == []
    linked = [Document(f"{RUNS}/link.json", 6, ""), Document(f"{RUNS}/llama/secret.json", 6, "")]
    assert await remote.read_documents(linked, 100) == [None, None]
    assert await remote.publish([], {PATH: b"one"}) == [EntryFailed("not-a-folder")]
    assert sorted(path.name for path in outside.rglob("*")) == ["org", "secret.json"]


async def test_a_folder_full_of_junk_is_read_to_a_limit(
    remote: DirectoryRemote, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_documents, "MAX_DOCUMENTS", 10)
    monkeypatch.setattr(directory_documents, "_MAX_SEEN", 20)
    deep = shared / RUNS / "a/b/c/d/e"
    deep.mkdir(parents=True)
    (deep / "too-deep.json").touch()
    assert await remote.documents(RUNS) == []
    for number in range(30):
        (shared / RUNS / f"{number:02}.json").touch()
    assert len(await remote.documents(RUNS)) == 10
    for path in (shared / RUNS).glob("*.json"):
        path.rename(path.with_name(f".{path.name}"))
    (shared / RUNS / "z").mkdir()
    (shared / RUNS / "z" / "one.json").touch()
    assert await remote.documents(RUNS) == [], "given up before it was found"


async def test_a_directory_that_is_gone_has_no_answer(remote: DirectoryRemote, shared: Path) -> None:
    shared.rmdir()
    with pytest.raises(RemoteUnavailable, match="no-directory"):
        await remote.documents(RUNS)
    assert await remote.publish([], {PATH: b"one"}) == [EntryFailed("no-directory", permanent=False)]


def test_which_paths_are_documents() -> None:
    assert base.is_document_path(PATH)
    assert base.is_document_path(f"{RUNS}/unknown/-/-/RUN_1.json")
    for path in ("", "0_RUNS/x", f"{entries.NAMESPACE}/0_REGISTRY/x", f"{RUNS}/..", f"{RUNS}/a b", f"{RUNS}/a\n"):
        assert not base.is_document_path(path)
