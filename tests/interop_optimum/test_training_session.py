"""The session of `neff add -m MODEL` against the optimum-neuron and the models that it is for, without a device."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from neffd.commands import training, training_session
from tests.interop_optimum.conftest import MakeTrainer
from tests.interop_optimum.test_registry import packages_of

pytestmark = [pytest.mark.interop, pytest.mark.timeout(240)]

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 64}
SMALL_T5 = {
    **{"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 64},
    "decoder_start_token_id": 0,
}


class Everything:
    def __contains__(self, name: object) -> bool:
        return True


def names_in(path: Path, class_name: str) -> set[str]:
    """Fields and methods of a class, from its source: to import it takes AWS's packages."""
    (found,) = [
        node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef) and node.name == class_name
    ]
    fields = {
        node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return fields | {node.name for node in found.body if isinstance(node, ast.FunctionDef)}


def test_every_setting_is_one_of_the_trainers(interop_python: str) -> None:
    folder = packages_of(interop_python) / "optimum" / "neuron"
    session = training.Session("m", "fill-mask", train_batch_size=1, precision="bf16", num_cores=2, sequence_length=8)
    words = session.command("python")
    args = training_session.parse(words[words.index(str(training.SCRIPT)) + 1 :])
    settings = training_session.settings(args, Everything(), "/out")  # type: ignore[arg-type]
    known = names_in(folder / "trainers" / "training_args.py", "NeuronTrainingArguments")
    assert {*settings, "world_size"} - known == set()
    assert "train" in names_in(folder / "trainers" / "transformers.py", "NeuronTrainer")
    assert "from_pretrained" in names_in(folder / "models" / "training" / "modeling_auto.py", "_BaseNeuronModelClass")


def test_the_inputs_of_every_task_fit_its_models(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer("a")
    for task in training.TASKS:
        model_type, changes = ("t5", SMALL_T5) if task in training.SEQUENCE_PAIRS else ("bert", SMALL)
        if task == "text-generation":
            model_type, changes = "llama", SMALL
        loss = trainer.call(
            "session_loss", folder=str(tmp_path / task), model_type=model_type, task=task, changes=changes
        )
        assert loss >= 0, task
