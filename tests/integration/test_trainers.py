"""Every way into the compiler, end to end: what host A compiled by it, host B does not compile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import PROJECT, Daemon, python_path
from tests.harness.files import below
from tests.harness.waiting import eventually
from tests.integration.conftest import MakeDaemon
from tests.neuron.env import standin_env

_WAYS: dict[str, list[str]] = {
    "PJRT": ["--entry", "pjrt"],
    "NxD builder": ["--entry", "nxd"],
    "NxD priority model": ["--entry", "nxd-wlo"],
    "transformers-neuronx": ["--entry", "tnx"],
    "inside optimum-neuron's proxy": ["--entry", "pjrt", "--hub-proxy"],
}


def run(script: str, host: Daemon, *arguments: str, **options: Any) -> list[dict[str, Any]]:
    """A trainer of the stand-in stack on `host` with the hook installed; its JSON lines."""
    extra = options.pop("environ", {})
    environ = standin_env(host.cache, compile_log=host.home / "compiles", **options) | {
        "NEFFD_SOCKET": str(host.socket)
    }
    environ["PYTHONPATH"] = f"{environ['PYTHONPATH']}:{python_path()}"
    done = subprocess.run(
        [sys.executable, "-m", f"tests.neuron.{script}", "--install-neff", *arguments],
        env=environ | extra,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def compiles(host: Daemon) -> int:
    log = host.home / "compiles"
    return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.mark.parametrize("generation", ["2.14", "2.15+"])
@pytest.mark.parametrize("way", _WAYS)
def test_what_one_host_compiled_the_next_does_not(
    make_daemon: MakeDaemon, tmp_path: Path, way: str, generation: str
) -> None:
    # The same work directory on both hosts: NxD's keys hold its path.
    arguments = [*_WAYS[way], "--work-dir", str(tmp_path / "work"), "--graphs", "adam_update,attention_forward"]
    with make_daemon("a") as host_a, make_daemon("b") as host_b:
        made = run("trainer", host_a, *arguments, generation=generation)
        assert [step["compiled"] for step in made] == [True, True]
        assert host_a.ask("flush", timeout_s=20)[-1]["pending"] == 0
        found = run("trainer", host_b, *arguments, generation=generation)
        assert [step["compiled"] for step in found] == [False, False]
        assert [step["neff_sha256"] for step in found] == [step["neff_sha256"] for step in made]
        assert (compiles(host_a), compiles(host_b)) == (2, 0)
        assert not below(host_b.cache, "*.lock")


def test_neuron_parallel_compiles_pool(make_daemon: MakeDaemon) -> None:
    with make_daemon("a") as host_a, make_daemon("b") as host_b:
        for host in (host_a, host_b):
            run("trainer", host, environ={"NEURON_EXTRACT_GRAPHS_ONLY": "1"})
            run("parallel_compile", host, "--parallel", "2")
            if host is host_a:
                assert compiles(host_a) == 6
                assert host_a.ask("flush", timeout_s=20)[-1]["pending"] == 0
        assert compiles(host_b) == 0
        assert host_b.counter("neffd_fetched_entries", "remote=shared") == 6
        eventually(lambda: host_b.status()["cache_dirs"][0]["entries"]["ready"] == 6, "all are seen")


def test_without_a_daemon_the_trainer_is_alone(make_daemon: MakeDaemon) -> None:
    host = make_daemon("a")
    host.cache.mkdir()
    assert [step["compiled"] for step in run("trainer", host, "--graphs", "adam_update")] == [True]
    assert compiles(host) == 1
