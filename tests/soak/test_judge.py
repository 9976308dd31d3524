"""The soak's judges notice what they are there for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from neff.keys import ModuleName
from neffd.remotes.provenance import FILE_NAME, FileDigest, Provenance
from tests.neuron.env import importable_stack
from tests.soak import graphs
from tests.soak.graphs import SoakGraph
from tests.soak.judge import Found, by_entry, by_kind, judge
from tests.soak.records import Records, Told, read

PLAIN, WRAPPED = graphs.graph(2), graphs.graph(3)
NEFF, HLO, MODULE = "model.neff", "model.hlo_module.pb", "wrapped_neff.hlo"


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[str, bytes]]:
    """Entries as the stand-in's compiler makes them, by graph."""
    monkeypatch.chdir(tmp_path)
    return {of.number: compile_entry(of, tmp_path) for of in (PLAIN, WRAPPED)}


def compile_entry(of: SoakGraph, folder: Path) -> dict[str, bytes]:
    (folder / HLO).write_bytes(of.hlo)
    with importable_stack():
        from neuronxcc.driver import CommandDriver

        arguments = [
            "--framework=XLA",
            str(folder / HLO),
            "--output",
            str(folder / NEFF),
            *of.all_flags,
            "--verbose=35",
        ]
        assert CommandDriver.run(["compile", *arguments]) == 0
    content = {HLO: of.hlo, NEFF: (folder / NEFF).read_bytes(), "model.done": b""}
    content["compile_flags.json"] = json.dumps(of.all_flags).encode()
    return content | ({MODULE: (folder / MODULE).read_bytes()} if of.is_wrapped else {})


def on_hub(files: Mapping[str, bytes]) -> dict[str, bytes]:
    digests = {file: FileDigest(len(data), hashlib.sha256(data).hexdigest()) for file, data in files.items()}
    return {**files, FILE_NAME: Provenance(digests).encode()}


@pytest.fixture
def found(compiled: dict[int, dict[str, bytes]]) -> Found:
    """Two graphs, both on the Hub, one of them on two hosts."""
    return Found(
        numbers=graphs.names(range(10)),
        compiled={number: {hashlib.sha256(files[NEFF]).hexdigest()} for number, files in compiled.items()},
        had={PLAIN.number: {"a", "b"}, WRAPPED.number: {"a"}},
        remote={of.name: on_hub(compiled[of.number]) for of in (PLAIN, WRAPPED)},
        caches={"a": {of.name: compiled[of.number] for of in (PLAIN, WRAPPED)}, "b": {PLAIN.name: compiled[2]}},
        commits=[f"{PLAIN.name}\n{WRAPPED.name}", ""],
    )


def kinds(found: Found) -> dict[str, int]:
    return {kind: count for kind, count in by_kind(judge(found)).items() if count}


def without(
    entries: Mapping[ModuleName, Mapping[str, bytes]], name: ModuleName
) -> dict[ModuleName, Mapping[str, bytes]]:
    return {other: files for other, files in entries.items() if other != name}


def test_all_is_well(found: Found) -> None:
    assert judge(found) == []


def test_what_a_trainer_had_and_nobody_has_is_lost(found: Found) -> None:
    gone = dataclasses.replace(found, remote=without(found.remote, WRAPPED.name), caches={})
    (lost,) = judge(gone)
    assert (lost.kind, str(WRAPPED.name) in lost.what, lost.where) == ("lost", True, "was ready on a")
    assert judge(dataclasses.replace(gone, waiting={WRAPPED.name})) == []


def test_what_only_lies_in_a_cache_is_lost(found: Found) -> None:
    """Its maker was killed before it could tell."""
    assert kinds(dataclasses.replace(found, remote={}, had={})) == {"lost": 2}


def spoilt(files: dict[str, bytes], how: str) -> dict[str, bytes]:
    neff = files[NEFF]
    changes = {
        "half a NEFF": {NEFF: neff[: len(neff) // 2]},
        "a changed byte": {NEFF: neff[:-1] + bytes([neff[-1] ^ 1])},
        "an empty NEFF": {NEFF: b""},
        "an empty HLO": {HLO: b""},
        "half the flags": {"compile_flags.json": b'["--tar'},
        "half a module": {MODULE: files[MODULE][:100]},
    }
    if how in changes:
        return {**files, **changes[how]}
    return {file: data for file, data in files.items() if file != how}


SPOILT = ["half a NEFF", "a changed byte", "an empty NEFF", "an empty HLO", "half the flags", "half a module"]


@pytest.mark.parametrize("how", [*SPOILT, NEFF, HLO, MODULE, "compile_flags.json", "model.done"])
def test_a_part_of_an_entry_is_torn_wherever_it_is(
    found: Found, compiled: dict[int, dict[str, bytes]], how: str
) -> None:
    files = spoilt(compiled[3], how)
    assert kinds(dataclasses.replace(found, remote={**found.remote, WRAPPED.name: on_hub(files)})) == {"torn": 1}
    caches = {"a": {PLAIN.name: compiled[2], WRAPPED.name: files}}
    assert kinds(dataclasses.replace(found, caches=caches)) == {"torn": 1}


def test_files_of_two_makers_are_torn(found: Found, tmp_path: Path, compiled: dict[int, dict[str, bytes]]) -> None:
    other = compile_entry(WRAPPED, tmp_path)
    digests = {hashlib.sha256(files[NEFF]).hexdigest() for files in (other, compiled[3])}
    both_known = dataclasses.replace(found, compiled={**found.compiled, 3: digests})
    assert judge(dataclasses.replace(both_known, remote={**found.remote, WRAPPED.name: on_hub(other)})) == []
    mixed = on_hub({**compiled[3], MODULE: other[MODULE]})
    assert kinds(dataclasses.replace(both_known, remote={**found.remote, WRAPPED.name: mixed})) == {"torn": 1}


def test_what_nobody_made_is_torn(found: Found, compiled: dict[int, dict[str, bytes]]) -> None:
    assert kinds(dataclasses.replace(found, compiled={})) == {"torn": 5}
    swapped = {**compiled[2], NEFF: compiled[3][NEFF]}
    assert kinds(dataclasses.replace(found, caches={"b": {PLAIN.name: swapped}})) == {"torn": 1}
    undescribed = {PLAIN.name: compiled[2], WRAPPED.name: {**found.remote[WRAPPED.name], HLO: WRAPPED.hlo + b"x"}}
    assert kinds(dataclasses.replace(found, remote=undescribed)) == {"torn": 2}


def test_what_is_sent_or_there_twice_is_doubled(found: Found) -> None:
    assert kinds(dataclasses.replace(found, commits=[*found.commits, f"{PLAIN.name}"])) == {"doubled": 1}
    twin = ModuleName(PLAIN.name.namespace, PLAIN.name.key[:-8] + "0" * 8)
    numbers = {**found.numbers, twin: PLAIN.number}
    twice = dataclasses.replace(found, numbers=numbers, remote={**found.remote, twin: found.remote[PLAIN.name]})
    assert kinds(twice) == {"doubled": 1}


def test_a_repo_by_entry() -> None:
    files = {f"{PLAIN.name}/{NEFF}": b"n", f"{PLAIN.name}/{HLO}": b"h", ".gitattributes": b""}
    assert by_entry(files) == {PLAIN.name: {NEFF: b"n", HLO: b"h"}}


def test_what_trainers_write_down(tmp_path: Path) -> None:
    first, second = Records(tmp_path / "one", "a-0"), Records(tmp_path / "two", "b-1")
    first.add("meets", number=4)
    first.add("compiled", number=4, sha256="abc")
    second.add("has", number=4, host="b", seconds=0.5)
    second.add("failed", number=5, error="killed")
    second.add("torn", number=4, flaw="half a NEFF")
    first.close()
    second.close()
    told = read([tmp_path / "one", tmp_path / "two"])
    assert (told.compiled[4], told.had[4], told.compiles, told.checked, told.failures) == ({"abc"}, {"b"}, 1, 1, 1)
    assert [seen["flaw"] for seen in told.torn] == ["half a NEFF"]
    assert Told().torn == []
