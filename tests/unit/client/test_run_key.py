"""Run keys: the examples of docs/runs.md, what changes a key and what does not, and that it is the same everywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import neff
from neff.keys import is_run_key
from neff.runs import stack
from neff.runs.canonical import canonical_text, run_key
from neff.runs.flags import normal_flags
from neff.runs.ingredients import describe
from neff.runs.modelconfig import WHITE_LIST
from neff.runs.sizes import dtype_name
from tests.unit.client.running import CLIENT

PAGE = (Path(__file__).parents[3] / "docs" / "runs.md").read_text()
BASE: dict[str, Any] = eval(PAGE[PAGE.index("BASE = dict(") + 7 : PAGE.index("```json")].partition("```")[0])
BASE_KEY = "RUN_46d4f12c4cc646faa519666b3fff07ed"
EXAMPLES = re.findall(r"^\| ([^|]+) \| `([^`]+)` \| `(RUN_[0-9a-f]{32})` \|$", PAGE, re.MULTILINE)
NOWHERE: Mapping[str, str] = {}

NAMES = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)
JSON = st.recursive(
    st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=5), part, max_size=3),
    max_leaves=8,
)
CONFIGS = st.dictionaries(NAMES.filter(lambda name: name not in {*WHITE_LIST, "dtype"}), JSON, max_size=4)
SIZES = st.integers(2, 10**6)


@pytest.fixture(autouse=True)
def _no_neuron(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("NEURON_")]:
        monkeypatch.delenv(name)


def _key(**changes: Any) -> str:
    return describe(**{"environ": NOWHERE, **BASE, **changes}).key


def test_the_canonical_form_of_the_documented_example() -> None:
    text = PAGE[PAGE.index("```json\n") + 8 :].partition("\n```")[0]
    assert canonical_text(describe(**BASE, environ=NOWHERE).ingredients) == text
    assert neff.run_key(**BASE) == _key() == BASE_KEY


@pytest.mark.parametrize(("what", "changed", "key"), EXAMPLES)
def test_the_documented_examples(what: str, changed: str, key: str) -> None:
    assert _key(**eval(f"dict({changed})", {"BASE": BASE})) == key


def test_every_ingredient_has_an_example_that_changes_the_key() -> None:
    changed = {name for _, code, key in EXAMPLES if key != BASE_KEY for name in re.findall(r"^(\w+)=", code)}
    assert set(BASE) <= changed
    assert len({key for _, _, key in EXAMPLES}) == len([key for _, _, key in EXAMPLES if key != BASE_KEY]) + 1


@settings(max_examples=50)
@given(CONFIGS, CONFIGS)
def test_another_configuration_is_another_key(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = json.dumps(_whole(one), sort_keys=True) == json.dumps(_whole(other), sort_keys=True)
    assert (_key(config=one) == _key(config=other)) is same


@given(st.sampled_from(["batch_size", "sequence_length", "tensor_parallel_size", "num_cores", "bucket"]), SIZES, SIZES)
def test_another_size_is_another_key(name: str, one: int, other: int) -> None:
    assert (_key(**{name: one}) == _key(**{name: other})) is (one == other)
    assert _key(**{name: one}) != BASE_KEY or BASE.get(name) == one


@given(
    st.sampled_from(["task", "compiler", "target", "dtype"]),
    st.from_regex(r"[a-z]{4,9}", fullmatch=True),
    st.from_regex(r"[a-z]{4,9}", fullmatch=True),
)
def test_another_word_is_another_key(name: str, one: str, other: str) -> None:
    same = one == other or (name == "dtype" and dtype_name(one) == dtype_name(other))
    assert (_key(**{name: one}) == _key(**{name: other})) is same


@given(st.dictionaries(NAMES, st.from_regex(r"[0-9]\.[0-9]", fullmatch=True), min_size=1, max_size=3))
def test_another_version_of_a_package_is_another_key(packages: dict[str, str]) -> None:
    name = min(packages)
    assert _key(packages=packages) != _key(packages={**packages, name: packages[name] + "1"})
    assert _key(packages=packages) == _key(packages=dict(reversed(packages.items())))
    assert _key(packages={name.upper().replace("_", "."): "1" for name in packages}) == _key(
        packages=dict.fromkeys(packages, "1")
    )


@settings(max_examples=50)
@given(CONFIGS, st.dictionaries(st.sampled_from([*WHITE_LIST, "dtype"]), JSON), st.sets(NAMES), st.randoms())
def test_what_changes_no_graph_changes_no_key(
    config: dict[str, Any], ignored: dict[str, Any], nulls: set[str], random: Any
) -> None:
    members = [*config.items(), *ignored.items(), *((name, None) for name in nulls - config.keys())]
    random.shuffle(members)
    assert _key(config={**dict(members), "inner": dict(ignored)}) == _key(config={**config, "inner": {}})


@given(
    st.permutations(["--model-type=transformer", "--auto-cast=none", "-O1", "--lnc=2", "--retry_failed_compilation"])
)
def test_flags_in_another_order_are_the_same(words: list[str]) -> None:
    flags = "--optlevel 1 --auto-cast none --logical-nc-config=2 --model-type transformer --verbose=35 --framework XLA"
    assert _key(flags=words) == _key(flags=flags) == _key(flags=None, environ={"NEURON_CC_FLAGS": " ".join(words)})


@pytest.mark.parametrize(
    ("flags", "words", "target"),
    [
        ("", [], None),
        ("--target=trn1 -O2 -O1", ["--optlevel=1", "--optlevel=2"], "trn1"),
        ("--tensorizer-options '--a --b=1' --x", ["--tensorizer-options=--a --b=1", "--x"], None),
        ('--tensorizer-options="--a  --b"', ["--tensorizer-options=--a  --b"], None),
        ("--cache_dir /a/b --no_cache --x 'open", ["--x='open"], None),
        (["--target", "trn2", "--lnc", "1"], ["--lnc=1"], "trn2"),
    ],
)
def test_flags(flags: str | list[str], words: list[str], target: str | None) -> None:
    assert normal_flags(flags) == (words, target)


class _Torch:
    def __repr__(self) -> str:
        return "torch.bfloat16"


@pytest.mark.parametrize("dtype", ["bf16", "BFLOAT16", "torch.bfloat16", "jnp.bfloat16", _Torch()])
def test_one_name_for_a_data_type(dtype: object) -> None:
    assert _key(dtype=dtype) == BASE_KEY
    assert _key(dtype=None) == _key(dtype="auto") != BASE_KEY


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"batch_size": True},
        {"batch_size": "4"},
        {"batch_size": 1.5},
        {"sequence_length": []},
        {"image_size": [3, -1]},
        {"Batch": 1},
        {"num_cores": -2},
        {"dtype": "b f"},
        {"config": {"a": object()}},
        {"config": {("a",): 1}},
        {"config": None},
        {"config": "/nowhere/config.json"},
        {"model": "a/b/c", "config": None},
        {"python": "/bin/sh", "packages": None},
    ],
)
def test_what_makes_no_sense_is_a_value_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".{10}"):
        _key(**wrong)


def test_a_number_has_one_spelling() -> None:
    values = [1e-05, 0.1, 2.5e300, -0.0, 1e16, float("inf"), float("nan")]
    assert canonical_text({"v": values}) == '{"v":[1e-05,0.1,2.5e+300,0,1e+16,"inf","nan"]}'
    assert run_key({"v": [1.0, 500000.0]}) == run_key({"v": [1, 500000]})
    assert run_key({"v": [True]}) != run_key({"v": [1]})


def _cache(home: Path, config: bytes, revision: str = "a" * 40) -> None:
    model = home / "models--org--name"
    (model / "snapshots" / revision).mkdir(parents=True)
    (model / "snapshots" / revision / "config.json").write_bytes(config)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(revision)


def test_the_same_model_by_any_way_to_it(tmp_path: Path) -> None:
    raw = json.dumps({**BASE["config"], "_name_or_path": "x"}).encode()
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + raw)
    _cache(tmp_path / "hf" / "hub", raw)
    _cache(tmp_path / "xdg" / "huggingface" / "hub", raw)
    ways: list[dict[str, Any]] = [
        {"model": str(tmp_path), "environ": NOWHERE},
        {"model": tmp_path / "config.json", "environ": NOWHERE},
        {"model": "org/name", "environ": {"HF_HOME": str(tmp_path / "hf")}},
        {"model": "org/name", "environ": {"XDG_CACHE_HOME": str(tmp_path / "xdg")}},
        {"model": "org/name", "environ": {"HF_HUB_CACHE": str(tmp_path / "hf" / "hub")}},
        {"model": "org/name", "config": BASE["config"], "environ": NOWHERE},
        {"model": "other/name", "config": tmp_path, "environ": NOWHERE},
    ]
    found = [describe(**{**BASE, "config": None, **way}) for way in ways]
    assert {each.key for each in found} == {BASE_KEY}
    assert [each.is_private for each in found] == [True, True, False, False, False, False, True]
    assert [each.ingredients["model"]["id"] for each in found][2:] == ["org/name"] * 4 + ["other/name"]
    assert all(each.ingredients["model"]["id"] is None for each in found[:2])  # a path says who works where


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_configuration_is_told(tmp_path: Path, content: bytes) -> None:
    _cache(tmp_path, content)
    with pytest.raises(ValueError, match="is no JSON object"):
        _key(model="org/name", config=None, environ={"HF_HUB_CACHE": str(tmp_path)})


@pytest.mark.parametrize("revision", ["../../x", "", "a" * 5000])
def test_a_damaged_hub_cache_is_no_model(tmp_path: Path, revision: str) -> None:
    _cache(tmp_path, b"{}")
    (tmp_path / "models--org--name" / "refs" / "main").write_text(revision)
    with pytest.raises(ValueError, match="hf download org/name"):
        _key(model="org/name", config=None, environ={"HF_HUB_CACHE": str(tmp_path)})


def _install(packages: Path, **versions: str) -> None:
    for name, version in versions.items():
        info = packages / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_versions_come_from_the_environment_of_the_command(tmp_path: Path) -> None:
    packages = tmp_path / "env" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    _install(packages, neuronx_cc="2.20.9961.0+0acef03a", optimum_neuron="0.4.5", something="1")
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    script = tmp_path / "torchrun"
    script.write_text(f"#!{python}\n")
    script.chmod(0o755)
    base = {**BASE, "packages": None, "compiler": None, "environ": NOWHERE}
    for command in (python, script):
        found = describe(**base, python=str(command)).ingredients
        assert (found["compiler"], found["packages"]) == ("2.20.9961.0+0acef03a", {"optimum-neuron": "0.4.5"})
        assert describe(**base, python=str(command)).key == BASE_KEY
        assert stack.versions(["Something", "missing"], str(command)) == {"something": "1"}
    assert stack.search_path("/bin/sh") == stack.search_path("/nowhere") == []


def test_the_environment_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environ = {
        "NEURON_CC_FLAGS": "--model-type=transformer --target=trn2",
        "NEURON_RT_NUM_CORES": "2",
        "NEURON_LOGICAL_NC_CONFIG": "1",
        "NEURON_PLATFORM_TARGET_OVERRIDE": "TRN1",
    }
    unsaid = {**BASE, "flags": None, "num_cores": None, "target": None}
    assert describe(**unsaid, environ=environ).key == BASE_KEY
    del environ["NEURON_PLATFORM_TARGET_OVERRIDE"]
    assert describe(**unsaid, environ=environ).ingredients["target"] == "trn2"
    instance = tmp_path / "product_name"
    instance.write_text("trn1n.32xlarge\n")
    monkeypatch.setattr(stack, "_PRODUCT_NAME", str(instance))
    assert describe(**unsaid, environ={}).ingredients["target"] == "trn1"
    monkeypatch.setattr(stack, "_PRODUCT_NAME", str(tmp_path / "missing"))
    assert describe(**unsaid, environ={}).ingredients["target"] is None


_PROBE = "import sys, json; sys.path[:0] = [sys.argv[1]]; import neff; print(neff.run_key(**json.loads(sys.argv[2])))"


def test_the_same_key_in_every_process_and_python(tmp_path: Path) -> None:
    pythons = {sys.executable, *filter(None, (shutil.which(f"python3.{minor}") for minor in range(10, 15)))}
    (tmp_path / "umlaut ä").mkdir()
    seen = []
    for number, python in enumerate(sorted(pythons)):
        env = {"PYTHONHASHSEED": str(number), "LC_ALL": ["C", "tr_TR.UTF-8"][number % 2], "PATH": os.environ["PATH"]}
        if (
            subprocess.run([python, "-c", ""], env=env, capture_output=True).returncode == 0
        ):  # a shim without its Python
            words = [python, "-c", _PROBE, str(CLIENT), json.dumps(BASE)]
            seen.append(
                subprocess.run(words, env=env, cwd=tmp_path / "umlaut ä", capture_output=True, check=True).stdout
            )
    assert seen
    assert set(seen) == {BASE_KEY.encode() + b"\n"}


def test_a_run_key_loads_nothing_of_the_frameworks() -> None:
    probe = (
        f"import sys; sys.path[:0] = [{str(CLIENT)!r}]; before = {{*sys.modules}};"
        "import neff; neff.run_key(config={});"
        "print(*{name.partition('.')[0] for name in {*sys.modules} - before} - sys.stdlib_module_names)"
    )
    loaded = subprocess.run([sys.executable, "-I", "-c", probe], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == ["neff"]


def test_the_form_of_a_key() -> None:
    assert is_run_key(BASE_KEY)
    assert not any(map(is_run_key, ["", "RUN_", BASE_KEY + "0", BASE_KEY.upper(), BASE_KEY[:-1] + "g"]))


def _whole(value: Any) -> Any:
    """What JSON's numbers mean, where Python tells 1 from 1.0."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)
    if isinstance(value, dict):
        return {name: _whole(part) for name, part in value.items() if name not in {*WHITE_LIST, "dtype"}}
    return [_whole(part) for part in value] if isinstance(value, list) else value
