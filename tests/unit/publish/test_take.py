"""Taking an entry: pinned whole, of trusted owners only, never through a link, never while it changes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neff.keys import ModuleName
from neffd.publish.journal import Taken
from neffd.publish.take import NotTaken, Trust, is_short, take
from neffd.store.index import LOCAL
from neffd.store.root import PART_SUFFIX, CacheRoot
from tests.harness import entries

NAME = entries.module(1)
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")


def trust(root: CacheRoot) -> Trust:
    return Trust.of(root.path, None, None)


def take_now(root: CacheRoot, name: ModuleName = NAME) -> Taken:
    return take(root, name, root.inspect(name), trust(root), origin=LOCAL)


def pinned(what: Taken) -> dict[str, bytes]:
    return {path.name.removesuffix(PART_SUFFIX): path.read_bytes() for path in what.folder.iterdir()}


def nothing_pinned(root: CacheRoot) -> bool:
    return not list((root.staging / "outbox").iterdir())


@pytest.mark.parametrize("can_link", [True, False])
def test_files_are_pinned_so_that_deleting_the_entry_loses_nothing(
    root: CacheRoot, monkeypatch: pytest.MonkeyPatch, can_link: bool
) -> None:
    content = entries.files(NAME, wrapped=True)
    folder = entries.write(root.path, NAME, {**content, "notes.txt": b"mine"})
    if not can_link:
        monkeypatch.setattr(os, "link", _no_links)
    what = take_now(root)
    assert ((what.folder / f"model.neff{PART_SUFFIX}").stat().st_nlink == 2) is can_link
    shutil.rmtree(folder)
    assert pinned(what) == content
    for file, digest in what.provenance.files.items():
        assert (digest.size_bytes, digest.sha256) == (len(content[file]), hashlib.sha256(content[file]).hexdigest())
    assert what.size_bytes == sum(map(len, content.values()))


def _no_links(*args: object, **options: object) -> None:
    raise OSError(errno.EPERM, "no links here")


def _before_link(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None]) -> None:
    """Run `act` once with the source's path, just before the NEFF is linked."""
    real = os.link

    def link(source: Any, target: Any, **options: Any) -> None:
        if Path(source).name == "model.neff":
            act(Path(source))
        real(source, target, **options)

    monkeypatch.setattr(os, "link", link)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda neff: neff.write_bytes(b"other bytes"), "changing"),
        (lambda neff: Path(shutil.copy(neff, neff.with_suffix(".new"))).replace(neff), "changing"),
        (lambda neff: (neff.parent / "wrapped_neff.hlo").write_bytes(b"late"), "changing"),
        (lambda neff: neff.unlink(), "gone"),
        (lambda neff: shutil.rmtree(neff.parent), "gone"),
    ],
)
def test_an_entry_that_changes_meanwhile_is_left(
    root: CacheRoot, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], reason: str
) -> None:
    entries.write(root.path, NAME, entries.files(NAME))
    _before_link(monkeypatch, change)
    with pytest.raises(NotTaken) as caught:
        take_now(root)
    assert caught.value.reason == reason
    assert nothing_pinned(root)


def test_a_file_that_is_swapped_for_a_moment_is_not_taken_for_the_one_that_was_seen(
    root: CacheRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = entries.write(root.path, NAME, entries.files(NAME))
    real = os.link

    def link(source: Any, target: Any, **options: Any) -> None:
        aside = folder / "aside"
        Path(source).rename(aside)
        Path(source).write_bytes(entries.neff_bytes(99))
        real(source, target, **options)
        aside.replace(source)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(NotTaken, match="changing"):
        take_now(root)
    assert nothing_pinned(root)


def test_links_are_no_part_of_an_entry(root: CacheRoot, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    folder = entries.write(root.path, NAME, entries.files(NAME))
    (folder / "wrapped_neff.hlo").symlink_to(secret)
    assert set(pinned(take_now(root))) == set(entries.files(NAME))


def test_a_file_that_becomes_a_link_is_not_followed(
    root: CacheRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    entries.write(root.path, NAME, entries.files(NAME))

    def to_link(neff: Path) -> None:
        neff.unlink()
        neff.symlink_to(secret)

    _before_link(monkeypatch, to_link)
    with pytest.raises(NotTaken, match="changing"):
        take_now(root)
    assert nothing_pinned(root)


@needs_root
@pytest.mark.root
@pytest.mark.parametrize("file", ["model.neff", "model.hlo_module.pb", "model.done"])
def test_one_file_of_a_stranger_is_enough(root: CacheRoot, file: str) -> None:
    folder = entries.write(root.path, NAME, entries.files(NAME))
    os.chown(folder / file, NOBODY, NOBODY)
    with pytest.raises(NotTaken, match=f"{file} belongs to uid {NOBODY}") as caught:
        take_now(root)
    assert caught.value.reason == "untrusted-owner"
    looks = root.inspect(NAME)
    for trusted in (Trust(frozenset({0, NOBODY}), frozenset()), Trust(frozenset(), frozenset({0, NOBODY}))):
        assert take(root, NAME, looks, trusted, origin=LOCAL).name == NAME


@needs_root
@pytest.mark.root
def test_trusted_by_default_are_root_the_owner_of_the_directory_and_the_daemons_group(root: CacheRoot) -> None:
    os.chown(root.path, NOBODY, NOBODY)
    assert Trust.of(root.path, None, None) == Trust(frozenset({0, NOBODY}), frozenset({os.getegid()}))
    assert Trust.of(root.path, [], []) == Trust(frozenset(), frozenset())


def test_whose_user_is_in_a_trusted_group_is_trusted() -> None:
    trust = Trust(frozenset({1}), frozenset(os.getgroups() or [os.getegid()]))
    assert [trust.covers_user(uid) for uid in (1, os.geteuid(), 4_000_000)] == [True, True, False]


def test_the_text_of_a_failure_is_never_taken(root: CacheRoot) -> None:
    """Up to 2.14 a failed compile leaves its message in model.neff, the ready mark."""
    name = entries.module(1, entries.OLD_NAMESPACE)
    entries.write(root.path, name, {**entries.files(name), "model.neff": b"Compilation failed with exit code 70\n"})
    with pytest.raises(NotTaken) as caught:
        take_now(root, name)
    assert caught.value.reason == "failed"
    assert nothing_pinned(root)


def test_a_neff_that_is_shorter_than_its_header_says(root: CacheRoot) -> None:
    name = entries.module(1, entries.OLD_NAMESPACE)
    whole = entries.files(name)["model.neff"]
    for content, expected in ((whole, False), (whole[:-1], True), (b"text", False)):
        entries.write(root.path, name, {"model.neff": content})
        neff = root.inspect(name).neff
        assert neff is not None
        assert is_short(root, name, neff) is expected
        shutil.rmtree(root.entry(name))
        assert not is_short(root, name, neff)


def test_compile_time_is_from_the_inputs_to_the_neff(root: CacheRoot) -> None:
    folder = entries.write(root.path, NAME, entries.files(NAME))
    now = folder.stat().st_mtime
    for file, age_s in (("model.hlo_module.pb", 90), ("compile_flags.json", 89), ("model.neff", 1)):
        os.utime(folder / file, (now - age_s, now - age_s))
    assert take_now(root).provenance.compile_s == pytest.approx(89, abs=0.01)
