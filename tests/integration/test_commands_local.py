"""`neff du`, `neff cleanup` and `neff status --cache_dir` as processes, on a cache directory without a daemon."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from neff import exitcodes
from neffd.commands import localcache, localstatus
from neffd.runs import writing
from neffd.runs.entries import single_entry
from tests.harness import entries
from tests.harness.commands import Person
from tests.harness.daemon import Daemon
from tests.harness.guests import compiling
from tests.harness.rooms import Room
from tests.harness.waiting import eventually
from tests.unit.runs.golden import CONFIG, NEW_NEURON
from tests.unit.store.as_user import User, needs_root

READY, OLD, FAILED, LOCKED, PENDING = (
    entries.module(1),
    entries.module(2, entries.OLD_NAMESPACE),
    entries.module(3),
    entries.module(4),
    entries.module(5),
)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """One entry in each state, two compiler versions, one traced model."""
    root = tmp_path / "cache"
    for name in (READY, OLD):
        entries.write(root, name, entries.files(name))
    for name, files in (
        (FAILED, {"model.hlo_module.pb": b"hlo", "model.log": b"Failed compilation"}),
        (LOCKED, {"model.hlo_module.pb": b"hlo", "model.hlo_module.pb.lock": b""}),
        (PENDING, {"model.hlo_module.pb": b"hlo"}),
    ):
        folder = root / name.namespace / name.key
        folder.mkdir(parents=True)
        for file, data in files.items():
            (folder / file).write_bytes(data)
            os.utime(folder / file, (1_700_000_000, 1_700_000_000))
    traced = single_entry("org/tiny", "fill-mask", CONFIG, NEW_NEURON)
    writing.write(root, traced, entries.NAMESPACE)
    folder = root / entries.NAMESPACE / f"MODULE_{traced.hash}"
    folder.mkdir()
    (folder / "model.neuron").write_bytes(b"x" * 1000)
    return root


@pytest.fixture(scope="module")
def out_of_sight() -> tuple[str, ...]:
    """Before a command: it sees no process but its own, so no compiler of a test that runs beside this one."""
    prefix = Room(namespaces=("pid",)).prefix()
    is_possible = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    return prefix if is_possible else ()


@pytest.fixture
def neighbour(tmp_path: Path, cache: Path) -> Person:
    """Somebody who sees all processes of this machine."""
    return Person(tmp_path / "person", "http://127.0.0.1:1", NEURON_COMPILE_CACHE_URL=str(cache))


@pytest.fixture
def person(neighbour: Person, out_of_sight: tuple[str, ...]) -> Person:
    neighbour.prefix = out_of_sight
    return neighbour


@pytest.fixture
def compiler(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like the compiler."""
    script = tmp_path / "neuronx-cc"
    script.write_text("import time\nprint(flush=True)\ntime.sleep(600)\n")
    with subprocess.Popen([sys.executable, str(script), "compile"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def names(cache: Path) -> set[str]:
    return {str(path.relative_to(cache)) for path in cache.rglob("*")}


def test_du_by_version_model_and_state(person: Person, cache: Path) -> None:
    document = person.json("du")
    rows = {(row["compiler_version"], row["model"], row["state"]): row["entries"] for row in document["rows"]}
    new, old = (namespace.removeprefix("neuronxcc-") for namespace in (entries.NAMESPACE, entries.OLD_NAMESPACE))
    expected = {(new, None, state): 1 for state in ("ready", "failed", "compiling", "pending")}
    assert rows == expected | {(new, "org/tiny", "traced"): 1, (old, None, "ready"): 1}
    modules = [path for path in cache.rglob("MODULE_*/*") if path.is_file()]
    assert document["size_bytes"] == sum(path.stat().st_size for path in modules)
    lines = person.neff("du", "--cache-dir", str(cache)).stdout.splitlines()
    assert len(lines) == len(rows)
    code, shown = person.on_terminal("du", NO_COLOR="1", COLUMNS="120")
    assert code == exitcodes.OK
    assert "org/tiny" in shown
    assert "\x1b" not in shown


def test_status_of_a_directory(person: Person, cache: Path) -> None:
    shown = person.neff("status", "--cache_dir", str(cache))
    assert shown.returncode == exitcodes.OK
    assert "  failed: 1, 21 B\n" in shown.stdout
    document = json.loads(person.neff("status", "--cache_dir", str(cache), "--json").stdout)
    assert set(document) == {"schema", "command", *localstatus.JSON}
    assert document["states"]["ready"]["entries"] == 2


def test_cleanup_takes_failures_and_locks_only(person: Person, cache: Path) -> None:
    before = names(cache)
    done = person.neff("cleanup")
    assert done.returncode == exitcodes.OK
    failed, lock = str(FAILED), f"{LOCKED}/model.hlo_module.pb.lock"
    assert before - names(cache) == {failed, f"{failed}/model.hlo_module.pb", f"{failed}/model.log", lock}
    assert done.stdout.splitlines()[-1] == "removed 2 paths, 21 B"
    assert person.neff("cleanup").stdout == "nothing to clean up\n"


def test_a_lock_that_was_just_taken_stays(person: Person, cache: Path) -> None:
    lock = cache / LOCKED.namespace / LOCKED.key / "model.hlo_module.pb.lock"
    lock.touch()
    assert [item["what"] for item in person.json("cleanup")["removed"]] == ["failed"]
    done = person.neff("cleanup", "--wipe")
    assert f"version {cache / LOCKED.namespace}" in done.stderr
    assert done.stderr.endswith("since a lock is younger than 60 s\n")
    assert lock.exists()


def test_a_dry_run_removes_nothing(person: Person, cache: Path) -> None:
    before = names(cache)
    for options in ((), ("--all",), ("--wipe",), ("--old_versions", "--compiler-version", "2.20")):
        document = person.json("cleanup", "--dry-run", *options)
        assert document["dry_run"]
        assert document["removed"]
    assert names(cache) == before


def test_cleanup_all_takes_what_nobody_compiles(person: Person, cache: Path) -> None:
    person.neff("cleanup", "--all")
    assert str(PENDING) not in names(cache)
    assert {str(READY), str(OLD), str(LOCKED)} <= names(cache)


def test_old_versions_go_when_it_is_known_which_are_old(person: Person, cache: Path) -> None:
    unknown = person.neff("cleanup", "--old-versions")
    assert (unknown.returncode, "--compiler_version" in unknown.stderr) == (exitcodes.FAILED, True)
    wrong = person.neff("cleanup", "--old-versions", "--compiler_version", "2.2")
    assert (wrong.returncode, "neff du" in wrong.stderr) == (exitcodes.FAILED, True)
    assert entries.OLD_NAMESPACE in names(cache)
    person.neff("cleanup", "--old-versions", "--compiler_version", "2.20")
    assert {path.name for path in cache.iterdir()} == {entries.NAMESPACE}
    assert str(READY) in names(cache)


def test_wipe_takes_everything_compiled(person: Person, cache: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "model.neff").write_bytes(b"precious")
    (cache / entries.NAMESPACE / "MODULE_9+e30acd3a").symlink_to(outside)
    (cache / "neuronxcc-9.9+linked").symlink_to(outside)
    (cache / "of-somebody-else").mkdir()
    assert person.neff("cleanup", "--wipe").returncode == exitcodes.OK
    assert {path.name for path in cache.iterdir()} == {"of-somebody-else", "neuronxcc-9.9+linked"}
    assert (outside / "model.neff").read_bytes() == b"precious"


def test_while_a_compiler_runs_locks_stay(neighbour: Person, cache: Path, compiler: subprocess.Popen[bytes]) -> None:
    document = neighbour.json("cleanup")
    assert [item["what"] for item in document["removed"]] == ["failed"]
    assert document["skipped"].startswith(f"lock {cache / str(LOCKED)}/model.hlo_module.pb.lock, since neuronx-cc runs")
    # It names one of them, which may be that of a test that runs beside this one.
    assert compiler.pid in localcache.running_compilers()
    wiped = neighbour.neff("cleanup", "--wipe")
    assert (wiped.returncode, "neuronx-cc runs (pid " in wiped.stderr) == (exitcodes.FAILED, True)
    assert str(READY) in names(cache)


@pytest.mark.usefixtures("compiler")
def test_while_a_compiler_runs_what_it_may_have_begun_stays(neighbour: Person, cache: Path) -> None:
    """Up to 2.14 it has no lock."""
    before = names(cache)
    neighbour.neff("cleanup")
    begun = cache / str(entries.module(6, entries.OLD_NAMESPACE))
    begun.mkdir()
    (begun / "model.hlo_module.pb").write_bytes(b"hlo")
    every = neighbour.neff("cleanup", "--all")
    assert (every.returncode, every.stdout) == (exitcodes.OK, "nothing to clean up\n")
    for path in (f"incomplete {begun}", f"incomplete {cache / str(PENDING)}", f"lock {cache / str(LOCKED)}"):
        assert path in every.stderr
    assert "version" not in every.stderr
    for kept, gone in (("2.20", entries.OLD_NAMESPACE), ("2.14", entries.NAMESPACE)):
        old = neighbour.neff("cleanup", "--old-versions", "--compiler_version", kept)
        assert old.stdout == "nothing to clean up\n"
        assert f"version {cache / gone}" in old.stderr
    assert before - names(cache) == {path for path in before if path.startswith(str(FAILED))}
    shutil.rmtree(begun)
    neighbour.neff("cleanup", "--old-versions", "--compiler_version", "2.20")
    assert {path.name for path in cache.iterdir()} == {entries.NAMESPACE}


def test_what_the_daemon_sees_being_compiled_stays(person: Person, cache: Path, tmp_path: Path) -> None:
    """Somebody in a container sees no compiler, but the daemon does."""
    with Daemon(tmp_path / "host", overrides={"cache_dirs": [str(cache)], "locks": {"clear_stale": False}}) as host:
        person.environ["NEFFD_SOCKET"] = str(host.socket)
        eventually(lambda: compiling(host, name=str(LOCKED)), "the daemon sees the lock")
        done = person.json("cleanup")
        assert done["skipped"].startswith(f"lock {cache / str(LOCKED)}/")
        assert "since it is being compiled, says the daemon at" in done["skipped"]
        old = person.json("cleanup", "--old-versions", "--compiler_version", "2.14")
        assert (old["removed"], old["skipped"].startswith(f"version {cache / LOCKED.namespace}")) == ([], True)
        wiped = person.neff("cleanup", "--wipe")
        assert wiped.returncode == exitcodes.FAILED
        assert f"{LOCKED} is being compiled, says the daemon" in wiped.stderr
        assert {str(READY), str(OLD), str(PENDING)} <= names(cache)
        (cache / str(LOCKED) / "model.hlo_module.pb.lock").unlink()
        eventually(lambda: not compiling(host), "the daemon sees that it is gone")
        assert person.neff("cleanup", "--wipe").returncode == exitcodes.OK
        assert not [path for path in cache.iterdir() if path.name.startswith("neuronxcc-")]


@pytest.mark.parametrize("command", ["du", "cleanup"])
def test_directories_that_are_none(person: Person, tmp_path: Path, command: str) -> None:
    done = person.neff(command, "--cache_dir", str(tmp_path / "none"))
    assert (done.returncode, "is no directory" in done.stderr) == (exitcodes.NOT_FOUND, True)
    done = person.neff(command, NEURON_COMPILE_CACHE_URL="s3://bucket/x")
    assert (done.returncode, "NEURON_COMPILE_CACHE_URL" in done.stderr) == (exitcodes.FAILED, True)


def test_more_locks_than_the_daemon_lists_all_stay(person: Person, cache: Path, tmp_path: Path) -> None:
    for number in range(100, 220):
        lock = cache / str(entries.module(number)) / "model.hlo_module.pb.lock"
        lock.parent.mkdir()
        lock.touch()
        os.utime(lock, (1_700_000_000, 1_700_000_000))
    with Daemon(tmp_path / "host", overrides={"cache_dirs": [str(cache)], "locks": {"clear_stale": False}}) as host:
        person.environ["NEFFD_SOCKET"] = str(host.socket)
        eventually(lambda: len(host.status()["compiling"]) == 100, "the daemon sees the locks")
        document = person.json("cleanup")
        assert "lock" not in [item["what"] for item in document["removed"]]
        assert "100 or more are being compiled, says the daemon at" in document["skipped"]
        assert len(list(cache.rglob("*.lock"))) == 121


@pytest.fixture
def stranger(person: Person, out_of_sight: tuple[str, ...]) -> Iterator[Person]:
    """A user who owns nothing of the cache directory, which is where others may pass."""
    room = Room(User(61_003, 61_003), namespaces=("pid",) if out_of_sight else ())
    room.skip_unless_possible()
    place = Path(tempfile.mkdtemp(prefix="neff commands "))
    place.chmod(0o755)
    root = place / "cache"
    shutil.copytree(person.environ["NEURON_COMPILE_CACHE_URL"], root)
    person.environ |= {"NEURON_COMPILE_CACHE_URL": str(root), "HOME": "/", "HF_HOME": "/"}
    person.prefix = room.prefix()
    yield person
    shutil.rmtree(place)


@needs_root
@pytest.mark.parametrize("mode", [0o700, 0o744])
def test_a_version_that_is_closed_to_the_user_counts_as_empty(stranger: Person, mode: int) -> None:
    root = Path(stranger.environ["NEURON_COMPILE_CACHE_URL"])
    closed = root / entries.OLD_NAMESPACE
    closed.chmod(mode)
    for command in (("du", "--json"), ("status", "--cache_dir", str(root), "--json")):
        done = stranger.neff(*command)
        assert (done.returncode, json.loads(done.stdout)["size_bytes"] > 0) == (exitcodes.OK, True)
        assert done.stderr == f"neff: {closed}: Permission denied: counts as empty\n"
    for options in ((), ("--old-versions", "--compiler_version", "2.20"), ("--dry-run", "--wipe")):
        done = stranger.neff("cleanup", *options)
        assert done.returncode == exitcodes.FAILED
        assert f"neff: not removed: {closed}: Permission denied\n" in done.stderr
        assert "Traceback" not in done.stderr


@needs_root
@pytest.mark.parametrize("is_root_closed", [True, False])
def test_a_directory_that_is_closed_to_the_user(stranger: Person, is_root_closed: bool) -> None:
    root = Path(stranger.environ["NEURON_COMPILE_CACHE_URL"])
    (root if is_root_closed else root.parent).chmod(0o700)
    for command in (("du",), ("status", "--cache_dir", str(root)), ("cleanup",)):
        done = stranger.neff(*command)
        assert (done.returncode, done.stderr) == (exitcodes.FAILED, f"neff: {root}: Permission denied\n")


@pytest.mark.parametrize("arguments", [("du",), ("cleanup", "--dry-run"), ("status", "--cache_dir", ".")])
def test_no_daemons_packages_are_needed(person: Person, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("aiohttp", "huggingface_hub", "yaml", "rich"):
        (blocked / f"{name}.py").write_text(f"raise ModuleNotFoundError('none', name='{name}')")
    path = os.pathsep.join([str(blocked), person.environ["PYTHONPATH"]])
    assert person.neff(*arguments, PYTHONPATH=path).returncode == exitcodes.OK
