"""Entries as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from neffd.runs import documents, layout, writing
from neffd.runs.entries import Entry, single_entry
from tests.unit.runs import golden

REGISTRY = f"{golden.NAMESPACE}/0_REGISTRY/0.4.5"


def entry(model_id: str = "org/model", **neuron: object) -> Entry:
    return single_entry(model_id, "text-generation", golden.CONFIG, {**golden.NEW_NEURON, **neuron})


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def test_the_file_and_its_alias() -> None:
    files = writing.files(entry(), golden.NAMESPACE)
    assert set(files) == {
        f"{REGISTRY}/{golden.DIGEST}/{golden.NEW_HASH}.json",
        f"{REGISTRY}/llama/org/model/{golden.NEW_HASH}.json",
    }
    for path, content in files.items():
        where = layout.parse(path)
        assert where is not None
        assert documents.read(content, where).entry == entry()


def test_a_second_configuration_gets_its_alias_too(tmp_path: Path) -> None:
    for number in (1, 2):
        writing.write(tmp_path, entry(batch_size=number), golden.NAMESPACE)
    names = {f"{entry(batch_size=number).hash}.json" for number in (1, 2)}
    folders = (golden.DIGEST, "llama/org/model")
    assert tree(tmp_path) == {f"{REGISTRY}/{folder}/{name}" for folder in folders for name in names}
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


def test_what_is_there_stays(tmp_path: Path) -> None:
    first, *_ = writing.write(tmp_path, entry(), golden.NAMESPACE)
    first.write_text("theirs")
    writing.write(tmp_path, entry(), golden.NAMESPACE)
    assert first.read_text() == "theirs"


def test_a_link_that_leads_nowhere_is_replaced(tmp_path: Path) -> None:
    alias = tmp_path / f"{REGISTRY}/llama/org/model/{golden.NEW_HASH}.json"
    alias.parent.mkdir(parents=True)
    alias.symlink_to("/of/another/host.json")
    writing.write(tmp_path, entry(), golden.NAMESPACE)
    assert alias.read_text() == entry().serialize()
    assert not alias.is_symlink()


@pytest.mark.parametrize("model_id", ["/home/me/model", "../../etc", "a/../b", "", ".hidden"])
def test_a_name_that_is_no_folder_has_no_alias(model_id: str, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (file,) = writing.write(tmp_path / "root", entry(model_id), golden.NAMESPACE)
    assert tree(tmp_path) == {str(file.relative_to(tmp_path))}


def test_links_out_of_the_directory_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "root" / golden.NAMESPACE).mkdir(parents=True)
    (tmp_path / "root" / golden.NAMESPACE / "0_REGISTRY").symlink_to(outside)
    with pytest.raises(OSError, match="leads out"):
        writing.write(tmp_path / "root", entry(), golden.NAMESPACE)
    assert not list(outside.iterdir())


@pytest.mark.parametrize(
    ("namespace", "version"), [("..", "0.4.5"), (golden.NAMESPACE, "0.4.4"), (golden.NAMESPACE, "x")]
)
def test_only_a_registry_with_digests_is_written(namespace: str, version: str) -> None:
    with pytest.raises(ValueError, match="no registry to write"):
        writing.files(entry(), namespace, version)
