"""`neff add` as a process: a command on the stand-in Neuron stack, a daemon or none, and the local Hub."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neff import exitcodes
from neffd.commands import add
from tests.harness.commands import Person
from tests.hub.process import HubProcess
from tests.integration.hub.conftest import MakeHost, make_host
from tests.neuron.env import standin_env

__all__ = ["make_host"]  # a fixture
pytestmark = pytest.mark.timeout(120)

REPO = "alice/cache"
TRAINER = (sys.executable, "-m", "tests.neuron.trainer", "--graphs", "adam_update,attention_forward")
GUIDE = (
    *("-m", "prajjwal1/bert-tiny", "--task", "text-classification", "--train_batch_size", "16"),
    *("--eval_batch_size", "16", "--sequence_length", "128", "--gradient_accumulation_steps", "32"),
    *("--num_cores", "32", "--precision", "bf16"),
)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    with HubProcess(tmp_path / "hub") as server:
        server.seed_files(REPO, {}, private=True)
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def alice(tmp_path: Path, hub: HubProcess, cache: Path) -> Person:
    variables = standin_env(cache)
    names = ("PYTHONPATH", "PATH", *(name for name in variables if name.startswith("NEURON_")))
    chosen = {name: variables[name] for name in names}
    person = Person(tmp_path / "alice", hub.endpoint, hub.token("alice"), CUSTOM_CACHE_REPO=REPO, **chosen)
    return person


def modules_on(hub: HubProcess, repo: str = REPO) -> set[str]:
    return {path.rpartition("/")[0] for path in hub.read_files(repo) if path.endswith("/model.done")}


def document_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(done.stdout)
    assert (document.pop("schema"), document.pop("command")) == (1, "add")
    assert set(document) == set(add.JSON)
    return document


def test_what_a_command_compiled_is_in_the_repo_without_a_daemon(alice: Person, hub: HubProcess, cache: Path) -> None:
    done = alice.neff("add", "--json", "--", *TRAINER)
    assert done.returncode == exitcodes.OK, done.stderr
    document = document_of(done)
    assert (document["through"], document["cache_dir"], document["lacking"]) == ("own", str(cache), [])
    assert [module["met"] for module in document["modules"]] == ["compiled", "compiled"]
    assert {module["name"] for module in document["modules"]} == modules_on(hub)
    assert '"compiled": true' in done.stderr, "what the command prints does not spoil the document"


def test_a_closed_output_is_no_failure(alice: Person, hub: HubProcess) -> None:
    alice.prefix = ("sh", "-c", '"$@" >&-', "sh")
    done = alice.neff("add", "--json", "--", *TRAINER)
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (exitcodes.OK, "", False), done.stderr
    assert len(modules_on(hub)) == 2


def test_through_the_daemon_whose_token_it_is(alice: Person, make_host: MakeHost, hub: HubProcess, cache: Path) -> None:
    del alice.environ["CUSTOM_CACHE_REPO"]  # then all that the daemon writes
    model = alice.home / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama", "hidden_size": 16}')
    host = make_host("host", overrides={"cache_dirs": [str(cache)], "upload": {"quiet_s": 600, "max_delay_s": 600}})
    with host:
        alice.environ["NEFFD_SOCKET"] = str(host.socket)
        del alice.environ["HF_TOKEN"]  # the daemon has one
        done = alice.neff("add", "--json", "--", "sh", "-c", '"$@"; exit 3', "sh", *TRAINER)
        assert done.returncode == 3, done.stderr
        document = document_of(done)
        assert (document["through"], document["command_exit_code"], document["lacking"]) == ("daemon", 3, [])
        assert document["remotes"] == [{"name": "hub", "url": f"hf://{REPO}"}]
        assert {module["name"] for module in document["modules"]} == modules_on(hub) != set()
        again = alice.neff("add", "--model", str(model), "--sequence-length", "128", "--", *TRAINER)
        assert (again.returncode, again.stdout.count('"compiled": false')) == (exitcodes.OK, 2)
        assert "not recorded" not in again.stderr
        assert again.stderr.splitlines()[-1] == f"neff: hf://{REPO} has all 2 modules"
        killed = alice.neff("add", "--json", "--", "sh", "-c", '"$@"; kill -TERM $$', "sh", *TRAINER)
        assert killed.returncode == 128 + 15, killed.stderr
        assert document_of(killed)["lacking"] is None, "nobody waits for what was interrupted"
        other = alice.neff("add", "--repo_id", "alice/other", "--", "true")
        assert (other.returncode, "alice/other is no remote of the daemon" in other.stderr) == (exitcodes.REFUSED, True)


def test_what_the_remote_lacks_is_named_with_the_reason(
    alice: Person, make_host: MakeHost, hub: HubProcess, cache: Path
) -> None:
    hub.seed_files("alice/public", {})
    host = make_host("host", remote={"url": "hf://alice/public"}, overrides={"cache_dirs": [str(cache)]})
    with host:
        alice.environ |= {"NEFFD_SOCKET": str(host.socket), "CUSTOM_CACHE_REPO": "alice/public"}
        extracted = alice.neff(
            "add", "--json", "--", *TRAINER[:-1], "softmax_cross_entropy", NEURON_EXTRACT_GRAPHS_ONLY="1"
        )
        assert extracted.returncode == exitcodes.INCOMPLETE, extracted.stderr
        (module,) = document_of(extracted)["lacking"]
        assert (module["remote"], module["reason"]) == ("hub", "not-compiled")
        done = alice.neff("add", "--", *TRAINER)
        assert done.returncode == exitcodes.INCOMPLETE
        assert done.stderr.count("is not on hub: not sent: everybody can read that remote (public-repo)") == 2
        assert "say --allow_public" in done.stderr
        nothing = alice.neff("add", "--", "true")
        assert (nothing.returncode, "no graph was met" in nothing.stderr) == (exitcodes.INCOMPLETE, True)
    assert modules_on(hub, "alice/public") == set()


def test_the_guides_refusals(alice: Person, hub: HubProcess, tmp_path: Path) -> None:
    def refused(person: Person, *arguments: str, **environ: str) -> str:
        done = person.neff("add", *arguments, **environ)
        assert (done.returncode, done.stdout) == (exitcodes.REFUSED, ""), done.stderr
        return done.stderr

    command = ("--", "false")
    nobody = Person(
        tmp_path / "nobody", hub.endpoint, NEURON_COMPILE_CACHE_URL=alice.environ["NEURON_COMPILE_CACHE_URL"]
    )
    for form in (command, GUIDE):
        assert "neff set NAME" in refused(nobody, *form)
        assert "hf auth login" in refused(nobody, *form, CUSTOM_CACHE_REPO=REPO)
    reader = {"HF_TOKEN": hub.token("alice", "read")}
    assert f"no write access to {REPO}" in refused(alice, *command, **reader)
    hub.seed_files("alice/public", {})
    assert "everybody can read alice/public" in refused(alice, "--repo-id", "alice/public", *command)
    missing = alice.neff("add", *command, CUSTOM_CACHE_REPO="alice/none")
    assert (missing.returncode, "neff create -n alice/none" in missing.stderr) == (exitcodes.NOT_FOUND, True)


def test_a_model_needs_optimum_neuron_and_devices(alice: Person, tmp_path: Path) -> None:
    python = tmp_path / "python3"
    for version, said in (("exit 1", "has no optimum-neuron"), ("echo 0.4.5", "this host has no Neuron device")):
        python.write_text(f"#!/bin/sh\n{version}\n")
        python.chmod(0o755)
        done = alice.neff("add", *GUIDE, "--python", str(python))
        assert (done.returncode, said in done.stderr) == (exitcodes.REFUSED, True), done.stderr
        assert "mend it: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "also needed: --model, --task, --train_batch_size, --precision, --num_cores"),
        (("--",), "also needed: --model"),
        (
            (*GUIDE, "--decoder-sequence-length", "8"),
            "text-classification needs --sequence_length, and no other length",
        ),
        (
            (*GUIDE, "--task", "translation"),
            "translation needs --encoder_sequence_length and --decoder_sequence_length",
        ),
        ((*GUIDE, "--task", "painting"), "or a command of your own after --"),
        ((*GUIDE, "--num_cores", "33"), "argument --num_cores"),
        ((*GUIDE, "--precision", "fp8"), "argument --precision"),
    ],
)
def test_wrong_use(alice: Person, arguments: tuple[str, ...], said: str) -> None:
    done = alice.neff("add", *arguments)
    assert done.returncode == exitcodes.USAGE
    assert said in done.stderr
