"""What a remote lacks after a run, as a daemon's answers tell it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neff import greeting
from neff.commands.session import CONNECT_S, WAITS
from neff.connection import connect
from neffd.commands import delivery
from neffd.commands.delivery import Lacking
from neffd.commands.serving import Serving
from tests.harness import entries
from tests.unit.client.scripted import Peer, ScriptedDaemon

NAME = str(entries.module(1))
READY = {"here": [{"state": "ready"}]}


def shared(tmp_path: Path) -> Serving:
    """A directory: nobody but the daemon is asked what it holds."""
    return Serving(str(tmp_path / "s"), "shared", "read-write", "file:///mnt/shared")


def lacking(tmp_path: Path, story: dict[str, Any]) -> list[Lacking]:
    def script(peer: Peer) -> None:
        peer.greet(capabilities=["status", "why"])
        request = peer.read()
        assert request["name"] == NAME
        peer.send({"id": request["id"], "why": {"name": NAME, **story}, "done": True})

    remote = shared(tmp_path)
    with ScriptedDaemon(Path(remote.socket), script):
        connection = connect([remote.socket], greeting.of_command(), WAITS, CONNECT_S)
        try:
            return delivery.lacking(connection, [remote], [NAME])
        finally:
            connection.close()


@pytest.mark.parametrize(
    ("story", "reason"),
    [
        ({"remotes": [{"name": "shared", "holds": False, "parked": "too-large"}], **READY}, "too-large"),
        ({"remotes": [{"name": "shared", "waiting_since": 1.0, "trouble": "server-error"}], **READY}, "server-error"),
        ({"remotes": [{"name": "shared", "waiting_since": 1.0}], **READY}, "waiting"),
        ({"remotes": [{"name": "shared", "holds": None}], **READY}, "not-taken"),
        ({"here": [{"state": "failed", "failure": {"reason": "compiler-error"}}]}, "compiler-error"),
        ({"here": [{"state": "failed"}]}, "compile-failed"),
        ({"here": [{"state": "compiling"}]}, "locked"),
        ({"here": [{"state": "pending"}]}, "not-compiled"),
        ({"here": "odd", "remotes": [None, 5]}, "not-compiled"),
        ({}, "not-compiled"),
    ],
)
def test_why_something_is_not_there(tmp_path: Path, story: dict[str, Any], reason: str) -> None:
    assert lacking(tmp_path, story) == [Lacking(NAME, "shared", reason)]


@pytest.mark.parametrize("holder", ["shared", "public"])
def test_what_the_remote_or_another_one_has_is_not_missing(tmp_path: Path, holder: str) -> None:
    remotes = [{"name": "shared", "holds": holder == "shared"}, {"name": "public", "holds": holder == "public"}]
    assert lacking(tmp_path, {"remotes": remotes}) == []


def test_compiles_of_the_run_are_waited_for_and_no_others(tmp_path: Path) -> None:
    rows = [
        [{"name": NAME, "holder": "process"}, {"name": "n/other", "holder": "process"}],
        [{"name": NAME, "holder": "gone"}],
        [{"name": NAME, "holder": "unknown"}, {"name": "n/other", "holder": "process"}],
    ]
    seen: list[int] = []

    def script(peer: Peer) -> None:
        peer.greet(capabilities=["status", "why"])
        for compiling in rows:
            peer.send({"id": peer.read()["id"], "status": {"compiling": compiling}, "done": True})

    with ScriptedDaemon(tmp_path / "s", script):
        connection = connect([str(tmp_path / "s")], greeting.of_command(), WAITS, CONNECT_S)
        delivery.wait_for_compiles(connection, [NAME], seen.append, look_s=0)
        connection.close()
    assert seen == [1], "told when it changes"


def test_names_are_told_once_and_only_where_they_are_names() -> None:
    modules = [{"name": NAME}, {"name": "../../etc"}, {"name": NAME}, {}, {"name": str(entries.module(2))}]
    assert delivery.names_in(modules) == [NAME, str(entries.module(2))]


@pytest.mark.parametrize(
    ("url", "repo"),
    [("hf://org/name", "org/name"), ("hf://buckets/org/name", None), ("file:///mnt/x", None), ("hf://name", "name")],
)
def test_which_remotes_are_repos(url: str, repo: str | None) -> None:
    assert delivery.repo_of(Serving("s", "r", "read-write", url)) == repo
