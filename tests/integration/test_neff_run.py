"""`neff run` with real daemons and the stand-in Neuron stack: trainers without a line changed and without neffd."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import PROJECT, Daemon
from tests.integration.conftest import MakeDaemon
from tests.neuron.env import standin_env

CLIENT = PROJECT / "client"
_MAIN = f"import sys; sys.path[0] = {str(CLIENT)!r}; from neff.cli import main; sys.exit(main())"
_GRAPHS = ["--graphs", "adam_update,attention_forward"]
# Starts ranks as torchrun does, through a shell, and ends with the first code that is not 0.
_RANKS = """
import os, subprocess, sys
world = int(sys.argv[1])
ranks = [
    subprocess.Popen(
        ["sh", "-c", 'exec "$@"', "sh", sys.executable, "-m", "tests.neuron.trainer", *sys.argv[2:]],
        env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(world)},
    )
    for rank in range(world)
]
sys.exit(max(rank.wait() for rank in ranks))
"""


@pytest.fixture(scope="module")
def trainer_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment without neffd; its path has spaces."""
    home = tmp_path_factory.mktemp("trainers") / "their environment"
    venv.create(home, symlinks=True)
    return home / "bin" / "python"


def run(
    host: Daemon,
    *command: str | Path,
    options: tuple[str, ...] = (),
    environ: dict[str, str] | None = None,
    **switches: Any,
) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
    """`neff run` on `host`: what the trainers wrote, the numbers, and what was said on stderr by `neff run`."""
    summary = host.home / "summary.json"
    words = [
        sys.executable,
        "-c",
        _MAIN,
        "run",
        "--socket",
        host.socket,
        "--summary-json",
        summary,
        *options,
        "--",
        *command,
    ]
    env = standin_env(host.cache, compile_log=host.home / "compiles", **switches)
    env["PYTHONPATH"] = env["PYTHONPATH"].removesuffix(os.environ.get("PYTHONPATH", "")).rstrip(":")
    env.pop("PYTHONUNBUFFERED", None)  # lines of several ranks would mix
    done = subprocess.run(words, env=env | (environ or {}), cwd=PROJECT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    said = "".join(line for line in done.stderr.splitlines(keepends=True) if line.startswith("neff: "))
    return steps, json.loads(summary.read_text()), said


def compiles(host: Daemon) -> int:
    log = host.home / "compiles"
    return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.mark.parametrize("generation", ["2.14", "2.15+"])
def test_a_trainer_without_neffd_fetches_what_another_host_compiled(
    make_daemon: MakeDaemon, trainer_python: Path, generation: str
) -> None:
    trainer = [str(trainer_python), "-m", "tests.neuron.trainer", *_GRAPHS]
    assert subprocess.run([trainer_python, "-I", "-c", "import neff"], capture_output=True, check=False).returncode == 1
    with make_daemon("a") as host_a, make_daemon("b") as host_b:
        made, numbers, said = run(host_a, *trainer, generation=generation, compile_s=0.6)
        assert [step["compiled"] for step in made] == [True, True]
        if generation == "2.15+":  # before it there are no locks, so nobody can tell who compiles
            assert (numbers["graphs"], numbers["compiled"]) == (2, 2)
            assert numbers["compiled_s"] >= 1.2
            assert said.startswith("neff: 2 graphs: 2 compiled (")
        assert host_a.ask("flush", timeout_s=20)[-1]["pending"] == 0
        found, numbers, said = run(host_b, *trainer, generation=generation)
        assert [step["neff_sha256"] for step in found] == [step["neff_sha256"] for step in made]
        assert (compiles(host_a), compiles(host_b)) == (2, 0)
        assert (numbers["graphs"], numbers["fetched"]) == (2, 2)
        assert numbers["saved_s"] > 0
        assert said.startswith("neff: 2 graphs: 2 fetched, about ")
        _, numbers, said = run(host_b, *trainer, generation=generation)
        assert (numbers["graphs"], numbers["local"]) == (2, 2)
        assert said == "neff: 2 graphs: 2 local\n"


def test_ranks_below_a_launcher_and_a_shell_count_each_graph_once(
    make_daemon: MakeDaemon, trainer_python: Path
) -> None:
    with make_daemon("a") as host:
        steps, numbers, _ = run(host, trainer_python, "-c", _RANKS, "3", *_GRAPHS, compile_s=0.2)
        assert len(steps) == 6
        assert (numbers["graphs"], numbers["compiled"], compiles(host)) == (2, 2, 2)


def test_a_run_inside_a_run_counts_in_both(make_daemon: MakeDaemon, trainer_python: Path, tmp_path: Path) -> None:
    inner_summary = tmp_path / "inner.json"
    inner = [sys.executable, "-c", _MAIN, "run", "--quiet", "--summary-json", str(inner_summary)]
    trainer = [str(trainer_python), "-m", "tests.neuron.trainer"]
    script = '"$@" --graphs adam_update; shift 7; exec "$@" --graphs adam_update,attention_forward'
    with make_daemon("a") as host:
        _, numbers, said = run(host, "sh", "-c", script, "sh", *inner, *trainer)
        assert (numbers["graphs"], numbers["compiled"]) == (2, 2)
        assert json.loads(inner_summary.read_text())["graphs"] == 1
        assert said.count("neff: ") == 1


def test_a_killed_trainers_share_counts(make_daemon: MakeDaemon, trainer_python: Path) -> None:
    killed = '"$@" --graphs adam_update & wait $!; "$@" & until grep -q . "$LOG"; do sleep 0.05; done; kill -9 $!'
    with make_daemon("a") as host:
        log = host.home / "second"
        script = f"LOG={log}; " + killed.replace('"$@" &', '"$@" >"$LOG" &')
        _, numbers, _ = run(host, "sh", "-c", script, "sh", trainer_python, "-m", "tests.neuron.trainer", compile_s=0.5)
        assert (numbers["local"] + numbers["compiled"], numbers["exit_code"]) == (1, 0)


def test_neuron_parallel_compiles_pool_is_counted(make_daemon: MakeDaemon, trainer_python: Path) -> None:
    script = 'NEURON_EXTRACT_GRAPHS_ONLY=1 "$@".trainer && "$@".parallel_compile --parallel 2'
    with make_daemon("a") as host:
        _, numbers, _ = run(host, "sh", "-c", script, "sh", trainer_python, "-m", "tests.neuron")
        assert numbers["compiled"] == compiles(host) > 2


def test_quiet_and_without_a_daemon(make_daemon: MakeDaemon, trainer_python: Path) -> None:
    host = make_daemon("a")
    host.cache.mkdir()
    trainer = [str(trainer_python), "-m", "tests.neuron.trainer", *_GRAPHS]
    steps, numbers, said = run(host, *trainer, options=("--quiet",))
    assert [step["compiled"] for step in steps] == [True, True]
    assert (numbers["compiled"], said.count("graphs:")) == (2, 0)


def test_switched_off_the_trainer_is_alone(make_daemon: MakeDaemon, trainer_python: Path) -> None:
    with make_daemon("a") as host:
        (host.home / "summary.json").write_text("{}")
        steps, numbers, said = run(
            host, trainer_python, "-m", "tests.neuron.trainer", *_GRAPHS, environ={"NEFF_DISABLE": "1"}
        )
        assert [step["compiled"] for step in steps] == [True, True]
        assert (numbers, said) == ({}, "")
        assert host.counter("neffd_questions", "state=absent,reason=not-on-remotes") == 0
