"""A directory as a remote: what it holds, what it refuses, what it says when it is not well."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from neff.keys import ModuleName
from neffd.remotes import directory_listing, provenance
from neffd.remotes.base import EntryFailed, EntryRefused, PublishResult, RemoteEntry, RemoteUnavailable
from neffd.remotes.directory import DirectoryRemote
from neffd.remotes.provenance import Provenance
from neffd.store import fsops
from neffd.store.root import PART_SUFFIX
from tests.harness import entries
from tests.harness.listing import all_keys
from tests.unit.remotes.fetching import Waiting, fetched
from tests.unit.remotes.publishing import digests, outgoing

GENERATIONS = pytest.mark.parametrize("namespace", [entries.NAMESPACE, entries.OLD_NAMESPACE])
NAME = entries.module(1)
STORED, ALREADY_THERE = PublishResult.STORED, PublishResult.ALREADY_THERE


async def _fetch(remote: DirectoryRemote, name: ModuleName, folder: Path) -> dict[str, bytes]:
    content = await fetched(remote, name, folder)
    assert content is not None
    return content


@GENERATIONS
async def test_round_trip_without_hard_links(
    remote: DirectoryRemote, shared: Path, tmp_path: Path, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    name = entries.module(1, namespace)
    content = entries.files(name, wrapped=True)
    assert await all_keys(remote, namespace) == frozenset()
    assert await remote.publish([outgoing(tmp_path / "pin", name, content)]) == [STORED]
    assert await remote.namespaces() == [namespace]
    assert await all_keys(remote, namespace) == {name.key}
    assert await _fetch(remote, name, tmp_path / "down") == content
    assert list((shared / ".neffd-staging").iterdir()) == []


async def test_the_same_neff_gains_files_and_another_is_left_alone(
    remote: DirectoryRemote, shared: Path, tmp_path: Path
) -> None:
    content = entries.files(NAME, seed=1)
    await remote.publish([outgoing(tmp_path / "first", NAME, content)])
    amended = {**content, "wrapped_neff.hlo": b"late"}
    assert await remote.publish([outgoing(tmp_path / "late", NAME, amended)]) == [STORED]
    assert await remote.publish([outgoing(tmp_path / "x", NAME, entries.files(NAME, seed=2))]) == [ALREADY_THERE]
    assert await _fetch(remote, NAME, tmp_path / "down") == amended
    stated = provenance.parse((shared / NAME.namespace / NAME.key / "neffd.json").read_bytes())
    assert stated == Provenance(digests(amended), 7.0)


@pytest.mark.parametrize("said", ["nothing", "stale", "a file that is gone", "names that leave the entry"])
async def test_completing_states_what_is_there(
    remote: DirectoryRemote, shared: Path, tmp_path: Path, said: str
) -> None:
    """An entry that another tool put there, with the same NEFF and inputs of its own, stays usable."""
    theirs = {**entries.files(NAME), "model.hlo_module.pb": b"traced elsewhere"}
    folder = entries.write(shared, NAME, theirs)
    statement = digests(theirs)
    if said == "stale":
        statement["model.neff"] = digests({"model.neff": b"older"})["model.neff"]
    elif said == "a file that is gone":
        statement["wrapped_neff.hlo"] = digests({"": b"other"})[""]
    elif said == "names that leave the entry":
        statement |= digests({"../neffd.json": b"", "/etc/passwd": b""})
    if said != "nothing":
        (folder / "neffd.json").write_bytes(Provenance(statement).encode())
    ours = {**entries.files(NAME), "wrapped_neff.hlo": b"ours"}
    assert await remote.publish([outgoing(tmp_path / "pin", NAME, ours)]) == [STORED]
    whole = {**theirs, "wrapped_neff.hlo": b"ours"}
    assert await _fetch(remote, NAME, tmp_path / "down") == whole
    stated = provenance.parse((folder / "neffd.json").read_bytes())
    assert stated is not None
    assert stated.files == digests(whole)


async def test_what_the_daemon_pinned_is_gone_or_altered(remote: DirectoryRemote, shared: Path, tmp_path: Path) -> None:
    """One bad entry does not keep the others of its batch back, and is not tried for ever."""
    gone, altered, good = (outgoing(tmp_path / str(n), entries.module(n), entries.files(NAME)) for n in range(3))
    (gone.directory / ("model.neff" + PART_SUFFIX)).unlink()
    (altered.directory / ("model.neff" + PART_SUFFIX)).write_bytes(b"other")
    assert await remote.publish([gone, altered, good]) == [
        EntryFailed("gone-locally"),
        EntryFailed("changed-locally"),
        STORED,
    ]
    assert await all_keys(remote, NAME.namespace) == {good.name.key}
    assert list((shared / ".neffd-staging").iterdir()) == []


@pytest.mark.parametrize(
    ("file", "data", "with_provenance", "reason"),
    [
        ("model.neff", entries.neff_bytes(0)[:-1], True, "digest-mismatch"),
        ("model.neff", entries.neff_bytes(9), True, "digest-mismatch"),
        ("model.hlo_module.pb", b"other", True, "digest-mismatch"),
        ("model.neff", entries.neff_bytes(0)[:-1], False, "short-neff"),
        ("model.neff", b"\x02", False, "short-neff"),
    ],
)
async def test_torn_or_altered(
    remote: DirectoryRemote, shared: Path, tmp_path: Path, file: str, data: bytes, with_provenance: bool, reason: str
) -> None:
    content = entries.files(NAME)
    folder = entries.write(shared, NAME, {**content, file: data})
    if with_provenance:
        (folder / "neffd.json").write_bytes(Provenance(digests(content)).encode())
    with pytest.raises(EntryRefused) as refusal:
        await _fetch(remote, NAME, tmp_path / "down")
    assert refusal.value.reason == reason


@pytest.mark.parametrize("missing", ["model.done", "model.neff"])
async def test_unfinished_is_missing(remote: DirectoryRemote, shared: Path, missing: str) -> None:
    folder = entries.write(shared, NAME, entries.files(NAME))
    (folder / missing).unlink()
    assert await all_keys(remote, NAME.namespace) == frozenset()
    assert await remote.describe(NAME) is None
    (folder / "model.neff").write_bytes(b"")
    assert await remote.describe(NAME) is None


async def test_a_key_that_is_ready_no_more(remote: DirectoryRemote, shared: Path) -> None:
    folder = entries.write(shared, NAME, entries.files(NAME))
    assert await all_keys(remote, NAME.namespace) == {NAME.key}
    (folder / "model.done").unlink()
    assert await remote.describe(NAME) is None
    assert await all_keys(remote, NAME.namespace) == frozenset()


async def test_what_was_denied_and_is_ready_again_is_a_change(
    remote: DirectoryRemote, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_listing, "_TICK_S", 0.0)
    folder = entries.write(shared, NAME, entries.files(NAME))
    assert await all_keys(remote, NAME.namespace) == {NAME.key}
    listed = await remote.version(NAME.namespace)
    (folder / "model.done").unlink()
    assert await remote.present(NAME.namespace, [NAME.key]) == frozenset()
    assert await all_keys(remote, NAME.namespace) == frozenset(), "a listing knows it, too"
    assert await remote.version(NAME.namespace) == listed
    assert await remote.present(NAME.namespace, [NAME.key]) == frozenset()
    (folder / "model.done").touch()
    assert await all_keys(remote, NAME.namespace) == {NAME.key}, "by somebody who did not look first"
    relisted = await remote.version(NAME.namespace)
    assert relisted != listed
    (folder / "model.done").unlink()
    assert await remote.describe(NAME) is None
    (folder / "model.done").touch()
    assert await remote.version(NAME.namespace) != relisted, "without a listing in between"


@pytest.mark.parametrize("linked", ["namespace", "entry", "neff"])
async def test_links_on_the_remote_lead_nowhere(
    remote: DirectoryRemote, shared: Path, tmp_path: Path, linked: str
) -> None:
    outside = entries.write(tmp_path / "private", NAME, entries.files(NAME))
    link = {"namespace": shared / NAME.namespace, "entry": shared / NAME.namespace / NAME.key}.get(linked)
    if link is None:
        link = entries.write(shared, NAME, entries.files(NAME)) / "model.neff"
        link.unlink()
        outside /= "model.neff"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside if linked != "namespace" else outside.parent)
    assert await remote.describe(NAME) is None
    before = sorted((tmp_path / "private").rglob("*"))
    (outcome,) = await remote.publish([outgoing(tmp_path / "pin", NAME, entries.files(NAME, seed=2))])
    assert outcome == (EntryFailed("being-written", False) if linked == "neff" else EntryFailed("not-a-folder"))
    assert sorted((tmp_path / "private").rglob("*")) == before


async def test_a_link_that_appears_after_the_listing(remote: DirectoryRemote, shared: Path, tmp_path: Path) -> None:
    folder = entries.write(shared, NAME, entries.files(NAME))

    def swap(_: RemoteEntry) -> None:
        (folder / "model.neff").unlink()
        (folder / "model.neff").symlink_to("/etc/passwd")

    with pytest.raises(EntryRefused) as refusal:
        await remote.fetch(NAME, tmp_path, Waiting(at_turn=swap))
    assert refusal.value.reason == "not-a-file"


async def test_the_version_shows_every_new_key(remote: DirectoryRemote, shared: Path, tmp_path: Path) -> None:
    """Also two within one tick of the file server's clock, and a mark that comes long after its folder."""
    versions = [await remote.version(NAME.namespace)]
    for number in range(3):
        await remote.publish([outgoing(tmp_path / str(number), entries.module(number), entries.files(NAME))])
        os.utime(shared / NAME.namespace, ns=(1, 1))  # a clock that stands still, and is far behind ours
        versions.append(await remote.version(NAME.namespace))
    assert len(set(versions)) == len(versions)


async def test_a_version_becomes_stable_and_a_late_mark_changes_it(
    remote: DirectoryRemote, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_listing, "_TICK_S", 0.0)
    content = entries.files(NAME)
    folder = entries.write(shared, NAME, {file: data for file, data in content.items() if file != "model.done"})
    stamp = folder.parent.stat().st_mtime_ns
    before = await remote.version(NAME.namespace)
    assert await all_keys(remote, NAME.namespace) == frozenset()
    assert await remote.version(NAME.namespace) == before
    (folder / "model.done").touch()
    assert folder.parent.stat().st_mtime_ns == stamp
    assert await remote.version(NAME.namespace) != before
    assert await all_keys(remote, NAME.namespace) == {NAME.key}
    settled = await remote.version(NAME.namespace)
    assert await all_keys(remote, NAME.namespace) == {NAME.key}
    assert await remote.version(NAME.namespace) == settled


async def test_away_says_nothing_about_keys(remote: DirectoryRemote, shared: Path, tmp_path: Path) -> None:
    await remote.publish([outgoing(tmp_path / "pin", NAME, entries.files(NAME))])
    shared.rename(tmp_path / "elsewhere")
    for question in (
        remote.access(),
        remote.version(NAME.namespace),
        all_keys(remote, NAME.namespace),
        remote.present(NAME.namespace, [NAME.key]),
        remote.namespaces(),
        remote.describe(NAME),
        remote.publish([outgoing(tmp_path / "pin", NAME, entries.files(NAME))]),
    ):
        with pytest.raises(RemoteUnavailable) as away:
            await question
        assert away.value.reason == "no-directory"
    (tmp_path / "elsewhere").rename(shared)
    assert await all_keys(remote, NAME.namespace) == {NAME.key}


async def _with_full_disk(monkeypatch: pytest.MonkeyPatch, below: Path) -> None:
    opened = Path.open

    def open_full(path: Path, *args: str, **options: object) -> BinaryIO:
        if below in path.parents and args and "x" in args[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, *args, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(Path, "open", open_full)


async def test_a_full_remote(
    remote: DirectoryRemote, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as fault:
        await _with_full_disk(fault, shared)
        with pytest.raises(RemoteUnavailable) as full:
            await remote.publish([outgoing(tmp_path / "pin", NAME, entries.files(NAME))])
        assert full.value.reason == "remote-full"
    assert await all_keys(remote, NAME.namespace) == frozenset()
    assert list((shared / ".neffd-staging").iterdir()) == []
    assert await remote.publish([outgoing(tmp_path / "pin", NAME, entries.files(NAME))]) == [STORED]


async def test_one_that_cannot_be_read_here_keeps_no_other_back(
    remote: DirectoryRemote, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [entries.module(number) for number in range(3)]
    batch = [outgoing(tmp_path / name.key, name, entries.files(name)) for name in names]
    copy = fsops.copy_hashed

    def copy_unless_bad(source: Path, *rest: Any) -> Any:
        if source.is_relative_to(batch[0].directory):
            raise OSError(errno.EIO, "Input/output error")
        return copy(source, *rest)

    monkeypatch.setattr(fsops, "copy_hashed", copy_unless_bad)
    assert await remote.publish(batch) == [EntryFailed("io-error", permanent=False), STORED, STORED]
    assert list((shared / ".neffd-staging").iterdir()) == []


async def test_what_fails_for_all_is_the_directorys(
    remote: DirectoryRemote, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    batch = [outgoing(tmp_path / "pin", NAME, entries.files(NAME))]
    await remote.publish([outgoing(tmp_path / "x", entries.module(2), entries.files(entries.module(2)))])
    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(RemoteUnavailable) as failed:
        await remote.publish(batch)
    assert failed.value.reason == "io-error"


async def test_what_has_all_that_we_have_is_not_written_again(
    remote: DirectoryRemote, shared: Path, tmp_path: Path
) -> None:
    entry = outgoing(tmp_path / "pin", NAME, entries.files(NAME))
    await remote.publish([entry])
    before = {path: path.stat().st_ino for path in (shared / str(NAME)).iterdir()}
    assert await remote.publish([entry]) == [STORED]
    assert {path: path.stat().st_ino for path in (shared / str(NAME)).iterdir()} == before


async def test_a_full_disk_of_this_host_is_not_the_remotes_fault(
    remote: DirectoryRemote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await remote.publish([outgoing(tmp_path / "pin", NAME, entries.files(NAME))])
    await _with_full_disk(monkeypatch, tmp_path / "down")
    with pytest.raises(OSError, match="No space left") as full:
        await remote.fetch(NAME, tmp_path / "down", Waiting())
    assert full.value.errno == errno.ENOSPC


async def test_a_read_only_remote(shared: Path, remote: DirectoryRemote, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await remote.access()).can_write
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    found = await remote.access()
    assert (found.can_write, found.reason) == (False, "no-write-access")
    shutil.rmtree(shared)
    with pytest.raises(RemoteUnavailable):
        await remote.access()
