from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neff.keys import (
    ModuleName,
    compiler_version,
    flags_hash,
    hlo_hash,
    is_module_key,
    is_namespace,
    parse_module_name,
    ready_mark,
)

NAMESPACE = "neuronxcc-2.20.9961.0+0acef03a"


@pytest.mark.parametrize("name", [NAMESPACE, "neuronxcc-2.14.227.0", "neuronxcc-2.0.0.22266a0+abc"])
def test_namespaces(name: str) -> None:
    assert is_namespace(name)


@pytest.mark.parametrize("name", ["", "neuronxcc-", "neuronxcc-..", "neuronxcc-2/x", f"{NAMESPACE}\n", "0_REGISTRY"])
def test_no_namespaces(name: str) -> None:
    assert not is_namespace(name)


@pytest.mark.parametrize("name", ["MODULE_16389337710168549518+e30acd3a", "MODULE_0a1b2c3d4e5f60718293+617f6939"])
def test_module_keys(name: str) -> None:
    assert is_module_key(name)
    assert f"MODULE_{hlo_hash(name)}+{flags_hash(name)}" == name


@pytest.mark.parametrize("name", ["", "MODULE_1", "MODULE_+e30acd3a", "MODULE_1+E30ACD3A", "MODULE_../x+e30acd3a"])
def test_no_module_keys(name: str) -> None:
    assert not is_module_key(name)
    with pytest.raises(ValueError, match="not a module key"):
        flags_hash(name)


@pytest.mark.parametrize(
    ("namespace", "mark"),
    [
        ("neuronxcc-2.13.66.0+6dfecc895", "model.neff"),
        ("neuronxcc-2.14.227.0+2d4f85be", "model.neff"),
        ("neuronxcc-2.15.128.0+56dc5a86", "model.done"),
        ("neuronxcc-2.26.6360.0", "model.done"),
        ("neuronxcc-3.0", "model.done"),
    ],
)
def test_ready_mark_by_generation(namespace: str, mark: str) -> None:
    assert ready_mark(namespace) == mark


def test_the_version_is_its_leading_numbers() -> None:
    assert compiler_version("neuronxcc-2.20.9961.0+0acef03a") == (2, 20, 9961, 0)
    assert compiler_version("neuronxcc-2.20.dev1") == (2, 20)
    with pytest.raises(ValueError, match="not a namespace"):
        compiler_version("2.20")


def test_module_names() -> None:
    name = ModuleName(NAMESPACE, "MODULE_1+e30acd3a")
    assert parse_module_name(str(name)) == name


@given(st.text())
def test_a_text_is_a_safe_module_name_or_refused(text: str) -> None:
    try:
        name = parse_module_name(text)
    except ValueError:
        return
    assert str(name) == text
    assert ".." not in name.key
    assert "/" not in name.key
