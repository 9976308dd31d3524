"""`neff.session`: what the daemon is told, what children inherit, and that nothing of it can hurt a trainer."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import neff
from neff.installation import INSTALLATION
from neff.keys import ModuleName
from neff.notices import Notices
from neff.protocol import Message
from neff.runs import marker
from neff.runs import session as sessions
from neff.runs.canonical import digest
from tests.unit.client.scripted import Peer, ScriptedDaemon, serving

CONFIG = {"model_type": "llama", "hidden_size": 16}
KNOWS = ["resolve", "prefetch", "used", "run-ended", "plan"]
RUN_VARIABLES = ("NEFF_RUN", "RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "SLURM_STEP_ID")
SUMMARY = {"modules": 2, "local": 1, "fetched": 1, "compiled": 0, "saved_s": 90.5, "names": []}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in (*RUN_VARIABLES, "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NEURON_COMPILE_CACHE_URL", str(tmp_path))
    monkeypatch.setenv("NEFFD_SOCKET", str(tmp_path / "none"))
    monkeypatch.setattr(sessions, "_NOTICES", Notices())
    yield
    neff.uninstall()


def _session(**changes: Any) -> sessions.Session:
    return neff.session(**{"config": CONFIG, "packages": {}, "batch_size": 1, **changes})


def _ops(seen: list[Message]) -> list[str]:
    """What came, sorted: each connection is read by a thread of its own."""
    return sorted(message.get("op", "hello") for message in seen)


def test_what_the_daemon_is_told(socket_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Message] = []
    with ScriptedDaemon(socket_path, serving(seen, {"run-ended": [{"run": SUMMARY}]}, capabilities=KNOWS)) as daemon:
        monkeypatch.setenv("NEFFD_SOCKET", daemon.path)
        with _session(tensor_parallel_size=8, dtype="bf16", model="org/name") as run:
            told = json.loads(os.environ["NEFF_RUN"])
            assert run.key == neff.run_key(
                config=CONFIG, packages={}, batch_size=1, tensor_parallel_size=8, dtype="bf16"
            )
    assert _ops(seen) == ["hello", "hello", "prefetch", "run-ended"]
    assert all(message["run"] == told for message in seen if message.get("op") != "run-ended")
    assert [message["wait"] for message in seen if "wait" in message] == [False]
    assert (told["key"], told["private"]) == (run.key, False)
    assert told["ingredients"] == run.ingredients
    assert {message["root"] for message in seen if "root" in message} == {str(tmp_path)}
    assert run.summary == SUMMARY
    assert "NEFF_RUN" not in os.environ


@pytest.mark.parametrize(
    ("hello", "asked"),
    [
        ({"capabilities": ["resolve", "prefetch"]}, ["hello", "hello"]),
        ({"capabilities": [*KNOWS[:4]]}, ["hello", "hello", "run-ended"]),
        ({"capabilities": []}, ["hello", "hello"]),
    ],
)
def test_a_daemon_is_asked_for_what_it_offers(
    socket_path: Path, monkeypatch: pytest.MonkeyPatch, hello: Message, asked: list[str]
) -> None:
    seen: list[Message] = []
    with ScriptedDaemon(socket_path, serving(seen, {}, **hello)) as daemon:
        monkeypatch.setenv("NEFFD_SOCKET", daemon.path)
        with _session() as run:
            assert run.key is not None
    assert (_ops(seen), run.summary) == (asked, None)


def test_without_prefetch_nothing_is_brought(socket_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Message] = []
    with ScriptedDaemon(socket_path, serving(seen, {}, capabilities=KNOWS)) as daemon:
        monkeypatch.setenv("NEFFD_SOCKET", daemon.path)
        with _session(prefetch=False, private=True):
            assert json.loads(os.environ["NEFF_RUN"])["private"] is True
    assert _ops(seen) == ["hello", "hello", "run-ended"]


def test_a_restarted_daemon_hears_of_the_end(socket_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Message] = []

    def first(peer: Peer) -> None:
        seen.append(peer.greet(capabilities=KNOWS))

    with ScriptedDaemon(socket_path, first, serving(seen, {}, capabilities=KNOWS)) as daemon:
        monkeypatch.setenv("NEFFD_SOCKET", daemon.path)
        with _session(prefetch=False):
            pass
    assert _ops(seen) == ["hello", "hello", "run-ended"]
    assert len({message["run"]["instance"] for message in seen if "run" in message}) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"config": None, "model": "org/nowhere"},
        {"batch_size": "many"},
        {"config": None},
        {"dtype": object()},
        {"no_such_thing!": 1},
    ],
)
def test_a_session_without_a_key_is_said_once(wrong: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "neff"):
        for _ in range(2):
            with _session(**wrong) as run:
                assert (run.key, run.ingredients) == (None, None)
                assert "NEFF_RUN" not in os.environ
    assert len(caplog.records) == 1
    assert "this run is not recorded under a key: " in caplog.text


def test_the_bodys_own_error_passes_and_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEFF_RUN", "what was there")

    def body() -> None:
        with _session():
            assert marker.of_environment() is not None
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()
    assert os.environ["NEFF_RUN"] == "what was there"


def test_disabled_it_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEFF_DISABLE", "1")
    with _session() as run:
        assert run.key is None
        assert "NEFF_RUN" not in os.environ


def test_runs_inside_runs(socket_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Message] = []
    with ScriptedDaemon(socket_path, serving(seen, {}, capabilities=KNOWS)) as daemon:
        monkeypatch.setenv("NEFFD_SOCKET", daemon.path)
        with _session() as outer:
            of_outer = os.environ["NEFF_RUN"]
            with _session() as same:
                assert (same.key, os.environ["NEFF_RUN"]) == (outer.key, of_outer)
            with _session(batch_size=2) as inner:
                of_inner = json.loads(os.environ["NEFF_RUN"])
                assert of_inner["key"] == inner.key != outer.key
            assert os.environ["NEFF_RUN"] == of_outer
    assert _ops(seen) == ["hello"] * 4 + ["prefetch"] * 2 + ["run-ended"] * 2
    assert of_inner["instance"].startswith(json.loads(of_outer)["instance"] + ":")


def test_sessions_of_threads_end_in_any_order() -> None:
    entered, left = threading.Event(), threading.Event()

    def first() -> None:
        with _session(batch_size=1):
            entered.set()
            assert left.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(10)
    session = _session(batch_size=2)
    session.__enter__()
    left.set()
    thread.join(10)
    assert json.loads(os.environ["NEFF_RUN"])["key"] == session.key
    session.__exit__(None, None, None)
    assert "NEFF_RUN" not in os.environ


def test_a_forked_child_does_not_end_the_run(socket_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Message] = []
    with ScriptedDaemon(socket_path, serving(seen, {}, capabilities=KNOWS)) as daemon:
        monkeypatch.setenv("NEFFD_SOCKET", daemon.path)
        with _session(prefetch=False):
            child = os.fork()
            if child == 0:
                sessions._OPEN.leave("")
                os._exit(0 if marker.of_environment() is not None else 1)
            assert os.waitpid(child, 0)[1] == 0
            session = _session(prefetch=False, batch_size=3)
            session.__enter__()
            child = os.fork()
            if child == 0:
                session.__exit__(None, None, None)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert _ops(seen).count("run-ended") == 0
            session.__exit__(None, None, None)
    assert _ops(seen) == ["hello"] * 4 + ["run-ended"] * 2


@pytest.mark.parametrize(("rank", "speaks"), [("0", True), ("3", False)])
def test_the_first_rank_of_a_host_speaks_for_it(
    socket_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str, speaks: bool
) -> None:
    seen: list[Message] = []
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "8")
    with ScriptedDaemon(socket_path, serving(seen, {}, capabilities=KNOWS)) as daemon:
        monkeypatch.setenv("NEFFD_SOCKET", daemon.path)
        with _session():
            assert json.loads(os.environ["NEFF_RUN"])["instance"].startswith(f"process:{os.getppid()}.")
    assert _ops(seen) == (["hello", "hello", "prefetch", "run-ended"] if speaks else [])


@pytest.mark.parametrize(
    ("environ", "instance"),
    [
        ({"TORCHELASTIC_RUN_ID": "j1", "MASTER_ADDR": "h", "MASTER_PORT": "29500"}, "torchrun:j1:h:29500:"),
        ({"TORCHELASTIC_RUN_ID": "x" * 500}, "torchrun:xxx"),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, "slurm:7:0:"),
    ],
)
def test_what_a_start_is_called_is_the_same_on_all_hosts(environ: dict[str, str], instance: str) -> None:
    key = "RUN_" + "0123456789abcdef" * 2
    one, other = marker.new_instance(key, environ), marker.new_instance(key, dict(environ))
    assert one == other
    assert one.startswith(instance)
    assert one.endswith(":456789abcdef")
    assert len(one) <= 200
    assert marker.new_instance(key, {}) != marker.new_instance(key, {})


def test_a_large_configuration_is_not_told() -> None:
    key = "RUN_" + "0" * 32
    ingredients = {"version": 1, "model": {"id": "org/name", "type": "llama", "config": {"x": "y" * 20_000}}}
    told = marker.bounded(marker.Run(key, "i", ingredients, False))
    assert told.ingredients is not None
    assert told.ingredients["model"] == {
        "id": "org/name",
        "type": "llama",
        "config_digest": digest({"x": "y" * 20_000}),
    }
    other = {**ingredients, "model": {"id": "org/name", "type": "llama", "config": {"x": "z" * 20_000}}}
    other_told = marker.bounded(marker.Run(key, "i", other, False)).ingredients or {}
    assert other_told["model"]["config_digest"] != told.ingredients["model"]["config_digest"]
    told = marker.bounded(marker.Run(key, "i", {"model": {}, "flags": ["x" * 20_000]}, False))
    assert told.ingredients is None
    assert marker.of_environment({"NEFF_RUN": marker.to_text(told)}) == told


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"key": 1}',
        '{"key": "RUN_x"}',
        '{"key": "RUN_00000000000000000000000000000000", "instance": 3}',
        "[" * 15_000,
        "x" * 20_000,
    ],
)
def test_a_malformed_variable_is_none(text: str, tmp_path: Path) -> None:
    from neff import greeting

    assert marker.of_environment({"NEFF_RUN": text}) is None
    assert "run" not in greeting.of_trainer(str(tmp_path), (None, None), {"NEFF_RUN": text})


def test_another_run_is_another_connection(socket_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neff.asking import Asker

    seen: list[Message] = []
    name = ModuleName("neuronxcc-2.20.9961.0+0acef03a", "MODULE_1+e30acd3a")
    with ScriptedDaemon(socket_path, serving(seen, {}, capabilities=["resolve"])) as daemon:
        asker = Asker(daemon.path)
        for number in range(3):
            if number:
                monkeypatch.setenv("NEFF_RUN", marker.to_text(marker.Run("RUN_" + "0" * 32, "i", None, True)))
            asker.is_ready(str(tmp_path), name._replace(key=f"MODULE_{number}+e30acd3a"), holding=False)
        asker.close()
    assert [message.get("run", {}).get("instance", "none") for message in seen if "root" in message] == ["none", "i"]


def test_a_hung_daemon_costs_a_session_its_greeting_alone(socket_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neff.runs.launcher import Launcher
    from tests.unit.client.recording import RecordedWaits

    waits = RecordedWaits()
    run = marker.Run("RUN_" + "0" * 32, "i", None, True)
    with ScriptedDaemon(socket_path, Peer.hang) as daemon:
        launcher = Launcher(run, daemon.path, os.environ, waits)
        launcher.begin(prefetch=True)
        assert waits.limits_s == [0.25]
        assert launcher.end() is None
        assert waits.limits_s == [0.25, 0.25]


def test_a_run_whose_cache_is_no_directory_has_nothing_brought(socket_path: Path) -> None:
    from neff.runs.launcher import Launcher

    seen: list[Message] = []
    run = marker.Run("RUN_" + "0" * 32, "i", None, True)
    with ScriptedDaemon(socket_path, serving(seen, {}, capabilities=KNOWS)) as daemon:
        for url in ("s3://bucket/cache", "/cache"):
            launcher = Launcher(run, daemon.path, {"NEURON_COMPILE_CACHE_URL": url})
            launcher.begin(prefetch=True)
            launcher.end()
    # Who only prefetches hangs up at once, and may be heard later.
    asked = Counter(message.get("op", message.get("root")) for message in seen)
    assert asked == {None: 2, "/cache": 2, "prefetch": 1, "run-ended": 2}


def test_a_hung_end_is_not_waited_for_long(socket_path: Path) -> None:
    from neff.runs.launcher import Launcher
    from tests.unit.client.recording import RecordedWaits

    def script(peer: Peer) -> None:
        peer.greet(capabilities=KNOWS)
        peer.hang()

    waits = RecordedWaits(real=2)
    with ScriptedDaemon(socket_path, script) as daemon:
        launcher = Launcher(marker.Run("RUN_" + "0" * 32, "i", None, True), daemon.path, os.environ, waits)
        launcher.begin(prefetch=True)
        assert launcher.end() is None
    assert waits.limits_s == [0.25, 0.25, 1.0]


def test_children_inherit_the_run(tmp_path: Path) -> None:
    with _session() as run:
        words = [sys.executable, "-c", "import os; print(os.environ['NEFF_RUN'])"]
        inherited = subprocess.run(words, capture_output=True, check=True).stdout
    assert json.loads(inherited)["key"] == run.key


def test_what_was_found_belongs_to_the_run_in_which_it_was_found(
    socket_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Message] = []
    name = ModuleName("neuronxcc-2.20.9961.0+0acef03a", "MODULE_1+e30acd3a")
    with ScriptedDaemon(socket_path, serving(seen, {}, capabilities=KNOWS)) as daemon:
        monkeypatch.setenv("NEFFD_SOCKET", daemon.path)
        for batch_size in (1, 2):
            with _session(batch_size=batch_size, prefetch=False):
                hook = INSTALLATION._hook
                assert hook is not None
                assert hook.used is not None
                hook.used.found(str(tmp_path), name)
    reports = [index for index, message in enumerate(seen) if message.get("op") == "used"]
    assert len(reports) == 2
    assert len({message["run"]["key"] for message in seen if "root" in message}) == 2
