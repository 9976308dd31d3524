"""`neff why`: what a person reads, whatever the daemon sends, and that every reason has its words."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neff import cli, exitcodes
from neff.commands.reasons import SENTENCES, explained
from neff.commands.why import describe
from tests.unit.client.scripted import HELLO, Peer, ScriptedDaemon

NAME = "neuronxcc-2.20.9961.0+0acef03a/MODULE_1+e30acd3a"
OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"
CAPABILITIES = [*HELLO["hello"]["capabilities"], "why"]


def lines(**story: Any) -> list[str]:
    return list(describe({"name": NAME, "known": True, **story}))[1:]


def test_an_entry_that_failed() -> None:
    failure = {"reason": "killed", "text": "Killed", "kept": "retries-used-up", "retried": 3, "hint": "rm /c/model.log"}
    here = [{"root": "/c", "state": "failed", "failure": failure}]
    assert lines(here=here) == [
        "  in /c: failed",
        "    failed: the compiler was killed (killed)",
        "    its log: Killed",
        "    not tried again: it was tried again often enough (failures.max_retries) (retries-used-up)",
        "    to have it compiled again: rm /c/model.log",
        "    its failures were set aside 3 times",
    ]


def test_the_command_that_has_it_compiled_again_is_shown_whole() -> None:
    failure = {"reason": "killed", "kept": "retries-used-up", "hint": f"rm /{'c' * 300}/model.log"}
    assert lines(here=[{"root": "/c", "state": "failed", "failure": failure}])[-1].endswith(failure["hint"])


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ({"state": "absent"}, "not there"),
        ({"state": "ready", "origin": "local", "compile_s": 90}, "ready, compiled here, 1 min of compiling"),
        ({"state": "ready", "origin": "remote:team", "compile_s": None}, "ready, fetched from team"),
        ({"state": "ready", "origin": "existing"}, "ready, there before neffd"),
        ({"state": "new-state"}, "new-state"),
    ],
)
def test_how_it_stands_here(part: dict[str, Any], line: str) -> None:
    assert lines(here=[{"root": "/c", **part}]) == [f"  in /c: {line}"]


@pytest.mark.parametrize(
    ("remote", "line"),
    [
        ({"holds": True}, "has it"),
        ({"holds": False, "waiting_since": None, "parked": "public-repo"}, "does not have it; parked: "),
        (
            {"holds": None, "trouble": "timeout"},
            "nobody knows whether it has it; not available: no answer in time (timeout)",
        ),
        ({"holds": False, "waiting_since": 1e9}, "does not have it; waits for upload since 2001-09-0"),
    ],
)
def test_what_remotes_have(remote: dict[str, Any], line: str) -> None:
    (shown,) = lines(remotes=[{"name": "team", **remote}])
    assert shown.startswith(f"  remote team: {line}")


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            {"what": "asked", "pids": [1, 2], "uid": 1000, "times": 2, "job": {"RANK": "0"}, "answer": "absent",
             "reason": "not-on-remotes"},
            "asked by pid 1, 2 of uid 1000 (RANK=0): no remote had it (not-on-remotes)",
        ),
        (
            {"what": "asked", "pids": [1], "uid": 0, "times": 64, "answer": "ready", "source": "team"},
            "asked by pid 1 of uid 0 and others, 64 times: fetched from team",
        ),
        ({"what": "compiled", "pid": 7, "uid": 0, "seconds": 61}, "compiled by pid 7 of uid 0 in 1 min"),
        ({"what": "taken", "remotes": ["a", "b"]}, "taken for upload to a, b"),
        ({"what": "delivered", "remote": "a", "outcome": "stored"}, "remote a: has it now (stored)"),
        (
            {"what": "failure-set-aside", "reason": "killed", "text": "Killed", "kept_at": "/s/1.log"},
            "failed: the compiler was killed (killed): Killed; set aside for another try, kept at /s/1.log",
        ),
        (
            {"what": "failure-kept", "reason": "compiler-exit", "why": "diagnosed"},
            "failed: the compiler ended with an error (compiler-exit); "
            "stays: another try would end the same way (diagnosed)",
        ),
        (
            {"what": "fetched-while-pending", "source": "team"},
            "extracted, and fetched from team before anybody asked",
        ),
        ({"what": "prefetched", "source": "team"}, "fetched from team before anybody asked, for a run"),
        (
            {"what": "lock-removed", "why": "its maker, process 7, is gone"},
            "its lock was removed: its maker, process 7, is gone",
        ),
        ({"what": "of a newer daemon"}, "of a newer daemon"),
    ],
)  # fmt: skip
def test_what_happened(event: dict[str, Any], line: str) -> None:
    assert lines(events=[{**event, "at": None}]) == ["\nwhat happened:", f"  ?  {line}"]


def test_what_comes_nearest() -> None:
    other_flags = [
        {"name": "a", "only_asked": ["--x", "--y"], "only_other": ["--z"]},
        {"name": "b", "only_asked": [], "only_other": [], "other_order": True},
        {"name": "c", "flags": []},
        {"name": "d"},
    ]
    assert lines(nearest={"other_flags": other_flags, "other_compilers": ["neuronxcc-2"]}) == [
        "\nthe same graph with other flags:",
        "  a",
        "    asked for, and not there: --x --y",
        "    there, and not asked for: --z",
        "  b",
        "    the same flags in another order",
        "  c",
        "    its flags: none",
        "  d",
        "    its flags are not known on this host",
        "\nthe same key under other compilers:",
        "  neuronxcc-2",
    ]


_KEYS = ["name", "here", "remotes", "events", "nearest", "failure", "other_flags", "other_compilers", "at", "what"]
_KEYS += ["pids", "job", "flags", "only_asked", "origin", "compile_s", "waiting_since", "holds", "retried", "root"]
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["asked"])
_ANYTHING = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(_KEYS), _ANYTHING, max_size=6))
def test_whatever_comes_is_shown_in_printable_lines(story: dict[str, Any]) -> None:
    assert all(line.lstrip("\n").isprintable() for line in describe(story))


@pytest.mark.parametrize(
    ("story", "code", "out", "error"),
    [
        ({"name": NAME, "known": True}, exitcodes.OK, NAME, ""),
        ({"name": NAME, "known": False}, exitcodes.NOT_FOUND, "this host has never heard of it", ""),
        ({"known": False, "matches": []}, exitcodes.NOT_FOUND, "", "this host has never heard of MODULE_1"),
        ({"known": False, "matches": ["a", "b"]}, exitcodes.FAILED, "a\nb\n", "the beginning of more than one"),
        ({"known": False, "matches": ["a", "b"], "more": 7}, exitcodes.FAILED, "a\nb\n", "and 7 more"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_exit_codes(
    socket_path: Path,
    capsys: pytest.CaptureFixture[str],
    story: dict[str, Any],
    code: int,
    out: str,
    error: str,
    as_json: bool,
) -> None:
    def script(peer: Peer) -> None:
        peer.greet(capabilities=CAPABILITIES)
        question = peer.read()
        assert (question["op"], question["name"]) == ("why", "MODULE_1")
        peer.send({"id": question["id"], "why": story, "done": True})

    with ScriptedDaemon(socket_path, script) as daemon:
        arguments = ["--json"] if as_json else []
        assert cli.main(["--socket", daemon.path, "why", *arguments, "MODULE_1"]) == code
    shown = capsys.readouterr()
    if as_json:
        assert json.loads(shown.out) == {"schema": 1, "command": "why", **story}
    else:
        assert out in shown.out
        assert error in shown.err


def test_an_older_daemon_does_not_know_the_question(socket_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def script(peer: Peer) -> None:
        peer.greet()

    with ScriptedDaemon(socket_path, script) as daemon:
        assert cli.main(["--socket", daemon.path, "why", "MODULE_1"]) == exitcodes.FAILED
    assert "does not offer 'why'" in capsys.readouterr().err


def _codes(section: str) -> set[str]:
    """The reason codes of one section of the guide."""
    text = OPERATIONS.read_text().partition(f"\n### {section}\n")[2].partition("\n### ")[0]
    codes = set(re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE))
    return codes - {"closed", "open", "half-open"}  # the states of a breaker


@pytest.mark.parametrize(
    "section",
    [
        "Why a trainer's question was answered `absent`",
        "A failed compile",
        "Why an entry is not shared, or waits",
        "Why a remote is unavailable",
    ],
)
def test_every_reason_that_a_story_can_hold_has_its_sentence(section: str) -> None:
    codes = _codes(section)
    assert codes
    assert codes - set(SENTENCES) == set()


def test_a_code_of_a_newer_daemon_stands_for_itself() -> None:
    assert explained("new-code") == "new-code"
    assert explained("killed") == "the compiler was killed (killed)"
