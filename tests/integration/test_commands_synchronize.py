"""`neff synchronize` as a process: with a daemon on the host, and with none."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from neff import exitcodes
from neff.keys import ModuleName
from neffd.runs import writing
from neffd.runs.entries import single_entry
from tests.harness import entries
from tests.harness.commands import Person
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess
from tests.integration.hub.conftest import MakeHost, make_host
from tests.unit.runs.golden import CONFIG, NEW_NEURON
from tests.unit.store.as_user import needs_root

__all__ = ["make_host"]  # a fixture
pytestmark = pytest.mark.timeout(180)

REPO = "alice/cache"
HERE, THERE, BOTH = (entries.module(number) for number in (1, 2, 3))


def files_of(*names: ModuleName) -> dict[str, bytes]:
    """Entries as a repo holds them."""
    return {f"{name}/{file}": data for name in names for file, data in entries.files(name).items()}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    with HubProcess(tmp_path / "hub") as server:
        runs = {f"{THERE.namespace}/0_RUNS/llama/org/name/RUN_{'ab' * 16}-00000000.json": b"{}"}  # no entry
        server.seed_files(REPO, {**files_of(THERE, BOTH), **runs}, private=True)
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    root = tmp_path / "cache"
    for name in (HERE, BOTH):
        entries.write(root, name, entries.files(name))
    return root


@pytest.fixture
def alice(tmp_path: Path, hub: HubProcess, cache: Path) -> Person:
    variables = {"CUSTOM_CACHE_REPO": REPO, "NEURON_COMPILE_CACHE_URL": str(cache)}
    return Person(tmp_path / "alice", hub.endpoint, hub.token("alice"), **variables)


def modules_on(hub: HubProcess, repo: str = REPO) -> set[str]:
    return {"/".join(path.split("/")[:2]) for path in hub.read_files(repo) if "/MODULE_" in path}


def modules_in(cache: Path) -> set[str]:
    return {str(path.parent.relative_to(cache)) for path in cache.rglob("model.done")}


def test_both_directions_without_a_daemon(alice: Person, hub: HubProcess, cache: Path) -> None:
    document = alice.json("synchronize")
    # The one that both had gains the `neffd.json` that it lacked.
    assert (document["through"], document["pushed"], document["pulled"]) == ("own", 2, 1)
    assert modules_on(hub) == modules_in(cache) == {str(name) for name in (HERE, THERE, BOTH)}
    assert entries.read(cache, THERE) == entries.files(THERE)

    commits = len(hub.commits(REPO))
    document = alice.json("synchronize")
    assert (document["pushed"], document["pulled"], document["waiting"]) == (0, 0, 0)
    assert len(hub.commits(REPO)) == commits


def test_its_daemon_takes_nothing_of_the_working_directory_for_a_module(
    alice: Person, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "watchdog.py").write_text("raise SystemExit('somebody else')")  # no command needs it, the daemon does
    monkeypatch.chdir(tmp_path)
    document = alice.json("synchronize")
    assert (document["pushed"], document["pulled"]) == (2, 1)


def test_one_direction(alice: Person, hub: HubProcess, cache: Path) -> None:
    document = alice.json("synchronize", "--pull")
    assert (document["pushed"], document["pulled"]) == (None, 1)
    assert str(HERE) not in modules_on(hub)
    document = alice.json("synchronize", "--push")
    assert (document["pushed"], document["pulled"]) == (2, None)
    assert str(HERE) in modules_on(hub)
    assert alice.neff("synchronize", "--push", "--pull").returncode == exitcodes.USAGE


def test_through_the_daemon(alice: Person, make_host: MakeHost, hub: HubProcess, cache: Path) -> None:
    host = make_host("host", overrides={"cache_dirs": [str(cache)], "upload": {"quiet_s": 600, "max_delay_s": 600}})
    with host:
        alice.environ["NEFFD_SOCKET"] = str(host.socket)
        document = alice.json("synchronize")
        assert (document["through"], document["pushed"], document["pulled"]) == ("daemon", 2, 1)
        assert host.journal_is_empty()
        hub.seed_files("alice/other", {}, private=True)
        other = alice.neff("synchronize", "--repo_id", "alice/other")
        assert (other.returncode, "alice/other is no remote of the daemon" in other.stderr) == (exitcodes.REFUSED, True)
    assert modules_on(hub) == modules_in(cache)


def test_what_is_not_whole_never_travels(alice: Person, hub: HubProcess, cache: Path) -> None:
    failed, locked = (entries.module(number) for number in (4, 5))
    poisoned = entries.module(6, entries.OLD_NAMESPACE)
    for name, files in ((failed, ("model.hlo_module.pb", "model.log")), (locked, ("model.hlo_module.pb.lock",))):
        folder = cache / name.namespace / name.key
        folder.mkdir()
        for file in files:
            (folder / file).write_bytes(b"x")
    hub.seed_files(REPO, {**files_of(poisoned), f"{poisoned}/model.neff": b"Failed compilation"}, private=True)
    document = alice.json("synchronize", "--compiler_version", "2.14")
    assert document["not_pulled"] == [{"name": str(poisoned), "reason": "refused"}]
    assert not (cache / poisoned.namespace / poisoned.key / "model.neff").exists()
    assert not {str(failed), str(locked)} & modules_on(hub)
    assert (cache / locked.namespace / locked.key / "model.hlo_module.pb.lock").exists()


def test_the_registry_goes_with_it(alice: Person, hub: HubProcess, cache: Path) -> None:
    entry = single_entry("org/tiny", "text-generation", CONFIG, NEW_NEURON)
    file, alias = writing.write(cache, entry, entries.NAMESPACE)
    alias.unlink()
    alias.symlink_to(file)  # as optimum-neuron makes it
    (alias.parent / ("0" * 20 + ".json")).symlink_to("/etc/hostname")
    (alias.parent / ("1" * 20 + ".json")).symlink_to("1" * 20 + ".json")
    unnamed = os.fsencode(alias.parent) + b"\xff"
    os.mkdir(unnamed)  # noqa: PTH102 - a name that is no text
    (Path(os.fsdecode(unnamed)) / alias.name).write_bytes(file.read_bytes())
    assert alice.json("synchronize", "--push")["registry"] == 2
    on_hub = hub.read_files(REPO)
    assert {str(path.relative_to(cache)) for path in (file, alias)} == {path for path in on_hub if "0_REGISTRY" in path}
    assert on_hub[str(alias.relative_to(cache))] == entry.serialize().encode()
    assert alice.json("synchronize", "--push")["registry"] == 0


def test_a_compiler_version_that_has_just_been_removed_holds_nothing(alice: Person, hub: HubProcess) -> None:
    hub.add_fault("GET .*/tree/main/neuronxcc", status=404, headers={"X-Error-Code": "EntryNotFound"}, times=None)
    document = alice.json("synchronize", "--pull")
    assert (document["pulled"], document["not_pulled"]) == (0, [])


@pytest.fixture
def fresh(alice: Person, tmp_path: Path) -> Path:
    """A cache directory with nothing in it, which is alice's."""
    root = tmp_path / "fresh"
    root.mkdir()
    alice.environ["NEURON_COMPILE_CACHE_URL"] = str(root)
    return root


def registry_on(hub: HubProcess, repo: str) -> set[str]:
    return {path for path in hub.read_files(repo) if "0_REGISTRY" in path}


def test_everybody_is_told_only_what_was_meant_of_the_registry(alice: Person, hub: HubProcess, fresh: Path) -> None:
    public = "alice/public"
    hub.seed_files(public, {})
    hub.seed_files("org/open", {})
    hub.seed_files("org/secret", {}, private=True)
    by_model = {
        model: {
            str(path.relative_to(fresh))
            for path in writing.write(fresh, single_entry(model, "t", CONFIG, NEW_NEURON), entries.NAMESPACE)
        }
        for model in ("org/open", "org/secret", "/somewhere/here")
    }
    done = alice.neff("synchronize", "--push", "--repo_id", public)
    assert (done.returncode, registry_on(hub, public)) == (exitcodes.FAILED, set())
    assert "everybody can read alice/public" in done.stderr
    assert "--allow_public" in done.stderr
    done = alice.neff("synchronize", "--push", "--repo_id", public, "--allow_public")
    assert (done.returncode, registry_on(hub, public)) == (exitcodes.FAILED, by_model["org/open"])
    assert "3 registry files stay here: not everybody can see their models" in done.stderr


def test_a_registry_commit_that_meets_another_is_tried_again(alice: Person, hub: HubProcess, fresh: Path) -> None:
    writing.write(fresh, single_entry("org/tiny", "t", CONFIG, NEW_NEURON), entries.NAMESPACE)
    hub.add_fault(f"POST /api/models/{REPO}/commit/", status=409)
    assert alice.json("synchronize", "--push")["registry"] == 2
    assert len(registry_on(hub, REPO)) == 2


def test_what_became_of_the_rest_is_told_where_the_registry_cannot_be_sent(
    alice: Person, hub: HubProcess, fresh: Path
) -> None:
    writing.write(fresh, single_entry("org/tiny", "t", CONFIG, NEW_NEURON), entries.NAMESPACE)
    hub.add_fault(f"POST /api/models/{REPO}/commit/", status=422, times=None)
    done = alice.neff("synchronize", "--compiler_version", "2.20")
    assert (done.returncode, done.stdout) == (exitcodes.FAILED, f"{REPO} and {fresh}: 2 pulled, 0 pushed\n")
    assert f"the registry could not be sent to {REPO}: the Hub answered with status 422" in done.stderr
    assert alice.json("synchronize", "--push")["registry"] is None


def test_a_large_registry_goes_in_parts(alice: Person, hub: HubProcess, fresh: Path) -> None:
    for size in range(110):
        config = {**CONFIG, "hidden_size": 1000 + size}
        writing.write(fresh, single_entry("org/tiny", "t", config, NEW_NEURON), entries.NAMESPACE)
    commits = len(hub.commits(REPO))
    assert alice.json("synchronize", "--push")["registry"] == len(registry_on(hub, REPO)) == 220
    assert len(hub.commits(REPO)) == commits + 2


def test_a_new_host_names_the_compiler(alice: Person, hub: HubProcess, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = alice.neff("synchronize", "--pull", "--cache_dir", str(empty))
    assert (done.returncode, "--compiler_version" in done.stderr) == (exitcodes.FAILED, True)
    done = alice.neff("synchronize", "--pull", "--cache-dir", str(empty), "--compiler-version", "2.20")
    assert done.stdout == f"{REPO} and {empty}: 2 pulled\n", done.stderr
    assert modules_in(empty) == {str(THERE), str(BOTH)}
    another = tmp_path / "another"
    another.mkdir()
    done = alice.neff("synchronize", "--cache_dir", str(another))
    assert (done.stdout, done.returncode) == (f"{REPO} and {another}: 0 pulled, 0 pushed\n", exitcodes.OK)
    assert "holds nothing for a compiler that is known here" in done.stderr
    fresh = tmp_path / "not" / "there"  # before the first compile
    done = alice.neff("synchronize", "--pull", "--compiler_version", "2.14", NEURON_COMPILE_CACHE_URL=str(fresh))
    assert (done.returncode, fresh.is_dir()) == (exitcodes.FAILED, True)
    assert "holds nothing for a compiler that is known here" in done.stderr
    assert alice.neff("synchronize", "--cache_dir", str(fresh / "none")).returncode == exitcodes.NOT_FOUND


def test_the_compiler_is_looked_for_where_python3_is(alice: Person, tmp_path: Path) -> None:
    """As in the installation: neff in an environment of its own, the trainers' on PATH."""
    python, empty = tmp_path / "trainers" / "bin" / "python3", tmp_path / "empty"
    version = "python{}.{}".format(*sys.version_info)
    facts = python.parents[1] / "lib" / version / "site-packages" / "neuronx_cc-2.20.dist-info" / "METADATA"
    for path in (python, facts, empty / "none"):
        path.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    facts.write_text(
        f"Metadata-Version: 2.1\nName: neuronx-cc\nVersion: {THERE.namespace.removeprefix('neuronxcc-')}\n"
    )
    first = f"{python.parent}:{alice.environ['PATH']}"
    assert alice.neff("synchronize", "--pull", "--cache_dir", str(empty), PATH=first).returncode == exitcodes.OK
    assert modules_in(empty) == {str(THERE), str(BOTH)}


def test_refusals(alice: Person, hub: HubProcess, cache: Path, tmp_path: Path) -> None:
    reader = Person(tmp_path / "reader", hub.endpoint, hub.token("alice", "read"), NEURON_COMPILE_CACHE_URL=str(cache))
    none = reader.neff("synchronize")
    assert (none.returncode, "neff set NAME" in none.stderr) == (exitcodes.REFUSED, True)
    done = reader.neff("synchronize", "--repo_id", REPO)
    assert (done.returncode, "no-write-access" in done.stderr) == (exitcodes.REFUSED, True)
    assert "neff create" in done.stderr
    assert str(THERE) in modules_in(cache), "what may be done is done"
    missing = alice.neff("synchronize", "--push", "--repo_id", "alice/none")
    assert (missing.returncode, "neff create -n alice/none" in missing.stderr) == (exitcodes.NOT_FOUND, True)


def test_a_public_repo_only_when_it_is_meant(alice: Person, hub: HubProcess) -> None:
    hub.seed_files("alice/public", {})
    done = alice.neff("synchronize", "--push", "--repo_id", "alice/public")
    assert (done.returncode, "--allow_public" in done.stderr) == (exitcodes.FAILED, True)
    assert modules_on(hub, "alice/public") == set()
    done = alice.neff("synchronize", "--push", "--repo_id", "alice/public", "--allow_public")
    assert done.returncode == exitcodes.OK, done.stderr
    assert modules_on(hub, "alice/public") == {str(HERE), str(BOTH)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_and_run_again_it_goes_on(
    alice: Person, hub: HubProcess, cache: Path, number: signal.Signals
) -> None:
    hub.add_fault(f"POST /api/models/{REPO}/commit/", kind="stall", stall_s=60)
    process = subprocess.Popen(
        [sys.executable, "-m", "neff.cli", "synchronize", "--push"], env=alice.environ, stderr=subprocess.DEVNULL
    )
    hub.wait_for_requests("POST /api/{type}/{namespace}/{name}/preupload/{revision}", timeout_s=60)
    process.send_signal(number)
    assert process.wait(60) == (exitcodes.INTERRUPTED if number == signal.SIGINT else -number)
    hub.clear_faults()
    assert alice.json("synchronize", "--push")["waiting"] == 0
    assert str(HERE) in modules_on(hub)


def test_entries_that_wait_for_another_daemon_are_not_touched(
    alice: Person, make_host: MakeHost, hub: HubProcess, cache: Path
) -> None:
    slow = {"quiet_s": 600, "max_delay_s": 600}
    with make_host("host", overrides={"cache_dirs": [str(cache)], "upload": slow}) as host:
        eventually(lambda: host.status()["remotes"][0]["journal"]["waiting"] == 2, "both entries in the journal")
    done = alice.neff("synchronize")
    assert (done.returncode, "systemctl start neffd" in done.stderr) == (exitcodes.FAILED, True)
    with host:
        assert host.ask("flush", timeout_s=30)[-1] == {"id": 1, "pending": 0, "parked": [], "done": True}
    assert str(HERE) in modules_on(hub)


def test_a_daemon_that_cannot_be_reached_is_named(
    alice: Person, make_host: MakeHost, hub: HubProcess, cache: Path, tmp_path: Path
) -> None:
    def refusal(*command: str, **environ: str) -> str:
        done = alice.neff(*command, **environ)
        assert (done.returncode, done.stdout) == (exitcodes.UNREACHABLE, ""), done.stderr
        assert "mend it: --socket PATH, or systemctl status neffd" in done.stderr
        return done.stderr

    assert alice.neff("synchronize").returncode == exitcodes.OK, "there is a journal of its own from now on"
    slow = {"quiet_s": 600, "max_delay_s": 600}
    with make_host("host", overrides={"cache_dirs": [str(cache)], "upload": slow}) as host:
        served = f"neff: another neffd serves {cache}, and does not answer\n"
        for command in (("synchronize",), ("add", "--", "true")):
            for environ in ({}, {"XDG_STATE_HOME": str(tmp_path / "fresh")}):
                told = refusal(*command, **environ)
                assert (served in told, f"(tried {alice.environ['NEFFD_SOCKET']})" in told) == (True, True)
        host.signal(signal.SIGSTOP)
        assert served in refusal("synchronize", NEFFD_SOCKET=str(host.socket))


@needs_root
def test_a_daemon_that_may_not_be_asked_is_not_taken_for_none(alice: Person, make_host: MakeHost, cache: Path) -> None:
    with make_host("host", overrides={"cache_dirs": [str(cache)]}) as host:
        alice.environ["NEFFD_SOCKET"] = str(host.socket)
        host.socket.chmod(0o600)
        # Root without its capabilities is nobody to what belongs to somebody else.
        for path in (host.socket, cache.with_name("cache.neffd") / "neffd.lock"):
            os.chown(path, 65534, 65534)
        alice.prefix = ("setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search")
        done = alice.neff("synchronize")
        assert (done.returncode, done.stdout) == (exitcodes.UNREACHABLE, ""), done.stderr
        assert f"another neffd serves {cache}, and does not answer\n" in done.stderr


def test_why_the_own_daemon_does_not_start(alice: Person) -> None:
    cache = alice.environ["NEURON_COMPILE_CACHE_URL"]
    state = Path(alice.home / ".local/state/neffd/synchronize", hashlib.sha256(cache.encode()).hexdigest()[:16])
    (state / "neffd.db").mkdir(parents=True)
    done = alice.neff("synchronize")
    assert done.returncode == exitcodes.FAILED
    problem, mend = done.stderr.splitlines()
    assert problem.startswith(f"neff: neffd did not start: {state}/neffd.db cannot be opened: ")
    assert mend.startswith("  mend it: see that it can be written")
    assert mend.endswith(f"; see {state}/log")


def test_a_home_that_cannot_be_written(alice: Person, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for command in (("synchronize",), ("add", "--", "true")):
        done = alice.neff(*command, HOME=str(file))
        assert (done.returncode, done.stdout) == (exitcodes.FAILED, "")
        assert done.stderr.startswith(f"neff: no place for the journal: {file}/.local")
        assert "mend it: XDG_STATE_HOME=DIR" in done.stderr
    done = alice.neff("set", REPO, HF_HOME=str(file / "hf"))
    assert (done.returncode, "mend it: HF_HOME=DIR" in done.stderr) == (exitcodes.FAILED, True)


@needs_root
def test_a_user_without_a_home(alice: Person, hub: HubProcess, tmp_path: Path) -> None:
    """In no passwd file either, as in many containers; no login can be looked for then."""
    hub.seed_files("alice/public", {})
    alice.prefix = ("setpriv", "--reuid=54321", "--clear-groups", *("--inh-caps", "+dac_override"))
    alice.prefix += ("--ambient-caps", "+dac_override")  # pytest's folders are root's alone
    token = {"HF_TOKEN": alice.environ["HF_TOKEN"]}
    for name in ("HOME", "HF_HOME", "HF_TOKEN"):
        del alice.environ[name]
    for command, mend in ((("synchronize", "--pull"), "XDG_STATE_HOME=DIR"), (("set", "alice/public"), "HF_HOME=DIR")):
        done = alice.neff(*command, **(token if command[0] == "synchronize" else {}))
        assert (done.returncode, done.stdout) == (exitcodes.FAILED, "")
        assert done.stderr.splitlines()[0].endswith(": this user has no home directory"), done.stderr
        assert f"mend it: {mend}" in done.stderr


def test_a_temporary_folder_that_is_too_deep_for_a_socket(alice: Person, tmp_path: Path) -> None:
    deep = tmp_path / ("scratch" * 12)
    deep.mkdir()
    done = alice.neff("synchronize", TMPDIR=str(deep))
    assert done.returncode == exitcodes.OK, done.stderr
    assert list(deep.iterdir()) == []


def test_a_terminal_has_bars(alice: Person) -> None:
    code, shown = alice.on_terminal("synchronize", NO_COLOR="1")
    assert code == exitcodes.OK, shown
    assert "fetched" in shown
    assert "sent" in shown
