"""`neff plan`, and `neff prefetch` of what a run needs: what is asked, what is said, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import neff
from neff import cli, exitcodes
from neff.protocol import Message
from tests.unit.client.scripted import ScriptedDaemon, serving

CONFIG = {"model_type": "llama", "hidden_size": 16}
KEY = "RUN_" + "0" * 32
KNOWS = ["prefetch", "plan"]
NAME = "neuronxcc-2.20.9961.0+0acef03a/MODULE_1+e30acd3a"
PLAN: Message = {
    "state": "fetchable",
    "modules": 6,
    "local": 2,
    "remote": 4,
    "missing": 0,
    "remote_bytes": 34_000_000,
    "fetch_s": 11.6,
    "compile_s": 0.0,
    "sure": "same-key",
    "differs": [],
    "from": ["a", "b", "c", "d", "e", "f", "g"],
    "names": [NAME],
}


@pytest.fixture(autouse=True)
def _no_neuron(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NEURON_RT_NUM_CORES", "NEURON_LOGICAL_NC_CONFIG", "NEURON_PLATFORM_TARGET_OVERRIDE", "NEFF_RUN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return str(tmp_path)


def _neff(
    socket_path: Path, answers: dict[str, list[Message]], *arguments: str, **hello: Any
) -> tuple[int, list[Message]]:
    seen: list[Message] = []
    with ScriptedDaemon(socket_path, serving(seen, answers, **{"capabilities": KNOWS, **hello})) as daemon:
        code = cli.main(["--socket", daemon.path, *arguments])
    return code, [message for message in seen if "op" in message]


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"state": "warm", "remote": 0}, 0, ["warm: all 6 graphs are in the cache directory"]),
        ({"state": "warm", "modules": 1}, 0, ["warm: the one graph is in the cache directory"]),
        (
            {"state": "warm", "sure": "same-model", "unsaid": ["shapes.batch_size", "dtype", 7]},
            0,
            ["differs in nothing told\n  not said here: batch_size, dtype\n"],
        ),
        (
            {},
            2,
            ["fetchable in about 12 s: 4 of 6 graphs, 34.0 MB", "with this very key", "from: a, b, c, d, e and 2 more"],
        ),
        ({"remote_bytes": None, "fetch_s": None}, 2, ["fetchable in about ?: 4 of 6 graphs\n"]),
        (
            {
                "state": "will-compile",
                "missing": 3,
                "compile_s": 540,
                "sure": "same-model",
                "differs": ["shapes.batch_size"],
            },
            3,
            ["will compile about 3 graphs, about 9 min by recorded compile times", "differs in shapes.batch_size"],
        ),
        ({"state": "will-compile", "missing": 1, "compile_s": None}, 3, ["will compile about 1 graph, about ? by"]),
        ({"state": "unknown", "sure": "none", "from": []}, 8, ["nobody can tell: no run like it was recorded"]),
        ({"from": ["\x1b[2J", 7], "modules": "x", "remote": -1, "fetch_s": "soon"}, 2, ["from: ?[2J", "0 of 0 graphs"]),
    ],
)
def test_answers(
    socket_path: Path, capsys: pytest.CaptureFixture[str], changes: Message, code: int, said: list[str]
) -> None:
    assert _neff(socket_path, {"plan": [{"plan": {**PLAN, **changes}}]}, "plan", "--run", KEY)[0] == code
    output = capsys.readouterr()
    assert output.err == ""
    assert all(part in output.out for part in said)
    assert f"run key: {KEY}" in output.out


def test_it_is_asked_about_the_cache_directory_of_this_shell(
    socket_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_CC_FLAGS", f"--cache_dir={tmp_path}")
    seen: list[Message] = []
    with ScriptedDaemon(socket_path, serving(seen, {"plan": [{"plan": PLAN}]}, capabilities=KNOWS)) as daemon:
        assert cli.main(["--socket", daemon.path, "plan", "--run", KEY]) == exitcodes.FETCHABLE
    assert (seen[0]["root"], seen[0]["inode"]) == (str(tmp_path), tmp_path.stat().st_ino)


@pytest.mark.parametrize(
    ("words", "missing"),
    [([], "compiler and target"), (["--compiler", "2.20"], "target"), (["--compiler", "2.20", "--target", "trn2"], "")],
)
def test_a_plan_that_is_unknown_says_what_is_not_known_in_this_shell(
    socket_path: Path, model: str, capsys: pytest.CaptureFixture[str], words: list[str], missing: str
) -> None:
    unknown = {**PLAN, "state": "unknown"}
    assert _neff(socket_path, {"plan": [{"plan": unknown}]}, "plan", "--model", model, *words)[0] == 8
    output = capsys.readouterr().out
    assert (f"  not known here: {missing}; ask where the job runs" in output) == bool(missing)
    assert ("not known here" in output) == bool(missing)


def test_the_same_run_as_a_session(socket_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--batch-size", "1,4", "--sequence_length", "128", "--tensor-parallel-size", "8", "--dtype", "bf16"]
    words += ["--size", "expert_parallel_size=2", "--size", "bucket=64,128", "--num-cores", "2", "--flags=--lnc=2 -O1"]
    words += ["--target", "trn2", "--compiler", "2.20", "--task", "text-generation"]
    code, asked = _neff(socket_path, {"plan": [{"plan": PLAN}]}, "plan", "--json", "--model", model, *words)
    assert code == exitcodes.FETCHABLE
    expected = neff.run_key(
        config=CONFIG,
        batch_size=[1, 4],
        sequence_length=128,
        tensor_parallel_size=8,
        expert_parallel_size=2,
        bucket=[64, 128],
        dtype="bfloat16",
        num_cores=2,
        flags=["--optlevel=1", "--lnc", "2"],
        target="trn2",
        compiler="neuronxcc-2.20",
        task="text-generation",
    )
    (request,) = asked
    assert (request["op"], request["run"]["key"], request["run"]["private"]) == ("plan", expected, True)
    assert request["run"]["ingredients"]["shapes"] == {
        "batch_size": [1, 4],
        "bucket": [64, 128],
        "sequence_length": 128,
    }
    shown = json.loads(capsys.readouterr().out)
    assert (shown["command"], shown["run"], shown["plan"]) == ("plan", request["run"], PLAN)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--batch_size", "0"],
        ["--batch_size", "1,x"],
        ["--run", "RUN_1"],
        ["--size", "x"],
        ["--bogus"],
        ["--size", "X=1"],
    ],
)
def test_wrong_use_has_a_code_of_its_own(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main(["plan", *arguments])
    except SystemExit as end:
        code = end.code  # type: ignore[assignment]
    assert code == exitcodes.PLAN_USAGE
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("command", ["plan", "prefetch"])
def test_a_model_that_is_not_here(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--model", "org/nowhere"]) == exitcodes.FAILED
    assert "`hf download org/nowhere config.json` brings it" in capsys.readouterr().err


def test_a_daemon_of_another_version(socket_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("plan", "prefetch"):
        assert _neff(socket_path, {}, command, "--run", KEY, capabilities=["prefetch"])[0] == exitcodes.FAILED
        assert "another version?" in capsys.readouterr().err


@pytest.mark.parametrize("answers", [[], [{"plan": 3}], [{"plan": {"state": "odd"}}]])
def test_no_plan_is_no_answer(socket_path: Path, answers: list[Message], capsys: pytest.CaptureFixture[str]) -> None:
    assert _neff(socket_path, {"plan": answers}, "plan", "--run", KEY)[0] == exitcodes.UNREACHABLE
    assert "sent no plan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "request_fields"),
    [
        (["--run", KEY], {"run": {"key": KEY, "instance": None, "ingredients": None, "private": True}}),
        (["--compiler", "2.20.9961.0"], {"compiler": "2.20.9961.0"}),
        (["--compiler", "2.20.9961.0", "--max-bytes", "5"], {"compiler": "2.20.9961.0", "max_bytes": 5}),
    ],
)
def test_prefetch_of_a_run_or_compiler(
    socket_path: Path, arguments: list[str], request_fields: Message, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"plan": {"modules": 2, "sure": "same-key", "from": []}}
    code, asked = _neff(socket_path, {"prefetch": [told]}, "prefetch", *arguments)
    assert code == exitcodes.OK
    assert [{name: value for name, value in request.items() if name not in ("id", "op")} for request in asked] == [
        {**request_fields, "wait": False}
    ]
    assert "2 modules: those that are not here are being brought" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("states", "away", "code", "said"),
    [
        (["ready"], [], exitcodes.OK, f"ready     {NAME} from team\n"),
        (
            ["ready"],
            ["hub"],
            exitcodes.OK,
            f"ready     {NAME} from team\n  could not be asked, or not to the end: hub\n",
        ),
        (["absent"], ["hub"], exitcodes.NOT_FOUND, f"absent    {NAME}: not-on-remotes\n  could not be asked"),
        ([], [], exitcodes.NOT_FOUND, "nothing is known to be brought\n"),
        (
            [],
            ["hub"],
            exitcodes.FAILED,
            "nothing is known to be brought\n  could not be asked, or not to the end: hub\n",
        ),
    ],
)
def test_prefetch_waits_for_what_a_run_needs(
    socket_path: Path,
    model: str,
    states: list[str],
    away: list[str],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    facts = {"name": NAME, "source": "team", "reason": "not-on-remotes"}
    plan = {"modules": len(states), "away": away}
    answers: list[Message] = [{"plan": plan}, *({**facts, "state": state} for state in states)]
    given, asked = _neff(socket_path, {"prefetch": answers}, "prefetch", "--wait", "--model", model)
    assert (given, asked[0]["wait"], asked[0]["run"]["ingredients"]["model"]["type"]) == (code, True, "llama")
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--run", KEY, "MODULE_1+e30acd3a"], ["--run", KEY, "--model", "m"]])
def test_prefetch_wants_to_be_told_one_thing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prefetch", *arguments]) == exitcodes.USAGE
    assert "neff prefetch: error: what?" in capsys.readouterr().err


def test_shells_complete_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "bash"]) == exitcodes.OK
    assert "--tensor_parallel_size" in capsys.readouterr().out
