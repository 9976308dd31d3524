"""The registry, written by either and read by the other; hashes by both for models that transformers ships."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from neff import exitcodes
from tests.harness.commands import Person
from tests.hub.process import HubProcess
from tests.integration.hub.conftest import REPO
from tests.interop_optimum.conftest import MakeTrainer
from tests.interop_optimum.trainer import NAMESPACE, Trainer

pytestmark = [pytest.mark.interop, pytest.mark.timeout(240)]

TASK = "text-generation"
MODEL = "org/tiny"
NEURON = {"batch_size": 1, "sequence_length": 128, "tp_degree": 2, "torch_dtype": "bfloat16", "target": "trn1"}
SMALL = {"hidden_size": 64, "num_hidden_layers": 2}
MODELS: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", TASK, {**SMALL, "rope_theta": 500000.0}),
    ("mistral", TASK, SMALL),
    ("mixtral", TASK, {**SMALL, "num_local_experts": 4}),
    ("qwen2", TASK, SMALL),
    ("qwen3", TASK, SMALL),
    ("qwen3_moe", TASK, {}),
    ("gemma3", TASK, {}),  # its text model is what is compiled
    ("granite", TASK, SMALL),
    ("phi3", TASK, SMALL),
    ("smollm3", TASK, {}),
    ("llama4", TASK, {}),
    ("gpt2", TASK, {"n_layer": 2, "n_embd": 64}),
    ("bert", "fill-mask", {**SMALL, "num_attention_heads": 2}),
    ("distilbert", "text-classification", {"n_layers": 2}),
    ("roberta", "question-answering", SMALL),
    ("t5", "text2text-generation", {"d_model": 64}),
    ("vit", "image-classification", {**SMALL, "image_size": 32}),
    ("clip", "zero-shot-image-classification", {}),
    ("whisper", "automatic-speech-recognition", {"d_model": 64}),
    ("wav2vec2", "audio-classification", {"num_hidden_layers": 2}),
]


@pytest.fixture
def trainer(make_trainer: MakeTrainer) -> Trainer:
    made = make_trainer("a")
    made.call("import_optimum")
    return made


@pytest.fixture
def alice(tmp_path: Path, hub: HubProcess) -> Person:
    return Person(tmp_path / "alice", hub.endpoint, hub.token("alice"), CUSTOM_CACHE_REPO=REPO)


@pytest.fixture
def tiny(tmp_path: Path, hub: HubProcess, trainer: Trainer) -> str:
    """The folder of a small llama whose configuration is also that of `org/tiny` on the Hub."""
    folder = tmp_path / "saved"
    trainer.call("save_config", model_type="llama", folder=str(folder), changes=SMALL)
    hub.seed_files(MODEL, {"config.json": (folder / "config.json").read_bytes()})
    return str(folder)


def optimum_cli(trainer_python: str, person: Person, *arguments: str) -> str:
    """What optimum-neuron's own command prints, without rich: one row an entry."""
    command = [str(Path(trainer_python).with_name("optimum-cli")), "neuron", "cache", *arguments]
    done = subprocess.run(command, env=person.environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def packages_of(python: str) -> Path:
    """Where an interpreter's packages are."""
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.check_output(asked, text=True).strip())


def test_the_hashes_are_the_same(trainer: Trainer, tmp_path: Path) -> None:
    for model_type, task, changes in MODELS:
        folder = str(tmp_path / model_type)
        trainer.call("save_config", model_type=model_type, folder=folder, changes=changes)
        made = trainer.call("registered", folder=folder, model=f"org/{model_type}", task=task, neuron=NEURON)
        assert made["ours"] == made["theirs"], model_type
        assert made["looked_for"] == made["ours"][1], model_type


def test_the_hashes_of_a_pipeline_are_the_same(trainer: Trainer, tmp_path: Path) -> None:
    configs = {
        "unet": {"_class_name": "UNet2DConditionModel", "sample_size": 64, "neuron": {"static_batch_size": 1}},
        "text_encoder": {"model_type": "clip_text_model", "hidden_size": 64, "neuron": {"input_names": ["x"]}},
        "vae_decoder": {"_class_name": "AutoencoderKL", "sample_size": 64},
    }
    for name, config in configs.items():
        (tmp_path / "pipe" / name).mkdir(parents=True)
        (tmp_path / "pipe" / name / "config.json").write_text(json.dumps(config))
    made = trainer.call("registered_pipeline", folder=str(tmp_path / "pipe"), model="org/pipe")
    assert made["ours"] == made["theirs"]


def test_optimum_neuron_reads_what_neffd_registered(
    trainer: Trainer, hub: HubProcess, alice: Person, tiny: str, interop_python: str
) -> None:
    trainer.cache.mkdir()
    for batch_size in (1, 4):
        neuron = {**NEURON, "batch_size": batch_size}
        files = trainer.call(
            "write_registry", root=str(trainer.cache), folder=tiny, model=MODEL, namespace=NAMESPACE, neuron=neuron
        )
        hub.seed_files(REPO, {path: (trainer.cache / path).read_bytes() for path in files})
    for model in (MODEL, tiny):
        found = trainer.call("cached_configurations", model=model)
        assert sorted(found, key=lambda neuron: neuron["batch_size"]) == [NEURON, {**NEURON, "batch_size": 4}]
    (selected,) = trainer.call("selected_configurations", model=MODEL, batch_size=4, torch_dtype="bfloat16")
    assert selected["batch_size"] == 4
    assert trainer.call("selected_configurations", model=MODEL, instance_type="trn2") == []
    assert trainer.call("cached_models") == [["llama", "org", "tiny"]]
    shown = optimum_cli(interop_python, alice, "lookup", MODEL, "--task", TASK)
    assert [line.split() for line in shown.splitlines()][-2:] == [
        ["1", "128", "2", "bfloat16", "trn1"],
        ["4", "128", "2", "bfloat16", "trn1"],
    ]


def test_neffd_reads_what_optimum_neuron_registered(
    trainer: Trainer, alice: Person, tiny: str, work_dir: str, interop_python: str
) -> None:
    trainer.call("compile_graphs", graphs=["mlp_training_step"], work_dir=work_dir, hub_cache=True, model=tiny)
    trainer.call("synchronize")
    (theirs,) = trainer.call("cached_configurations", model=MODEL)
    (by_name,) = alice.json("lookup", MODEL)["entries"]
    assert by_name["neuron"] == theirs
    assert (by_name["model_id"], by_name["optimum_neuron"], by_name["namespace"]) == (MODEL, "0.4.5", NAMESPACE)
    (listed,) = alice.json("list")["models"]
    assert (listed["model_type"], listed["model_id"], listed["entries"]) == ("llama", MODEL, 1)
    (of_model,) = alice.json("list", "-m", MODEL)["entries"]
    assert of_model["hash"] == by_name["hash"]

    # With transformers the architecture alone is enough; neffd's other packages are not those of a trainer.
    found = Person(
        alice.home,
        alice.environ["HF_ENDPOINT"],
        alice.environ["HF_TOKEN"],
        CUSTOM_CACHE_REPO=REPO,
        PYTHONPATH=os.pathsep.join([alice.environ["PYTHONPATH"], str(packages_of(interop_python))]),
    ).json("lookup", tiny)
    assert found["guess"] is None
    assert [item["hash"] for item in found["entries"]] == [by_name["hash"]]


def test_neffd_synchronizes_what_optimum_neuron_compiled(
    make_trainer: MakeTrainer,
    trainer: Trainer,
    hub: HubProcess,
    alice: Person,
    tiny: str,
    work_dir: str,
    interop_python: str,
) -> None:
    graphs = ["mlp_training_step"]
    made = trainer.call("compile_graphs", graphs=graphs, work_dir=work_dir, hub_cache=True, model=tiny)
    done = alice.json("synchronize", "--push", "--cache_dir", str(trainer.cache))
    assert (done["pushed"], done["registry"], done["parked"]) == (len(made), 2, [])

    other = make_trainer("b")
    other.call("import_optimum")
    assert other.call("compile_graphs", graphs=graphs, work_dir=work_dir, hub_cache=True) == made
    assert other.compiles == 0
    assert len(other.call("cached_configurations", model=tiny)) == 1
    assert other.call("cached_models") == [["llama", "org", "tiny"]]

    empty = alice.home / "empty"
    empty.mkdir()
    done = alice.json("synchronize", "--pull", "--cache_dir", str(empty), "--compiler_version", NAMESPACE)
    assert done["pulled"] == len(made)
    third = Trainer(interop_python, alice.home / "c", empty, {"HF_ENDPOINT": hub.endpoint, "CUSTOM_CACHE_REPO": REPO})
    with third:
        assert third.call("compile_graphs", graphs=graphs, work_dir=work_dir) == made
        assert third.compiles == 0


def test_both_set_the_same_repo(alice: Person, hub: HubProcess, interop_python: str) -> None:
    hub.seed_files("alice/second", {}, private=True)
    del alice.environ["CUSTOM_CACHE_REPO"]
    assert alice.neff("set", REPO).returncode == exitcodes.OK
    ours = alice.saved.read_bytes()
    alice.saved.unlink()
    optimum_cli(interop_python, alice, "set", REPO)
    assert alice.saved.read_bytes() == ours
    optimum_cli(interop_python, alice, "set", "alice/second")
    assert alice.neff("list").stderr == "Nothing was found in alice/second.\n"
