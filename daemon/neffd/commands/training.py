"""The small training session of `neff add -m MODEL`: what it needs of this host, and how it is started.

It runs in the trainer's environment, not in ours: optimum-neuron asks for a huggingface_hub that neffd does not.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neff import exitcodes
from neffd.commands.errors import CommandError

SCRIPT = Path(__file__).with_name("training_session.py")
# The tasks for which the script knows inputs; those of `SEQUENCE_PAIRS` have an encoder's and a decoder's.
SEQUENCE_PAIRS = ("text2text-generation", "summarization", "translation")
TASKS = (
    "text-generation",
    "fill-mask",
    "text-classification",
    "token-classification",
    "question-answering",
    "multiple-choice",
    *SEQUENCE_PAIRS,
)
MAX_CORES = 32
_PACKAGE = "optimum-neuron"
_VERSION_OF = f"import importlib.metadata as metadata; print(metadata.version({_PACKAGE!r}))"
_LOOK_S = 60.0


@dataclass(frozen=True)
class Session:
    """What the guide's `add` says of the session. Sizes are numbers of examples or tokens, for each core."""

    model: str
    task: str
    train_batch_size: int
    precision: str
    num_cores: int
    eval_batch_size: int | None = None
    sequence_length: int | None = None
    encoder_sequence_length: int | None = None
    decoder_sequence_length: int | None = None
    gradient_accumulation_steps: int = 1
    max_steps: int = 10

    def problem(self) -> str | None:
        """Why there can be no such session, or None."""
        if self.task not in TASKS:
            others = ", ".join(TASKS)
            return f"no inputs are known for the task {self.task}: one of {others}, or a command of your own after --"
        pair = (self.encoder_sequence_length, self.decoder_sequence_length)
        if self.task in SEQUENCE_PAIRS:
            is_complete = None not in pair and self.sequence_length is None
            return None if is_complete else f"{self.task} needs --encoder_sequence_length and --decoder_sequence_length"
        is_complete = self.sequence_length is not None and pair == (None, None)
        return None if is_complete else f"{self.task} needs --sequence_length, and no other length"

    def command(self, python: str) -> list[str]:
        """How `python` starts it: one process a core, as torchrun does."""
        options = {name: value for name, value in vars(self).items() if name != "num_cores" and value is not None}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(self.num_cores)]
        return [python, *launcher, str(SCRIPT), *words]


@dataclass(frozen=True)
class Host:
    """What the session needs of a host.

    Args:
        python: the trainer's interpreter; None where none was found.
        optimum_neuron: the version that it has; None where it has none.
        devices: device files of Neuron's driver.
    """

    python: str | None
    optimum_neuron: str | None
    devices: Sequence[str]

    def check(self) -> str:
        """The interpreter; raises CommandError where no session can be run here, and says why."""
        other = "or a command of your own: neff add -- COMMAND"
        if self.python is None:
            message, mend = "there is no python3 here to train with", f"--python PATH, {other}"
        elif self.optimum_neuron is None:
            message = f"{self.python} has no {_PACKAGE}, which trains the model"
            mend = f"{self.python} -m pip install '{_PACKAGE}[neuronx,training]', or --python PATH, {other}"
        elif not self.devices:
            message = "this host has no Neuron device (/dev/neuron0), or its driver is not loaded"
            mend = "run it on a Trainium or Inferentia2 instance: aws-neuronx-dkms brings the driver"
        else:
            return self.python
        raise CommandError(message, mend, exitcodes.REFUSED)


def look_at_host(python: str | None) -> Host:
    """What there is.

    Args:
        python: the trainer's interpreter; None for the `python3` that a shell would take.
    """
    found = shutil.which(python or "python3")
    devices = sorted(str(path) for path in Path("/dev").glob("neuron[0-9]*"))
    return Host(found, _version(found) if found else None, devices)


def _version(python: str) -> str | None:
    try:
        done = subprocess.run([python, "-c", _VERSION_OF], capture_output=True, text=True, timeout=_LOOK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
