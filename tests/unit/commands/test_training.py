"""The training session of `neff add -m MODEL`, without devices: its command, its inputs, what a host lacks."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from neff import exitcodes
from neffd.commands import training, training_session
from neffd.commands.errors import CommandError
from neffd.commands.training import Host, Session

GUIDE = Session(
    "prajjwal1/bert-tiny",
    "text-classification",
    train_batch_size=16,
    precision="bf16",
    num_cores=32,
    eval_batch_size=16,
    sequence_length=128,
    gradient_accumulation_steps=32,
)
HOST = Host("/env/bin/python", "0.4.5", ["/dev/neuron0"])


def parsed(session: Session) -> Any:
    """The arguments as the script reads them."""
    words = session.command("python")
    return training_session.parse(words[words.index(str(training.SCRIPT)) + 1 :])


def test_the_guides_example_becomes_one_process_a_core() -> None:
    command = GUIDE.command("/env/bin/python")
    launcher = ["/env/bin/python", "-m", "torch.distributed.run", "--nproc_per_node", "32", str(training.SCRIPT)]
    assert command[:6] == launcher
    args = parsed(GUIDE)
    assert (args.model, args.task, args.precision) == ("prajjwal1/bert-tiny", "text-classification", "bf16")
    sizes = (args.train_batch_size, args.eval_batch_size, args.sequence_length, args.gradient_accumulation_steps)
    assert sizes == (16, 16, 128, 32)
    assert args.max_steps == 10


def test_the_trainer_is_told_what_was_asked_for_as_far_as_it_knows_it() -> None:
    known = {"output_dir", "bf16", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"}
    settings = training_session.settings(parsed(GUIDE), known, "/out")
    assert settings == {
        "output_dir": "/out",
        "bf16": True,
        "max_steps": 10,
        "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 32,
    }
    assert training_session.settings(parsed(replace(GUIDE, precision="fp")), {"bf16"}, "") == {"bf16": False}


@pytest.mark.parametrize("task", training.TASKS)
def test_every_task_has_inputs_of_the_shapes_that_were_asked_for(task: str) -> None:
    session = replace(GUIDE, task=task)
    if task in training.SEQUENCE_PAIRS:
        session = replace(session, sequence_length=None, encoder_sequence_length=128, decoder_sequence_length=32)
    assert session.problem() is None
    example = training_session.example(parsed(session), vocabulary_size=50)
    tokens = example["input_ids"][0] if task == "multiple-choice" else example["input_ids"]
    assert len(tokens) == 128
    assert all(0 < token < 50 for token in tokens)
    labels = example["start_positions"] if task == "question-answering" else example["labels"]
    expected = {"text-classification": 0, "multiple-choice": 0, "question-answering": 0, "token-classification": 128}
    length = 32 if task in training.SEQUENCE_PAIRS else expected.get(task, 128)
    assert (len(labels) if isinstance(labels, list) else labels) == length


def test_the_script_asks_for_nothing_of_neffd() -> None:
    """It runs where optimum-neuron is, and neffd is not."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(training.SCRIPT), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--train_batch_size" in done.stdout


@pytest.mark.parametrize(
    ("host", "said"),
    [
        (replace(HOST, python=None), "no python3"),
        (replace(HOST, optimum_neuron=None), "/env/bin/python has no optimum-neuron"),
        (replace(HOST, devices=[]), "no Neuron device"),
    ],
)
def test_what_a_host_lacks_is_said_with_what_mends_it(host: Host, said: str) -> None:
    with pytest.raises(CommandError, match=said) as refused:
        host.check()
    assert (refused.value.exit_code, bool(refused.value.mend)) == (exitcodes.REFUSED, True)


def test_a_host_with_everything() -> None:
    assert HOST.check() == "/env/bin/python"


def test_this_hosts_own_interpreter_is_looked_at() -> None:
    found = training.look_at_host(sys.executable)
    assert found.python == sys.executable
    assert (found.optimum_neuron is None) == (importlib.util.find_spec("optimum") is None)
    assert training.look_at_host("/no/such/python").python is None
