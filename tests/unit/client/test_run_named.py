"""`neff run --model`: the run that the command belongs to, what the daemon is told of it, and the line at the end."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import neff
from neff.commands.run import split
from neff.keys import ModuleName
from neff.protocol import Message
from neff.tally import FETCHED, Event, encode
from tests.unit.client.running import environment, finished, neff_run, python
from tests.unit.client.scripted import ScriptedDaemon, serving

CONFIG = {"model_type": "llama", "hidden_size": 16}
KNOWS = ["prefetch", "used", "run-ended", "plan"]
SHOW = "import json, os; print(os.environ.get('NEFF_RUN'))"
GRAPH = encode(Event(FETCHED, "/cache", ModuleName("neuronxcc-2.20", "MODULE_1+e30acd3a"), 30.0))
MEET = f"import os; open(os.environ['NEFF_RUN_DIR'] + '/1.events', 'wb').write({GRAPH!r})"


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return str(tmp_path)


def _run(*options: str, code: str = SHOW, **changes: str) -> Any:
    return finished(neff_run(*options, "--", *python(code)), environment(**changes))


def test_options_in_both_spellings_are_ours() -> None:
    ours = ["--model", "m", "--batch-size", "1", "--batch_size", "1", "--tensor_parallel_size=2", "--no-prefetch"]
    assert split([*ours, "python", "--model"]) == (ours, ["python", "--model"])


@pytest.mark.parametrize(("options", "brings"), [([], True), (["--no-prefetch"], False), (["--no_prefetch"], False)])
def test_the_run_of_a_command(socket_path: Path, model: str, options: list[str], brings: bool) -> None:
    seen: list[Message] = []
    with ScriptedDaemon(socket_path, serving(seen, {}, capabilities=KNOWS)) as daemon:
        sizes = ["--batch_size", "4", "--sequence-length", "128", "--dtype", "bf16"]
        done = _run("--socket", daemon.path, "--model", model, *sizes, *options)
    assert (done.returncode, done.stderr) == (0, b"")
    told = json.loads(done.stdout)
    assert told["key"] == neff.run_key(
        config=CONFIG, batch_size=4, sequence_length=128, dtype="bf16", python=sys.executable
    )
    assert told["private"] is True
    ops = sorted(message.get("op", "hello") for message in seen)
    assert ops == ["hello", "hello", *(["prefetch"] if brings else []), "run-ended"]
    assert all(message["run"] == told for message in seen if message.get("op") != "run-ended")


def test_the_line_counts_what_came_before_anybody_asked(socket_path: Path, model: str, tmp_path: Path) -> None:
    answers: dict[str, list[Message]] = {"run-ended": [{"run": {"saved_s": 600.0}}]}
    with ScriptedDaemon(socket_path, serving([], answers, capabilities=KNOWS)) as daemon:
        words = ["--socket", daemon.path, "--summary-json", str(tmp_path / "summary"), "--model", model]
        done = _run(*words, code=MEET)
    assert done.stderr == b"neff: 1 graph: 1 fetched, about 10 min saved\n"
    assert json.loads((tmp_path / "summary").read_text())["saved_s"] == 600.0


@pytest.mark.parametrize("summary", [{"saved_s": -1}, {"saved_s": "x"}, {}, 3])
def test_a_summary_that_makes_no_sense_changes_nothing(socket_path: Path, model: str, summary: object) -> None:
    answers: dict[str, list[Message]] = {"run-ended": [{"run": summary}]}
    with ScriptedDaemon(socket_path, serving([], answers, capabilities=KNOWS)) as daemon:
        done = _run("--socket", daemon.path, "--model", model, code=MEET)
    assert done.stderr == b"neff: 1 graph: 1 fetched, about 30 s saved\n"


def test_without_a_key_or_a_daemon_the_command_starts_all_the_same(model: str, tmp_path: Path) -> None:
    done = _run("--socket", str(tmp_path / "none"), "--model", "org/nowhere", HF_HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, b"None\n")
    assert done.stderr.endswith(b": the run is not recorded under a key\n")
    done = _run("--socket", str(tmp_path / "none"), "--model", model)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["key"] == neff.run_key(config=CONFIG, python=sys.executable)


def test_the_commands_packages_count(model: str, tmp_path: Path) -> None:
    packages = tmp_path / "env" / "lib" / "python3.11" / "site-packages"
    info = packages / "neuronx_cc-2.20.9961.0+0acef03a.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: neuronx-cc\nVersion: 2.20.9961.0+0acef03a\n")
    (tmp_path / "env" / "bin").mkdir()
    script = tmp_path / "env" / "bin" / "python"
    script.write_text('#!/bin/sh\necho "$NEFF_RUN"\n')
    script.chmod(0o755)
    done = finished(neff_run("--socket", str(tmp_path / "none"), "--model", model, "--", str(script)), environment())
    assert json.loads(done.stdout)["ingredients"]["compiler"] == "2.20.9961.0+0acef03a"


def test_inside_a_run_of_the_same_key_it_is_a_part_of_it(socket_path: Path, model: str) -> None:
    seen: list[Message] = []
    with ScriptedDaemon(socket_path, serving(seen, {}, capabilities=KNOWS)) as daemon:
        options = ["--socket", daemon.path, "--model", model]
        inner = map(os.fsdecode, neff_run(*options, "--", *python(SHOW)))
        done = finished(neff_run(*options, "--", *inner), environment())
    assert json.loads(done.stdout)["key"] == neff.run_key(config=CONFIG, python=sys.executable)
    assert [message.get("op") for message in seen].count("run-ended") == 1
