"""Trainers with optimum-neuron, a local Hub, and daemons that share one of its repos."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.daemon import Daemon
from tests.hub.process import HubProcess
from tests.integration.hub.conftest import REPO, hub, make_host
from tests.interop_optimum.trainer import Trainer

__all__ = ["hub", "make_host"]  # fixtures

MakeTrainer = Callable[..., Trainer]


@pytest.fixture(scope="session", autouse=True)
def interop_python() -> str:
    """The interpreter of the environment that `make interop` builds."""
    python = os.environ.get("NEFFD_INTEROP_PYTHON", "")
    if not python:
        pytest.skip("needs an environment with optimum-neuron: run `make interop`")
    return python


@pytest.fixture
def make_trainer(tmp_path: Path, hub: HubProcess, interop_python: str) -> Iterator[MakeTrainer]:
    """Makes trainers by name: on a host with a daemon, or on one without."""
    made: list[Trainer] = []

    def make(name: str, host: Daemon | None = None, *, repo: str = REPO, **switches: object) -> Trainer:
        home = tmp_path / f"{name}-trainer"
        variables = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub.token("alice"), "CUSTOM_CACHE_REPO": repo}
        cache = host.cache if host else home / "cache"
        trainer = Trainer(interop_python, home, cache, variables, host.socket if host else None, **switches)
        made.append(trainer)
        return trainer

    yield make
    for trainer in made:
        trainer.close()


@pytest.fixture
def work_dir(tmp_path: Path) -> str:
    """NxD's work directory: the same name on every host, since it is part of the key."""
    return str(tmp_path / "nxd_model")


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A folder with the configuration of a small model."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "num_hidden_layers": 2}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)
