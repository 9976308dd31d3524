"""Will it compile? Asked before, on three hosts, with real graphs; then each does as was said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from neff import exitcodes
from tests.harness.daemon import PROJECT, Daemon
from tests.harness.listing import modules_told
from tests.harness.waiting import TOLD_S, eventually
from tests.integration.conftest import MakeDaemon
from tests.integration.test_neff_run import _MAIN, compiles, run
from tests.neuron.env import standin_env

pytestmark = pytest.mark.timeout(120)

_PHASES = (
    "adam_update,attention_forward,attention_backward",
    "convolution_block,mlp_training_step,softmax_cross_entropy",
)
_GRAPHS = 6
_TRAINER = '"$0" -m tests.neuron.trainer --graphs '
_JOB = ("sh", "-c", f"{_TRAINER}{_PHASES[0]} && {_TRAINER}{_PHASES[1]}", sys.executable)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's configuration."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 64}))
    return tmp_path / "config.json"


def plan(host: Daemon, *which: str) -> tuple[int, dict[str, Any]]:
    """What `neff plan` says on a host."""
    words = [sys.executable, "-c", _MAIN, "plan", "--socket", str(host.socket), "--json", *which]
    env = standin_env(host.cache)
    done = subprocess.run(words, env=env, cwd=PROJECT, capture_output=True, text=True, timeout=50, check=False)
    assert done.stdout, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)["plan"]
    return done.returncode, told


def test_what_is_foretold_comes_true(make_daemon: MakeDaemon, model: Path, shared: Path) -> None:
    which = ("--model", str(model), "--batch_size", "1", "--dtype", "bf16")
    first, second, third = make_daemon("first"), make_daemon("second"), make_daemon("third")
    first.start()
    assert plan(first, *which)[0] == exitcodes.UNKNOWN
    _, numbers, _ = run(first, *_JOB, options=which, compile_s=0.2)
    assert (numbers["graphs"], numbers["compiled"]) == (_GRAPHS, _GRAPHS)
    assert first.ask("flush", timeout_s=20)[-1]["pending"] == 0
    eventually(lambda: len(modules_told(shared)) == _GRAPHS, "the manifest is there", TOLD_S)

    code, told = plan(first, *which)
    assert (code, told["unsaid"]) == (exitcodes.OK, [])
    code, told = plan(first, "--model", str(model))
    assert (code, told["sure"], told["differs"]) == (exitcodes.OK, "same-model", [])
    assert told["unsaid"] == ["shapes.batch_size", "dtype"]
    run(first, *_JOB, options=which)
    assert compiles(first) == _GRAPHS

    second.start()
    eventually(lambda: not plan(second, *which)[1]["away"], "what the remote tells, read to its end")
    code, told = plan(second, *which)
    assert (code, told["remote"], told["sure"]) == (exitcodes.FETCHABLE, _GRAPHS, "same-key")
    by_key = plan(second, "--run", next(shared.rglob("RUN_*.json")).name.partition("-")[0])
    assert (by_key[0], by_key[1]["remote"], by_key[1]["sure"]) == (exitcodes.FETCHABLE, _GRAPHS, "same-key")
    third.start()
    other = ("--model", str(model), "--batch_size", "4", "--dtype", "bf16")
    eventually(lambda: not plan(third, *other)[1]["away"], "the same for another run")
    code, told = plan(third, *other)
    assert (code, told["missing"], told["differs"]) == (exitcodes.WILL_COMPILE, _GRAPHS, ["shapes.batch_size"])
    assert told["compile_s"] > 0

    # All six are there before the first is asked for: the job looks by itself, and only then begins.
    everything = f"until [ $(find {second.cache} -name model.done | wc -l) = {_GRAPHS} ]; do sleep 0.05; done; "
    _, numbers, _ = run(second, *_JOB[:2], everything + _JOB[2], *_JOB[3:], options=which)
    assert (numbers["local"], compiles(second)) == (_GRAPHS, 0)
    assert plan(second, *which)[0] == exitcodes.OK
    # Other shapes are other graphs: the stand-in has them by other flags.
    _, numbers, _ = run(third, *_JOB, options=other, environ={"NEURON_CC_FLAGS": "--model-type=transformer"})
    assert numbers["compiled"] == _GRAPHS


def test_all_ranks_of_a_job_are_one_run(make_daemon: MakeDaemon, model: Path) -> None:
    ranks = "for rank in 0 1 2; do RANK=$rank WORLD_SIZE=3 " + _TRAINER + "adam_update & done; wait"
    with make_daemon("host") as host:
        run(host, "sh", "-c", ranks, sys.executable, options=("--model", str(model)), compile_s=0.3)
        code, told = plan(host, "--model", str(model))
        assert (code, told["modules"], told["from"][0]) == (exitcodes.OK, 1, "this host")
        assert "/MODULE_" in told["names"][0]
