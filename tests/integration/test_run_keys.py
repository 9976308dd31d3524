"""Runs named by `neff run --model`, with real daemons, the real client and the stand-in Neuron stack."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.daemon import PROJECT, Daemon
from tests.harness.listing import modules_told
from tests.harness.waiting import TOLD_S, eventually
from tests.integration.conftest import MakeDaemon
from tests.neuron.env import standin_env

pytestmark = pytest.mark.timeout(120)

_MAIN = f"import sys; sys.path[0] = {str(PROJECT / 'client')!r}; from neff.cli import main; sys.exit(main())"
_TRAINER = [sys.executable, "-m", "tests.neuron.trainer", "--graphs", "adam_update,attention_forward"]
_COMPILER = "2.20.9961.0+0acef03a"


def _neff(host: Daemon, *arguments: str) -> tuple[int, str]:
    """Exit code of a command on `host`, and what it said."""
    env = standin_env(host.cache, compile_log=host.home / "compiles") | {"NEFFD_SOCKET": str(host.socket)}
    words = [sys.executable, "-c", _MAIN, *arguments]
    done = subprocess.run(words, env=env, cwd=PROJECT, capture_output=True, text=True, timeout=50)
    return done.returncode, done.stdout + done.stderr


def test_the_second_host_knows_what_the_first_one_used(make_daemon: MakeDaemon, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 16}))
    run = ["--model", str(tmp_path), "--batch_size", "1", "--sequence-length", "128", "--compiler", _COMPILER]
    first, second = make_daemon("first"), make_daemon("second")
    first.start()
    assert _neff(first, "plan", *run)[0] == 8
    assert "2 graphs: 2 compiled" in _neff(first, "run", *run, "--", *_TRAINER)[1]
    assert "from: this host" in _neff(first, "plan", *run)[1]
    eventually(lambda: len(modules_told(shared)) == 2, "the manifest is on the remote", TOLD_S)

    second.start()
    eventually(lambda: _neff(second, "plan", *run)[0] == 2, "what the remote tells, read to its end")
    code, said = _neff(second, "plan", *run)
    assert (code, said.splitlines()[0].partition(":")[2]) == (2, " 2 of 2 graphs, 0.4 MB")
    eventually(lambda: _neff(second, "plan", *run, "--batch-size", "4")[0] == 3, "the same for another run")
    code, said = _neff(second, "plan", *run, "--batch-size", "4")
    assert (code, "differs in shapes.batch_size" in said) == (3, True)
    assert _neff(second, "prefetch", "--wait", *run)[0] == 0
    assert _neff(second, "plan", *run)[0] == 0

    # Local hits alone: what the processes tell of them is all that this host's daemon can know.
    assert "2 graphs: 2 local" in _neff(second, "run", *run, "--", *_TRAINER)[1]
    assert "from: this host" in _neff(second, "plan", *run)[1]
    assert not (second.home / "compiles").exists()
