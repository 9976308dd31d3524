"""`neff lookup` and `neff list` as processes, on a local Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from neff import exitcodes
from neffd.runs import manifests, writing
from neffd.runs.entries import Entry, legacy_hash, multi_entry, single_entry
from tests.harness import entries as modules
from tests.harness.commands import Person
from tests.hub.process import HubProcess
from tests.unit.runs import golden

pytestmark = pytest.mark.timeout(180)  # one has a repo of 20,000 files

REPO = "alice/cache"
MODEL = "org/tiny"
NEWEST = "neuronxcc-2.21.33363.0+82129205"
TASK = "text-generation"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    """A Hub with a small public model and nothing else."""
    with HubProcess(tmp_path / "hub") as server:
        server.seed_files(MODEL, {"config.json": json.dumps(golden.CONFIG).encode()})
        yield server


@pytest.fixture
def alice(tmp_path: Path, hub: HubProcess) -> Person:
    return Person(tmp_path / "alice", hub.endpoint, hub.token("alice"), CUSTOM_CACHE_REPO=REPO)


def entry(model_id: str = MODEL, *, config: Mapping[str, Any] | None = None, **neuron: Any) -> Entry:
    return single_entry(model_id, TASK, config or golden.CONFIG, {**golden.NEW_NEURON, **neuron})


def seed(hub: HubProcess, files: Mapping[str, bytes]) -> None:
    hub.seed_files(REPO, files, private=True)


def every_generation() -> dict[str, bytes]:
    """One entry of the same model in each generation of the registry, and the newest twice."""
    old = {**golden.CONFIG, "neuron": golden.OLD_NEURON}
    registry = f"{golden.NAMESPACE}/0_REGISTRY"
    text = json.dumps(old).encode()
    middle = entry(batch_size=7)
    feature = {"input_shapes": [["input_ids", [8, 64]]], "precision": "bf16", "num_neuron_cores": 2, "neuron_hash": "h"}
    return {
        f"{registry}/0.0.18/llama/{MODEL}/{legacy_hash(old)}.json": text,
        f"{registry}/0.0.24/inference/llama/{MODEL}/{legacy_hash(old)}.json": text,
        f"{registry}/0.4.3/llama/{MODEL}/{middle.hash}.json": middle.serialize().encode(),
        **writing.files(entry(), NEWEST),
        **writing.files(entry(batch_size=4), NEWEST, "0.4.6.dev0"),
        "registry.json": json.dumps(
            {"2.9.0": {MODEL: {"model_name_or_path": MODEL, "model_hash": "m", "features": [feature]}}}
        ).encode(),
    }


def test_every_generation_is_found_and_shown_with_its_version(alice: Person, hub: HubProcess) -> None:
    seed(hub, every_generation())
    found = alice.json("lookup", MODEL)
    rows = [(item["namespace"], item["optimum_neuron"], item["mode"], item["batch_size"]) for item in found["entries"]]
    assert rows == [
        (NEWEST, "0.4.6.dev0", None, 4),
        (NEWEST, "0.4.5", None, 1),
        (golden.NAMESPACE, "0.4.3", None, 7),
        (golden.NAMESPACE, "0.0.24", "inference", 1),
        (golden.NAMESPACE, "0.0.18", None, 1),
    ]
    assert (found["repo_id"], found["searched"]) == (REPO, [NEWEST, golden.NAMESPACE])
    (trained,) = found["trained"]
    assert (trained["compiler_version"], trained["neuron_hash"]) == ("2.9.0", "h")
    for filters, count in ((("--dtype", "bfloat16"), 1), (("--dtype", "float16"), 0), (("--batch_size", "1"), 0)):
        assert len(alice.json("lookup", MODEL, *filters)["trained"]) == count


def test_the_guides_facts_in_a_pipe_and_on_a_terminal(alice: Person, hub: HubProcess) -> None:
    seed(hub, {path: data for path, data in every_generation().items() if "/0.0.18/" in path})
    facts = {**golden.OLD_NEURON, "optimum_neuron": "0.0.18"}
    piped = alice.neff("lookup", MODEL)
    assert piped.returncode == exitcodes.OK
    assert piped.stdout == " ".join(f"{name}={value}" for name, value in facts.items()) + "\n"
    assert "defaults could not be left out" in piped.stderr
    code, shown = alice.on_terminal("lookup", MODEL, NO_COLOR="1")
    assert code == exitcodes.OK
    block = "\n".join(f"{name}: {value}" for name, value in facts.items())
    assert f"*** 1 entry found in {REPO} for {MODEL} ***\n\n{block}\n" in shown
    assert "\x1b" not in shown
    assert "\x1b[1m***" in alice.on_terminal("lookup", MODEL)[1]


def test_five_requests_are_enough_for_20000_entries(alice: Person, hub: HubProcess) -> None:
    files: dict[str, bytes] = {}
    for number in range(10_000):
        other = entry(f"org/model-{number % 500}", config={**golden.CONFIG, "hidden_size": 1000 + number})
        files |= writing.files(other, NEWEST)
    assert len(files) == 20_000
    seed(hub, {**files, **writing.files(entry(), NEWEST)})
    hub.reset_counters()
    assert len(alice.json("lookup", MODEL)["entries"]) == 1
    assert sum(hub.counters()["requests"].values()) <= 5, hub.recent_requests()


def test_models_of_the_same_architecture_share_their_entries(alice: Person, hub: HubProcess, tmp_path: Path) -> None:
    seed(hub, writing.files(entry("somebody/else"), NEWEST))
    (tmp_path / "config.json").write_text(json.dumps(golden.CONFIG))
    for name in (MODEL, str(tmp_path)):
        (found,) = alice.json("lookup", name)["entries"]
        assert (found["model_id"], found["hash"]) == ("somebody/else", entry("somebody/else").hash)


def test_entries_that_optimum_neuron_gave_no_alias_are_found_beside_the_first(alice: Person, hub: HubProcess) -> None:
    raw = {**golden.CONFIG, "use_cache": True}  # a default: without transformers its digest is another
    hub.seed_files(MODEL, {"config.json": json.dumps(raw).encode()})
    first, second, foreign = entry(), entry(batch_size=4), entry("org/twin", batch_size=8)
    by_digest = [dict(list(writing.files(other, NEWEST).items())[:1]) for other in (second, foreign)]
    seed(hub, writing.files(first, NEWEST) | by_digest[0] | by_digest[1])
    assert [item["batch_size"] for item in alice.json("lookup", MODEL)["entries"]] == [1, 4, 8]
    listed = alice.json("list", "-m", MODEL)["entries"]
    assert [item["hash"] for item in listed] == [first.hash, second.hash]


def test_rows_of_optimum_neurons_table_are_shown_once(alice: Person, hub: HubProcess) -> None:
    seed(hub, {**writing.files(entry(), NEWEST), **writing.files(entry(fused_qkv=True), NEWEST)})
    (found,) = alice.json("lookup", MODEL)["entries"]
    assert found["same_shape"] == 2


@pytest.mark.parametrize("spelling", ["_", "-"])
def test_filters(alice: Person, hub: HubProcess, spelling: str) -> None:
    seed(hub, {**writing.files(entry(), NEWEST), **writing.files(entry(batch_size=8, torch_dtype="float16"), NEWEST)})

    def count(*filters: str) -> int:
        words = [word.replace("_", spelling) if word.startswith("--") else word for word in filters]
        return len(alice.json("lookup", MODEL, *words)["entries"])

    assert count("--batch_size", "8") == count("--dtype", "float16") == count("--dtype", "bfloat16") == 1
    every = ["--sequence_length", "2048", "--tensor_parallel_size", "2", "--instance_type", "trn1", "--task", TASK]
    assert count(*every) == 2
    assert count("--instance_type", "trn2") == count("--task", "fill-mask") == 0


def test_not_found_says_what_was_searched(alice: Person, hub: HubProcess) -> None:
    seed(hub, writing.files(entry(), NEWEST))
    missing = alice.neff("lookup", MODEL, "--batch_size", "3")
    assert (missing.returncode, missing.stdout) == (exitcodes.NOT_FOUND, "")
    for said in (REPO, NEWEST, "--batch_size 3", "1 entry with other values"):
        assert said in missing.stderr


def test_an_old_entry_of_another_configuration_is_not_offered(alice: Person, hub: HubProcess) -> None:
    other = entry(config={**golden.CONFIG, "hidden_size": 17})
    seed(hub, {f"{NEWEST}/0_REGISTRY/0.4.3/llama/{MODEL}/{other.hash}.json": other.serialize().encode()})
    assert alice.neff("lookup", MODEL).returncode == exitcodes.NOT_FOUND


def test_pipelines_are_told_apart_by_name(alice: Person, hub: HubProcess) -> None:
    for name in ("org/pipe", "org/other"):
        hub.seed_files(name, {"model_index.json": b'{"unet": ["diffusers", "UNet2DConditionModel"]}'})
        pipeline = multi_entry(name, {"unet": {"neuron": {"batch_size": 1}}})
        seed(hub, writing.files(pipeline, NEWEST))
    for task in ((), ("--task", "text-to-image")):
        (found,) = alice.json("lookup", "org/pipe", *task)["entries"]
        assert (found["model_id"], found["model_type"]) == ("org/pipe", "stable-diffusion")


def test_a_pipeline_in_a_folder_is_told_by_its_unet(alice: Person, hub: HubProcess, tmp_path: Path) -> None:
    for name, channels in (("org/pipe", [32, 64]), ("org/other", [320, 640])):
        part = {"block_out_channels": channels, "_name_or_path": name, "neuron": {"batch_size": 1}}
        seed(hub, writing.files(multi_entry(name, {"unet": part}), NEWEST))
    folder = tmp_path / "a pipeline"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    (folder / "unet" / "config.json").write_text('{"block_out_channels": [32, 64], "_name_or_path": "x"}')
    (found,) = alice.json("lookup", str(folder))["entries"]
    assert found["model_id"] == "org/pipe"


def test_a_pipeline_that_nobody_registers(alice: Person, hub: HubProcess) -> None:
    seed(hub, {})
    hub.seed_files("org/flux", {"model_index.json": b'{"transformer": ["diffusers", "FluxTransformer2DModel"]}'})
    done = alice.neff("lookup", "org/flux")
    said = "neff: org/flux is a pipeline without a unet: optimum-neuron registers none of these\n"
    assert (done.returncode, done.stderr) == (exitcodes.NOT_FOUND, said)


def test_files_that_are_no_entries_are_left_out_and_named(alice: Person, hub: HubProcess) -> None:
    bad = f"{NEWEST}/0_REGISTRY/0.4.5/{golden.DIGEST}/{'0' * 20}.json"
    seed(hub, {**writing.files(entry(), NEWEST), bad: b"\x1b[31m" * 10})
    done = alice.neff("lookup", MODEL)
    assert (done.returncode, len(done.stdout.splitlines())) == (exitcodes.OK, 1)
    assert bad in done.stderr


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("org/no-such", exitcodes.NOT_FOUND, "the model org/no-such is not there, or this login may not"),
        ("alice/cache", exitcodes.NOT_FOUND, "neither config.json nor model_index.json"),
        ("not a name", exitcodes.USAGE, "neither a folder nor the name of a model"),
        ("/", exitcodes.NOT_FOUND, "neither config.json nor model_index.json"),
    ],
)
def test_models_that_are_none(alice: Person, hub: HubProcess, name: str, code: int, said: str) -> None:
    seed(hub, {})
    done = alice.neff("lookup", name)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr.replace("has neither", "neither")


def test_models_by_compiler(alice: Person, hub: HubProcess) -> None:
    bare = modules.module(1)
    contents = modules.files(bare)
    files = {f"{bare}/{name}": data for name, data in contents.items()}
    seed(hub, {**every_generation(), **files})
    document = alice.json("list")
    rows = [(item["compiler_version"], item["optimum_neuron"], item["model_id"]) for item in document["models"]]
    new, old = NEWEST.removeprefix("neuronxcc-"), golden.NAMESPACE.removeprefix("neuronxcc-")
    older = [(old, version, MODEL) for version in ("0.0.18", "0.0.24", "0.4.3")]
    assert rows == [(new, "0.4.5", MODEL), (new, "0.4.6.dev0", MODEL), *older]
    (module,) = document["modules"]
    assert (module["module"], module["size_bytes"]) == (bare.key, sum(map(len, contents.values())))
    assert [item["model_id"] for item in document["entries"]] == [MODEL]


@pytest.mark.parametrize(("version", "count"), [("2.21", 2), ("2.21.33363.0+82129205", 2), ("2.2", 0), ("2.12", 3)])
def test_one_compiler_version(alice: Person, hub: HubProcess, version: str, count: int) -> None:
    seed(hub, every_generation())
    done = alice.neff("list", "-v", version, REPO)
    assert len(done.stdout.splitlines()) == count
    assert done.returncode == (exitcodes.OK if count else exitcodes.NOT_FOUND)


def test_compiled_files_of_one_model(alice: Person, hub: HubProcess) -> None:
    traced = entry()
    folder = f"{NEWEST}/MODULE_{traced.hash}"
    own = {f"{folder}/model.neuron": b"neuron", f"{folder}/config.json": b"{}"}
    seed(hub, {**writing.files(traced, NEWEST), **writing.files(entry("other/model", batch_size=2), NEWEST), **own})
    document = alice.json("list", "-m", MODEL)
    assert [item["hash"] for item in document["entries"]] == [traced.hash]
    assert {item["path"]: item["size_bytes"] for item in document["files"]} == {p: len(d) for p, d in own.items()}
    code, shown = alice.on_terminal("list", "-m", MODEL, NO_COLOR="1")
    assert code == exitcodes.OK
    assert f"*** Repo id: {REPO} ***" in shown
    assert f"{folder}/model.neuron  6 B" in shown


def test_modules_that_runs_of_a_model_used(alice: Person, hub: HubProcess) -> None:
    used, gone, foreign = (modules.module(number, NEWEST) for number in (1, 2, 3))
    files = {f"{name}/{file}": data for name in (used, foreign) for file, data in modules.files(name).items()}
    for number, (model, names) in enumerate([(MODEL, (used, gone)), (MODEL, (used,)), ("org/other", (foreign,))]):
        listed = tuple(manifests.UsedModule(name.key) for name in names)
        facts = {"model": {"id": model, "type": "llama"}}
        manifest = manifests.Manifest(NEWEST, f"RUN_{number:032x}", facts, listed)
        files[manifests.path_of(manifest)] = manifests.encode(manifest)
    bad = f"{NEWEST}/0_RUNS/llama/{MODEL}/RUN_{9:032x}-00000000.json"
    seed(hub, {**files, bad: b"{}"})
    document = alice.json("list", "-m", MODEL)
    own = {path: len(data) for path, data in files.items() if path.startswith(f"{used}/")}
    assert {item["path"]: item["size_bytes"] for item in document["files"]} == own
    assert alice.neff("list", "-m", "org/none").returncode == exitcodes.NOT_FOUND


def test_a_large_repo_is_read_by_the_page(alice: Person, hub: HubProcess) -> None:
    seed(hub, {f"{NEWEST}/{modules.module(number).key}/model.neff": b"n" * number for number in range(1, 2501)})
    lines = alice.neff("list").stdout.splitlines()
    assert len(lines) == 2500
    assert {line.rpartition("=")[2] for line in lines} == {str(number) for number in range(1, 2501)}
    assert alice.on_terminal("list")[1].count("MODULE_") == 2500


def test_without_a_repo_there_is_nothing_to_list(hub: HubProcess, tmp_path: Path) -> None:
    done = Person(tmp_path / "bob", hub.endpoint).neff("list")
    assert (done.returncode, done.stdout) == (exitcodes.REFUSED, "")
    assert "no cache repo is set" in done.stderr
    assert "neff set NAME" in done.stderr


def test_a_model_that_is_not_there_is_no_repo_to_create(alice: Person, hub: HubProcess) -> None:
    seed(hub, {})
    done = alice.neff("lookup", "org/tyni")
    advice = "  mend it: hf auth login   (or set HF_TOKEN), or name a folder with its config.json\n"
    assert done.stderr == f"neff: the model org/tyni is not there, or this login may not see it\n{advice}"
    done = alice.neff("lookup", MODEL, CUSTOM_CACHE_REPO="alice/none")
    assert "the repo alice/none is not there" in done.stderr
    assert "neff create -n alice/none" in done.stderr


def test_a_private_repo_is_not_told_from_one_that_is_not_there(hub: HubProcess, tmp_path: Path) -> None:
    seed(hub, {})
    for token, mend in ((None, "hf auth login"), (hub.token("bob"), "neff create")):
        done = Person(tmp_path / "bob", hub.endpoint, token).neff("list", REPO)
        assert done.returncode == exitcodes.NOT_FOUND
        assert f"the repo {REPO} is not there" in done.stderr
        assert mend in done.stderr


def test_a_token_that_is_none_and_a_hub_that_is_away(hub: HubProcess, tmp_path: Path) -> None:
    seed(hub, {})
    done = Person(tmp_path / "bob", hub.endpoint, "hf_wrong").neff("list", REPO)
    assert (done.returncode, "does not accept the token" in done.stderr) == (exitcodes.REFUSED, True)
    hub.stop()
    done = Person(tmp_path / "bob", hub.endpoint).neff("list", REPO)
    assert (done.returncode, hub.endpoint in done.stderr) == (exitcodes.UNREACHABLE, True)


@pytest.mark.parametrize(
    ("status", "headers", "code", "said"),
    [
        (403, {}, exitcodes.REFUSED, "may not be read with this login"),
        (429, {"Retry-After": "77"}, exitcodes.UNREACHABLE, "the Hub says: too many requests"),
        (503, {}, exitcodes.UNREACHABLE, "server-error"),
    ],
)
def test_a_hub_that_refuses(
    alice: Person, hub: HubProcess, status: int, headers: dict[str, str], code: int, said: str
) -> None:
    hub.add_fault(f"GET /{MODEL}/resolve/", status=status, headers=headers, times=None)
    done = alice.neff("lookup", MODEL)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


def test_a_hub_that_fails_for_a_moment_is_asked_again(alice: Person, hub: HubProcess) -> None:
    seed(hub, writing.files(entry(), NEWEST))
    hub.add_fault("GET .*/tree/main/", status=503, times=2)
    done = alice.neff("list", REPO)
    assert (done.returncode, done.stderr) == (exitcodes.OK, "")


def test_a_folder_that_has_just_been_removed_is_one_without_entries(alice: Person, hub: HubProcess) -> None:
    seed(hub, writing.files(entry(), NEWEST))
    hub.add_fault("GET .*/tree/main/.*0_REGISTRY", status=404, headers={"X-Error-Code": "EntryNotFound"}, times=None)
    done = alice.neff("lookup", MODEL)
    assert (done.returncode, "No cached entries found" in done.stderr) == (exitcodes.NOT_FOUND, True), done.stderr


def test_a_repo_that_was_misnamed_is_not_another(alice: Person, hub: HubProcess) -> None:
    seed(hub, {})
    assert alice.neff("set", REPO).returncode == exitcodes.OK
    address = f"{hub.endpoint}/alice/other?token=hf_secret"
    for command in (("lookup", MODEL), ("list",), ("synchronize", "--push"), ("add", "--", "true")):
        done = alice.neff(*command, CUSTOM_CACHE_REPO=address)
        assert (done.returncode, done.stdout) == (exitcodes.USAGE, ""), command
        assert "CUSTOM_CACHE_REPO does not hold the name of a repo" in done.stderr
        assert "hf_secret" not in done.stderr
    assert alice.neff("list", REPO, CUSTOM_CACHE_REPO=address).returncode == exitcodes.NOT_FOUND
