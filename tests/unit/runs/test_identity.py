"""Which run a process belongs to, by what it says or by what can be seen of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neffd.runs.identity import (
    MAX_RUN_BYTES,
    UNKNOWN_UID,
    Identity,
    ancestors,
    identify,
    of_message,
    split_name,
)

KEY = "RUN_" + "0123456789abcdef" * 2
TOLD: dict[str, Any] = {"key": KEY, "instance": "one", "ingredients": {"version": 1, "cores": 8}, "private": False}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "abc", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29400", "WORLD_SIZE": "64"}


@pytest.fixture
def process() -> Iterator[int]:
    """Some process in a group of its own."""
    script = "import sys; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, "train.py", "--lr=1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True) as started:
        assert started.stdout is not None
        started.stdout.readline()  # before, its command may not be seen yet
        yield started.pid
        started.communicate()


def test_what_is_said_counts() -> None:
    expected = Identity("one", KEY, TOLD["ingredients"], False, uid=1000)
    assert identify({"root": "/cache", "run": TOLD}, os.getpid(), 1000) == expected


def test_two_users_never_name_the_same_run() -> None:
    """Whatever they say; what says nothing of itself is somebody's too."""
    for hello in ({"root": "/cache", "run": TOLD}, {"root": "/cache", "job": TORCHRUN}, {"root": "/cache"}):
        ours, theirs = identify(hello, os.getpid(), 1000), identify(hello, os.getpid(), 1001)
        assert ours is not None
        assert theirs is not None
        assert ours.instance == theirs.instance
        assert ours.name != theirs.name


@given(st.integers(-1, 2**32 - 1), st.text(max_size=200), st.integers(-1, 2**32 - 1), st.text(max_size=200))
def test_names_tell_user_and_instance(uid: int, instance: str, other_uid: int, other: str) -> None:
    name = Identity(instance, uid=uid).name
    assert split_name(name) == (uid, instance)
    assert (name == Identity(other, uid=other_uid).name) == ((uid, instance) == (other_uid, other))


@pytest.mark.parametrize("name", ["one", "torchrun:abc:10.0.0.1:29400", "group:12.34", "", ":", "1_0:x", "\u0663:x"])
def test_names_from_before_they_had_users_are_nobodys(name: str) -> None:
    assert split_name(name) == (UNKNOWN_UID, name)


def test_ancestors_end_where_nothing_can_be_seen(process: int) -> None:
    found = list(ancestors(process))
    assert found[:2] == [os.getpid(), os.getppid()]
    assert list(ancestors(0)) == []
    assert list(ancestors(2**22 + 1)) == []


def test_a_launcher_without_a_cache_directory_belongs_to_the_run_it_names() -> None:
    identity = identify({"root": None, "run": TOLD}, os.getpid(), 0)
    assert identity is not None
    assert identity.run_key == KEY
    assert identify({"root": None}, os.getpid(), 0) is None


def test_a_run_without_an_instance_has_that_of_its_launcher() -> None:
    identity = identify({"root": "/cache", "run": {**TOLD, "instance": None}, "job": TORCHRUN}, os.getpid(), 0)
    assert identity is not None
    assert identity.instance == "torchrun:abc:10.0.0.1:29400"


def test_launchers_name_their_jobs_the_same_on_every_host() -> None:
    slurm = {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3"}
    for job, instance in ((TORCHRUN, "torchrun:abc:10.0.0.1:29400"), (slurm, "slurm:77:0")):
        identity = identify({"root": "/cache", "job": job}, 0, 0)
        assert identity is not None
        assert identity.instance == instance


def test_ranks_of_a_launcher_without_a_name_are_told_by_their_parent() -> None:
    job = {**TORCHRUN, "TORCHELASTIC_RUN_ID": "none"}
    identity = identify({"root": "/cache", "job": job}, os.getpid(), 0)
    assert identity is not None
    assert identity.instance.startswith(f"launcher:10.0.0.1:29400:{os.getppid()}.")


def test_else_it_is_the_command_of_a_shell(process: int) -> None:
    first, again = identify({"root": "/cache"}, process, 0), identify({"root": "/cache"}, process, 0)
    ours = identify({"root": "/cache"}, os.getpid(), 0)
    assert first is not None
    assert ours is not None
    assert first == again
    assert first.instance.startswith(f"group:{process}.")
    assert first.run_key.startswith("RUN_")
    assert (first.instance, first.run_key) != (ours.instance, ours.run_key)


def test_what_cannot_be_seen_belongs_to_no_run() -> None:
    assert identify({"root": "/cache"}, 0, 0) is None


@pytest.mark.parametrize(
    "value",
    [None, 3, "RUN", [], {}, {"key": 3}, {"key": "RUN_x"}, {"key": KEY + "0"}, {"key": "../" + KEY}],
)
def test_what_names_no_run_is_none(value: object) -> None:
    assert of_message(value) is None


def test_too_much_is_not_kept_and_unsaid_counts_as_private() -> None:
    identity = of_message({"key": KEY, "ingredients": {"text": "x" * MAX_RUN_BYTES}, "instance": "i" * 9999})
    assert identity is not None
    assert identity.ingredients == {}
    assert len(identity.instance) <= 200
    assert identity.is_private


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["root", "run", "job", "x"]), JSON))
def test_whatever_a_client_says_it_is_a_run_or_none(hello: dict[str, Any]) -> None:
    identity = identify(hello, os.getpid(), 0)
    assert identity is None or len(identity.instance) <= 200
