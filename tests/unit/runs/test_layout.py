"""Paths of the registry, in every generation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neffd.runs import layout
from neffd.runs.layout import EntryPath
from tests.unit.runs.golden import DIGEST, NAMESPACE, OLD_HASH

NAME = "meta-llama/Llama-2-7b-chat-hf"
GENERATIONS = [
    ("0.0.18", f"llama/{NAME}", EntryPath(NAMESPACE, "0.0.18", OLD_HASH, model_type="llama", model_id=NAME)),
    ("0.0.19", f"inference/llama/{NAME}", EntryPath(NAMESPACE, "0.0.19", OLD_HASH, "inference", None, "llama", NAME)),
    ("0.1.0", f"training/llama/{NAME}", EntryPath(NAMESPACE, "0.1.0", OLD_HASH, "training", None, "llama", NAME)),
    ("0.2.0", f"llama/{NAME}", EntryPath(NAMESPACE, "0.2.0", OLD_HASH, model_type="llama", model_id=NAME)),
    ("0.4.4", "bert/bert-base", EntryPath(NAMESPACE, "0.4.4", OLD_HASH, model_type="bert", model_id="bert-base")),
    ("0.4.5", f"llama/{NAME}", EntryPath(NAMESPACE, "0.4.5", OLD_HASH, model_type="llama", model_id=NAME)),
    ("0.4.5", DIGEST, EntryPath(NAMESPACE, "0.4.5", OLD_HASH, digest=DIGEST)),
    ("0.4.6.dev0", DIGEST, EntryPath(NAMESPACE, "0.4.6.dev0", OLD_HASH, digest=DIGEST)),
    # Compiled from a folder: its path is the model's name.
    ("0.4.5", "llama//home/me/model", EntryPath(NAMESPACE, "0.4.5", OLD_HASH, None, None, "llama", "/home/me/model")),
]


@pytest.mark.parametrize(("version", "folder", "expected"), GENERATIONS)
def test_every_generation_is_understood(version: str, folder: str, expected: EntryPath) -> None:
    assert layout.parse(f"{NAMESPACE}/0_REGISTRY/{version}/{folder}/{OLD_HASH}.json") == expected


@pytest.mark.parametrize(
    "path",
    [
        "",
        "registry.json",
        f"{NAMESPACE}/MODULE_1+e30acd3a/model.neff",
        f"{NAMESPACE}/0_REGISTRY",
        f"{NAMESPACE}/0_REGISTRY/0.4.5/{OLD_HASH}.json",
        f"{NAMESPACE}/0_REGISTRY/0.4.5/{DIGEST[:-1]}/{OLD_HASH}.json",
        f"{NAMESPACE}/0_REGISTRY/0.4.5/{DIGEST}/{OLD_HASH}.txt",
        f"{NAMESPACE}/0_REGISTRY/../{DIGEST}/{OLD_HASH}.json",
        f"elsewhere/0_REGISTRY/0.4.5/{DIGEST}/{OLD_HASH}.json",
        f"{NAMESPACE}/0_REGISTRY/0.4.5/llama/{'x' * 1000}/{OLD_HASH}.json",
    ],
)
def test_anything_else_is_no_entry(path: str) -> None:
    assert layout.parse(path) is None


@given(st.text(alphabet=st.sampled_from("0123/._abc-A+"), max_size=60) | st.text(max_size=60))
def test_no_name_is_too_odd(name: str) -> None:
    layout.parse(name)
    layout.parse(f"{NAMESPACE}/0_REGISTRY/{name}")
    layout.version_key(name)
    if layout.is_model_id(name):
        assert ".." not in name.split("/")
        assert not name.startswith("/")


@pytest.mark.parametrize("version", layout.RELEASES)
def test_what_a_release_writes_is_where_it_is_looked_for(version: str) -> None:
    for folder in layout.named_folders(NAMESPACE, version, "llama", NAME):
        found = layout.parse(f"{folder}/{OLD_HASH}.json")
        assert found is not None
        assert (found.version, found.model_type, found.model_id) == (version, "llama", NAME)
    assert len(layout.named_folders(NAMESPACE, version, "llama", NAME)) == (2 if "0.0.19" <= version < "0.2" else 1)
    assert layout.has_digests(version) == (version == "0.4.5")
