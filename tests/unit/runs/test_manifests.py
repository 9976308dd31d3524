"""Run manifests: what is written is read, what others wrote costs little, and several are one list."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neff import keys
from neffd.remotes.base import is_document_path
from neffd.runs import manifests
from neffd.runs.jsontext import BadDocument
from neffd.runs.manifests import BadManifest, Manifest, UsedModule, decode, encode, path_of, union
from tests.harness import entries

NAMESPACE = entries.NAMESPACE
RUN_KEY = "RUN_" + "0123456789abcdef" * 2
INGREDIENTS: dict[str, Any] = {"version": 1, "model": {"id": "org/name", "type": "llama"}, "cores": 32}

_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
_MODULES = st.builds(
    UsedModule,
    st.integers(0, 30).map(lambda number: entries.module(number).key),
    st.none() | st.integers(0, 1 << 36),
    st.none() | st.floats(0, 7 * 86_400.0),
)
_LISTS = st.lists(_MODULES, max_size=12, unique_by=lambda module: module.key).map(tuple)
_MANIFESTS = st.builds(Manifest, st.just(NAMESPACE), st.just(RUN_KEY), st.just(INGREDIENTS), _LISTS)


def manifest(*numbers: int, ingredients: dict[str, Any] = INGREDIENTS, run_key: str = RUN_KEY) -> Manifest:
    modules = tuple(UsedModule(entries.module(number).key, 1_000 + number, 2.0 * number) for number in numbers)
    return Manifest(NAMESPACE, run_key, ingredients, modules)


def written(body: object, folder: str = "llama/org/name", run_key: str = RUN_KEY) -> tuple[str, bytes]:
    """Path and content of what somebody wrote by hand, with a name that fits."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    digest = hashlib.sha256(data).hexdigest()[:8]
    return f"{NAMESPACE}/0_RUNS/{folder}/{run_key}-{digest}.json", data


@settings(deadline=None)
@given(st.dictionaries(st.text(), _JSON, max_size=4), _LISTS)
def test_what_is_written_is_read(ingredients: dict[str, Any], modules: tuple[UsedModule, ...]) -> None:
    made = Manifest(NAMESPACE, RUN_KEY, ingredients, modules)
    assert decode(path_of(made), encode(made)) == made


@settings(deadline=None)
@given(_JSON)
def test_whatever_the_model_is_called_the_folder_is_safe(model: Any) -> None:
    made = manifest(1, ingredients={"model": model})
    assert is_document_path(path_of(made))
    place = manifests.parse_path(path_of(made))
    assert place is not None
    assert (place.folder, place.run_key) == (manifests.folder_of(NAMESPACE, made.ingredients), RUN_KEY)


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        ({"id": "org/name", "type": "llama"}, "llama/org/name"),
        ({"id": "gpt2", "type": "gpt2"}, "gpt2/-/gpt2"),
        ({"id": "/data/models/mine", "type": "llama"}, "llama/-/-"),
        ({"id": "../..", "type": "../.."}, "unknown/-/-"),
        ({"id": "a/b/c"}, "unknown/-/-"),
        (None, "unknown/-/-"),
    ],
)
def test_where_a_manifest_is(model: Any, folder: str) -> None:
    assert manifests.folder_of(NAMESPACE, {"model": model}) == f"{NAMESPACE}/0_RUNS/{folder}"


def test_a_known_manifest_is_these_bytes() -> None:
    assert encode(manifest(1, 2)) == (
        b'{"format":1,"ingredients":{"cores":32,"model":{"id":"org/name","type":"llama"},"version":1},"modules":'
        b'[{"compile_s":2.0,"key":"MODULE_1000000000000000001+24129607","size_bytes":1001},'
        b'{"compile_s":4.0,"key":"MODULE_1000000000000000002+24129607","size_bytes":1002}],'
        b'"run_key":"RUN_0123456789abcdef0123456789abcdef"}\n'
    ).replace(b"24129607", entries.module(1).key.rpartition("+")[2].encode())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_of_anything_else_only_a_bad_document_comes(data: bytes) -> None:
    path, _ = written(data)
    with pytest.raises(BadDocument):
        decode(path, data)


@settings(deadline=None)
@given(_JSON, _JSON, _JSON)
def test_whatever_is_said_of_a_module_its_name_is_one(key: Any, size_bytes: Any, compile_s: Any) -> None:
    module = {"key": key or entries.module(1).key, "size_bytes": size_bytes, "compile_s": compile_s}
    body = {"format": 1, "run_key": RUN_KEY, "ingredients": {}, "modules": [module]}
    if not keys.is_module_key(str(module["key"])):
        with pytest.raises(BadManifest, match="bad-key"):
            decode(*written(body))
        return
    (found,) = decode(*written(body)).modules
    assert keys.is_module_key(found.key)
    assert found.size_bytes is None or 0 <= found.size_bytes <= 1 << 36
    assert found.compile_s is None or 0 <= found.compile_s <= 7 * 86_400


def _body(**changes: Any) -> dict[str, Any]:
    modules = [{"key": entries.module(1).key}]
    return {"format": 1, "run_key": RUN_KEY, "ingredients": {}, "modules": modules, **changes}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (_body(modules=[{"key": entries.module(n).key} for n in range(10_001)]), "too-many-modules"),
        (_body(modules=[{"key": entries.module(n).key} for n in range(100_000)]), "too-large"),
        (_body(modules=[{"key": f"{NAMESPACE}/{entries.module(1).key}"}]), "bad-key"),
        (_body(modules=[{"key": "../../etc/passwd"}]), "bad-key"),
        (_body(modules=["MODULE_1"]), "bad-key"),
        (_body(modules={}), "not-a-manifest"),
        (_body(format=2), "not-a-manifest"),
        (_body(run_key="RUN_" + "f" * 32), "not-a-manifest"),
        (_body(ingredients={"text": "x" * 200_000}), "not-a-manifest"),
        (b"[" * 500_000, "not-a-manifest"),
        (b'{"format": 1, "modules": ' + b"9" * 400_000 + b"}", "not-a-manifest"),
        (b"\xff\xfe", "not-a-manifest"),
        (b"{" + b" " * (3 << 20) + b"}", "too-large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_junk_has_a_reason_and_costs_little(body: object, reason: str) -> None:
    path, data = written(body)
    tracemalloc.start()
    with pytest.raises(BadManifest) as refused:
        decode(path, data)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.reason == reason
    assert peak_bytes < 50e6


@pytest.mark.parametrize(
    "path",
    [
        "MODULE_1/model.neff",
        f"{NAMESPACE}/0_RUNS/llama/org/name/RUN_1.json",
        f"nowhere/0_RUNS/llama/org/name/{RUN_KEY}-00000000.json",
        f"{NAMESPACE}/0_REGISTRY/llama/org/name/{RUN_KEY}-00000000.json",
        f"{NAMESPACE}/0_RUNS/llama/../name/{RUN_KEY}-00000000.json",
        f"{NAMESPACE}/0_RUNS/llama/org/{RUN_KEY}-00000000.json",
    ],
)
def test_what_is_elsewhere_is_none(path: str) -> None:
    with pytest.raises(BadManifest, match="bad-path"):
        decode(path, encode(manifest(1)))


def test_content_that_was_changed_is_refused() -> None:
    with pytest.raises(BadManifest, match="digest-mismatch"):
        decode(path_of(manifest(1)), encode(manifest(1, 2)))


def test_numbers_that_cannot_be_are_not_believed() -> None:
    said = [
        {"key": entries.module(1).key, "size_bytes": 10**30, "compile_s": -1},
        {"key": entries.module(2).key, "size_bytes": True, "compile_s": 1e300},
        {"key": entries.module(3).key, "size_bytes": "7", "compile_s": float("nan")},
        {"key": entries.module(4).key, "size_bytes": 7, "compile_s": 7},
    ]
    found = decode(*written(_body(modules=said))).modules
    assert [(each.size_bytes, each.compile_s) for each in found] == [(None, None)] * 3 + [(7, 7.0)]


@settings(deadline=None)
@given(st.lists(_MANIFESTS, max_size=5), st.randoms())
def test_a_union_knows_neither_order_nor_number(made: list[Manifest], random: Any) -> None:
    mixed = [*made, *made]
    random.shuffle(mixed)
    found = union(mixed)
    assert found == union(made)
    assert {module.key for module in found} == {module.key for each in made for module in each.modules}
    assert len({module.key for module in found}) == len(found)


@settings(deadline=None)
@given(_MANIFESTS)
def test_a_union_of_one_is_itself(made: Manifest) -> None:
    assert union([made]) == made.modules


@settings(deadline=None)
@given(st.permutations(range(20)), st.lists(st.sets(st.integers(0, 19)), max_size=5))
def test_a_union_agrees_with_every_order_that_fits_the_others(order: list[int], parts: list[set[int]]) -> None:
    made = [manifest(*[number for number in order if number in part]) for part in parts]
    found = [module.key for module in union(made)]
    for each in made:
        names = [module.key for module in each.modules]
        assert [key for key in found if key in set(names)] == names


def test_a_union_of_what_contradicts_itself_has_all_of_it() -> None:
    found = union([manifest(1, 2, 3), manifest(3, 1, 4)])
    assert [module.size_bytes for module in found] == [1_001, 1_002, 1_003, 1_004]


def test_one_wrong_number_among_several_does_not_count() -> None:
    key = entries.module(1).key
    told = [Manifest(NAMESPACE, RUN_KEY, {}, (UsedModule(key, size, 1.0 * size),)) for size in (100, 101, 1 << 30)]
    assert union(told) == (UsedModule(key, 101, 101.0),)


def test_only_a_name_that_is_not_known_adds() -> None:
    known = union([manifest(1, 2)])
    assert not manifests.adds_to(known, manifest(2, 1))
    assert manifests.adds_to(known, manifest(2, 3))
    assert not manifests.adds_to((), manifest())
