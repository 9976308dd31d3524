"""`neff create` and `neff set` as processes, on a local Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import get_session

from neff import exitcodes
from neffd.commands import create
from neffd.commands import hub as hub_calls
from neffd.commands.errors import CommandError
from tests.harness.commands import Person
from tests.harness.daemon import Daemon
from tests.hub.process import HubProcess

pytestmark = pytest.mark.timeout(180)

REPO = "alice/cache"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    with HubProcess(tmp_path / "hub") as server:
        server.seed_files(REPO, {}, private=True)
        yield server


@pytest.fixture
def alice(tmp_path: Path, hub: HubProcess) -> Person:
    return Person(tmp_path / "alice", hub.endpoint, hub.token("alice"))


def visible_to_all(hub: HubProcess, tmp_path: Path, repo: str) -> bool:
    stranger = Person(tmp_path / "stranger", hub.endpoint)
    return stranger.neff("set", repo).returncode == exitcodes.OK


@pytest.mark.parametrize(("options", "public"), [((), False), (("--public",), True)])
@pytest.mark.parametrize("name", [(), ("-n", "alice/own"), ("--name", "mine")])
def test_create_makes_and_sets_a_repo(
    alice: Person, hub: HubProcess, tmp_path: Path, name: tuple[str, ...], options: tuple[str, ...], public: bool
) -> None:
    done = alice.neff("create", *name, *options)
    assert done.returncode == exitcodes.OK, done.stderr
    repo = "alice/" + (name[-1] if name else "optimum-neuron-cache").rpartition("/")[2]
    created, saved, *_ = done.stdout.splitlines()
    assert ("allow_public: true" in done.stdout) == public
    visibility = "public" if public else "private"
    assert created == f"Neuron cache created on the Hugging Face Hub: {repo} [{visibility}]."
    assert saved == f"Neuron cache name set locally to {repo} in {alice.saved}."
    assert alice.saved.read_text() == repo
    assert visible_to_all(hub, tmp_path, repo) == public


def test_create_tells_of_the_repo_also_where_its_name_cannot_be_saved(alice: Person, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = alice.neff("create", "-n", "own", HF_HOME=str(tmp_path / "file"))
    assert (done.returncode, done.stdout) == (exitcodes.FAILED, "")
    assert done.stderr.startswith(f"neff: alice/own [private] was created, but {tmp_path / 'file'}")
    assert "could not be written" in done.stderr
    assert "  mend it: CUSTOM_CACHE_REPO=alice/own, or neff set alice/own" in done.stderr
    assert alice.neff("set", "alice/own").returncode == exitcodes.OK


@pytest.mark.parametrize(
    "command",
    ["lookup org/model", "list", "set alice/cache", "create -n new", "synchronize", "add -- true"],
)
def test_no_command_asks_the_hub_where_that_is_switched_off(alice: Person, hub: HubProcess, command: str) -> None:
    cache = f"--cache_dir={alice.home / 'cache'}"
    offline = {"HF_HUB_OFFLINE": "1", "CUSTOM_CACHE_REPO": REPO, "NEURON_CC_FLAGS": cache}
    done = alice.neff(*command.split(), **offline)
    assert (done.returncode, done.stdout) == (exitcodes.UNREACHABLE, "")
    assert done.stderr == "neff: HF_HUB_OFFLINE is set: the Hub is not asked\n  mend it: unset HF_HUB_OFFLINE\n"
    assert hub.counters()["requests"] == {}
    assert not alice.saved.exists()


def test_create_refuses_with_the_command_that_mends_it(alice: Person, hub: HubProcess, tmp_path: Path) -> None:
    stranger = Person(tmp_path / "stranger", hub.endpoint)
    done = stranger.neff("create")
    assert done.returncode == exitcodes.REFUSED
    assert "not logged in" in done.stderr
    assert "hf auth login" in done.stderr

    done = alice.neff("create", "-n", "bob/cache")
    assert (done.returncode, "no write access to bob/cache" in done.stderr) == (exitcodes.REFUSED, True)
    done = alice.neff("create", "-n", REPO)
    assert done.returncode == exitcodes.FAILED
    assert "is there already" in done.stderr
    assert f"neff set {REPO}   (to use it)" in done.stderr
    done = Person(tmp_path / "bob", hub.endpoint, "hf_wrong").neff("create")
    assert (done.returncode, "does not accept the token" in done.stderr) == (exitcodes.REFUSED, True)
    assert not alice.saved.exists()


def test_a_hub_that_is_away_is_said_in_one_line(alice: Person, hub: HubProcess) -> None:
    hub.add_fault("POST /api/repos/create", status=503)
    done = alice.neff("create")
    assert (done.returncode, "could not be created" in done.stderr) == (exitcodes.UNREACHABLE, True)
    hub.stop()
    for command in (("create",), ("set", REPO), ("list", REPO)):
        done = alice.neff(*command)
        assert done.returncode == exitcodes.UNREACHABLE, done.stderr
        assert done.stderr.splitlines()[-1].startswith(f"neff: {hub.endpoint} did not answer: unreachable")
        assert "Traceback" not in done.stderr


def test_a_hub_that_never_answers_is_not_waited_for(
    alice: Person, hub: HubProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.setenv(name, alice.environ[name])
    monkeypatch.setattr(get_session(), "timeout", None)  # as huggingface_hub has it
    monkeypatch.setattr(hub_calls, "_SILENCE_S", 0.3)
    hub.add_fault("POST /api/repos/create", kind="stall", times=None)
    with pytest.raises(CommandError, match="did not answer: unreachable: ReadTimeout") as refused:
        create._create("alice/new", private=True)
    assert refused.value.exit_code == exitcodes.UNREACHABLE


def test_set_writes_what_optimum_neuron_reads(alice: Person) -> None:
    document = alice.json("set", REPO)
    assert (document["repo_id"], document["path"], document["daemons"]) == (REPO, str(alice.saved), [])
    assert alice.saved.read_text() == REPO
    assert sorted(path.name for path in alice.saved.parent.iterdir()) == [alice.saved.name]


def test_set_refuses_a_repo_that_is_not_there(alice: Person, hub: HubProcess, tmp_path: Path) -> None:
    alice.neff("set", REPO)
    done = alice.neff("set", "alice/no-such")
    assert (done.returncode, "neff create -n alice/no-such" in done.stderr) == (exitcodes.NOT_FOUND, True)
    assert alice.saved.read_text() == REPO
    stranger = Person(tmp_path / "stranger", hub.endpoint)
    done = stranger.neff("set", REPO)
    assert (done.returncode, "hf auth login" in done.stderr) == (exitcodes.NOT_FOUND, True)
    assert alice.neff("set", "not a/name/at all").returncode == exitcodes.USAGE


def test_set_goes_by_xdg_and_says_what_overrules_it(alice: Person, tmp_path: Path) -> None:
    done = alice.neff("set", REPO, HF_HOME="", XDG_CACHE_HOME=str(tmp_path / "xdg"), CUSTOM_CACHE_REPO="org/other")
    assert (tmp_path / "xdg" / "huggingface" / alice.saved.name).read_text() == REPO
    assert "CUSTOM_CACHE_REPO=org/other overrules it" in done.stdout


def test_set_says_what_the_daemon_knows(alice: Person, hub: HubProcess, tmp_path: Path) -> None:
    hub.seed_files("alice/second", {}, private=True)
    remote = {"name": "hub", "url": f"hf://{REPO}", "endpoint": hub.endpoint, "mode": "read"}
    with Daemon(tmp_path / "host", [remote], environ={"HF_TOKEN": hub.token("alice")}) as host:
        arguments = ("--socket", str(host.socket))
        known = alice.neff(*arguments, "set", REPO)
        assert f"The daemon at {host.socket} uses it: remote hub, read." in known.stdout
        unknown = alice.neff(*arguments, "set", "alice/second")
        assert unknown.returncode == exitcodes.OK
        assert f"The daemon at {host.socket} does not use it: add `- url: hf://alice/second`" in unknown.stdout
    assert "No daemon runs here" in alice.neff(*arguments, "set", REPO).stdout


def test_the_daemons_packages_are_asked_for_where_they_are_missing(alice: Person, tmp_path: Path) -> None:
    """As on a host with the bare client: nothing but the standard library can be imported."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("aiohttp", "huggingface_hub", "rich", "watchdog", "yaml"):
        (blocked / f"{name}.py").write_text(f"raise ModuleNotFoundError('none', name={name!r})")
    alice.environ |= {
        "PYTHONPATH": f"{blocked}:{alice.environ['PYTHONPATH']}",
        "CUSTOM_CACHE_REPO": REPO,
        "NEURON_COMPILE_CACHE_URL": str(tmp_path / "cache"),
    }
    for command in (
        ("lookup", "org/tiny"),
        ("list",),
        ("set", REPO),
        ("create",),
        ("synchronize",),
        ("add", "--", "true"),
    ):
        done = alice.neff(*command)
        assert done.returncode == exitcodes.FAILED, done.stderr
        said = rf"neff: `neff {command[0]}` needs (aiohttp|huggingface_hub|yaml): pip install 'neffd\[daemon\]'\n"
        assert re.fullmatch(said, done.stderr)
    for command in (("status",), ("prefetch", "MODULE_1+e30acd3a"), ("flush",), ("why", "MODULE_1+e30acd3a")):
        done = alice.neff(*command)
        assert (done.returncode, "no daemon answers" in done.stderr) == (exitcodes.UNREACHABLE, True)
    for command in (("run", "--", "true"), ("add", "--help")):
        assert alice.neff(*command).returncode == exitcodes.OK
