"""The files that install the service, and docs/operations.md, against the code and systemd's own tools."""

from __future__ import annotations

import ast
import errno
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from neff.cachedir import DEFAULT_CACHE_DIR
from neffd.errors import ConfigError
from tests.unit.store.as_user import User, needs_root

PROJECT = Path(__file__).resolve().parents[2]
UNIT = PROJECT / "systemd" / "neffd.service"
OPERATIONS = PROJECT / "docs" / "operations.md"
CACHE = Path(DEFAULT_CACHE_DIR)

# What must not be in the unit, and what it would break.
FORBIDDEN = {
    "PrivateTmp": "the daemon's own /var/tmp would hide the cache directory",
    "DynamicUser": "implies PrivateTmp, and the user's number would change under the files it owns",
    "PrivateUsers": "every trainer's user would look like nobody",
    "ProtectProc": "a lock's holder could not be seen",
    "ProcSubset": "the boot id could not be read",
    "PrivatePIDs": "a lock's holder could not be seen",
    "PrivateNetwork": "remotes could not be reached",
    "IPAddressDeny": "remotes could not be reached",
    "RestrictSUIDSGID": "folders could not hand their group down by the setgid bit",
    "MemoryDenyWriteExecute": "a Python with a JIT compiler would not start",
    "RootDirectory": "the host's directories would be hidden",
    "TemporaryFileSystem": "the host's directories would be hidden",
    "InaccessiblePaths": "the host's directories would be hidden",
}
EXPECTED = {
    "Type": "notify",
    "User": "neffd",
    "Group": "neffd",
    "Restart": "always",
    "KillMode": "mixed",
    "StateDirectory": "neffd",
    "RuntimeDirectory": "neffd",
    "RuntimeDirectoryMode": "0755",  # whom the socket is for, its own mode says
    "RuntimeDirectoryPreserve": "yes",  # containers mount it
    "Environment": "GLIBC_TUNABLES=glibc.malloc.tcache_count=0",
    "ProtectSystem": "strict",
    "ProtectHome": "read-only",
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6",
    "SystemCallFilter": "@system-service",
}
# Calls that a narrower filter would take away, and who makes them.
NEEDED_CALLS = {
    "renameat2": "placing an entry without replacing another",
    "linkat": "pinning what waits for a remote",
    "flock": "keeping a second daemon out",
    "chown": "handing the group of a cache directory on",
    "fchmodat": "handing its mode on",
    "setxattr": "handing its ACL on",
    "inotify_add_watch": "watching it",
    "copy_file_range": "copying where links are not possible",
    "io_uring_setup": "uvloop",
    "sched_getaffinity": "hf_xet, for the number of its threads",
    "prlimit64": "hf_xet, for the number of open files",
    "memfd_create": "libffi",
    "execve": "worker processes",
}


def settings(section: str = "Service") -> dict[str, list[str]]:
    """Every value of each key in one section of the unit."""
    found: dict[str, list[str]] = {}
    current = ""
    for line in UNIT.read_text().splitlines():
        if line.startswith("["):
            current = line.strip("[]")
        elif line and not line.startswith("#") and current == section:
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def needs(tool: str) -> pytest.MarkDecorator:
    """Skips a test where one of systemd's tools is not installed."""
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed (Debian: systemd)")


def run(*command: str | Path) -> str:
    """The output of a tool that is content and has nothing to remark."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(("key", "value"), EXPECTED.items())
def test_the_unit_says(key: str, value: str) -> None:
    assert settings()[key] == [value]


@pytest.mark.parametrize(("key", "why"), FORBIDDEN.items())
def test_the_unit_hides_neither_the_cache_nor_the_trainers(key: str, why: str) -> None:
    assert key not in settings(), why


def test_cache_and_staging_folder_are_writable_in_one_mount() -> None:
    writable = [Path(path.lstrip("-+")) for value in settings()["ReadWritePaths"] for path in value.split()]
    assert CACHE.parent in writable
    below = [path for path in writable if CACHE.parent in path.parents]
    assert below == [], "a mount of its own: nothing can be linked or renamed between it and its neighbour"


def test_systemd_waits_longer_than_the_daemon_takes_to_stop() -> None:
    assert 10 < int(settings()["TimeoutStopSec"][0]) <= 15
    assert int(settings()["WatchdogSec"][0]) > 0
    assert int(settings()["LimitNOFILE"][0]) >= 65536


def test_a_bad_configuration_is_not_tried_again() -> None:
    assert settings()["RestartPreventExitStatus"] == [str(ConfigError.exit_code)]


@needs("systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    program = settings()["ExecStart"][0].split()[0]
    installed = tmp_path / "neffd"
    installed.write_text("#!/bin/sh\n")
    installed.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(program, str(installed)))
    assert run("systemd-analyze", "verify", "--man=no", unit).strip() == ""


@needs("systemd-analyze")
def test_no_call_that_is_needed_is_filtered() -> None:
    assert NEEDED_CALLS.keys() & calls_in("@known") <= calls_in("@system-service")


def calls_in(group: str) -> set[str]:
    """System calls of one of systemd's groups, those of groups within it too."""
    words = [line.strip() for line in run("systemd-analyze", "syscall-filter", group).splitlines()[1:]]
    calls = {word for word in words if word and not word.startswith(("#", "@"))}
    return calls.union(*(calls_in(word) for word in words if word.startswith("@")))


class Host:
    """A directory tree in which systemd's tools set up users and directories as they would at boot."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for kind in ("sysusers", "tmpfiles"):
            folder = root / "etc" / f"{kind}.d"
            folder.mkdir(parents=True)
            shutil.copy(PROJECT / "systemd" / f"neffd.{kind}.conf", folder / "neffd.conf")
        run("systemd-sysusers", f"--root={root}")
        passwd = (root / "etc" / "passwd").read_text()
        _, _, uid, gid, _, self.home, self.shell = next(
            line for line in passwd.splitlines() if line.startswith("neffd:")
        ).split(":")
        self.uid, self.gid = int(uid), int(gid)

    @property
    def cache(self) -> Path:
        return self.root / CACHE.relative_to("/")

    @property
    def staging(self) -> Path:
        return self.cache.with_name(f"{self.cache.name}.neffd")

    def tmpfiles(self, action: str) -> None:
        assert run("systemd-tmpfiles", action, f"--root={self.root}") == ""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    for tool in ("systemd-sysusers", "systemd-tmpfiles"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (Debian: systemd)")
    return Host(tmp_path)


@needs_root
def test_the_user_cannot_log_in_and_lives_in_the_state_directory(host: Host) -> None:
    assert host.home == f"/var/lib/{settings()['StateDirectory'][0]}"
    assert host.shell.endswith("nologin")
    assert 0 < host.uid < 1000
    assert re.search(rf"^neffd:x:{host.gid}:$", (host.root / "etc" / "group").read_text(), re.MULTILINE)


@needs_root
def test_the_directories_get_owners_and_modes(host: Host) -> None:
    host.tmpfiles("--create")
    cache, staging = host.cache.stat(), host.staging.stat()
    assert (cache.st_uid, cache.st_gid, stat.S_IMODE(cache.st_mode)) == (0, host.gid, 0o2775)
    assert (staging.st_uid, staging.st_gid, stat.S_IMODE(staging.st_mode)) == (host.uid, host.gid, 0o700)


@needs_root
def test_a_directory_that_is_in_use_keeps_its_owner(host: Host) -> None:
    host.cache.mkdir(parents=True)
    os.chown(host.cache, 54321, 54321)
    host.tmpfiles("--create")
    assert (host.cache.stat().st_uid, host.cache.stat().st_gid) == (54321, host.gid)


@needs_root
def test_daemon_and_trainers_can_write_what_the_others_made(host: Host) -> None:
    host.tmpfiles("--create")
    if not has_default_acl(host.cache):
        pytest.skip("no ACLs on this file system")
    trainer, other = (User(uid, uid, [host.gid], umask=0o077) for uid in (54321, 54322))
    daemon = User(host.uid, host.gid)
    cache = os.open(host.cache, os.O_RDONLY)  # the folders above are root's alone
    try:
        trainer.run(lambda: make_entry(cache, "by-trainer"))
        daemon.run(lambda: make_entry(cache, "by-daemon"))
        for user in (daemon, other):
            user.run(lambda: add_to_entry(cache, "by-trainer"))
        for user in (trainer, other):
            user.run(lambda: add_to_entry(cache, "by-daemon"))
        made = [host.cache / name / "model.neff" for name in ("by-trainer", "by-daemon")]
        assert {path.stat().st_gid for path in made} == {host.gid}  # the group that is trusted
    finally:
        os.close(cache)


def has_default_acl(directory: Path) -> bool:
    try:
        return bool(os.getxattr(directory, "system.posix_acl_default"))
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return False
        raise


def make_entry(cache: int, name: str) -> None:
    os.mkdir(name, dir_fd=cache)
    os.close(os.open(f"{name}/model.neff", os.O_CREAT | os.O_WRONLY, 0o666, dir_fd=cache))


def add_to_entry(cache: int, name: str) -> None:
    """What the others need: write the file, link it, make a lock and take it away."""
    os.close(os.open(f"{name}/model.neff", os.O_RDWR, dir_fd=cache))
    link = f"{name}/linked-by-{os.getuid()}"
    os.link(f"{name}/model.neff", link, src_dir_fd=cache, dst_dir_fd=cache, follow_symlinks=False)
    os.unlink(link, dir_fd=cache)


@needs_root
@pytest.mark.parametrize("lines", ["dax", "x"])
def test_nothing_in_the_cache_ages(host: Host, lines: str) -> None:
    """Also where only the lines against ageing apply: another file may have the others."""
    host.tmpfiles("--create")
    config = host.root / "etc" / "tmpfiles.d"
    ours = (config / "neffd.conf").read_text().splitlines()
    (config / "neffd.conf").write_text("".join(f"{line}\n" for line in ours if line.startswith(tuple(lines))))
    # Everything is too old at once, where systemd's own rule says 30 days.
    (config / "tmp.conf").write_text(f"d {CACHE.parent} 1777 root root 0\n")
    kept = [host.cache / "namespace" / "MODULE_1" / "model.neff", host.staging / "outbox" / "1" / "model.neff.part"]
    aged = host.cache.parent / "other" / "file"
    for path in (*kept, aged):
        path.parent.mkdir(parents=True)
        path.touch()
    host.tmpfiles("--clean")
    assert not aged.exists()
    assert all(path.exists() for path in kept)


# docs/operations.md

CODE = re.compile(r"[a-z]+(-[a-z]+)*")
# Calls with a reason code, and which argument it is.
CODED_CALLS = {
    "RemoteUnavailable": 0,
    "EntryRefused": 0,
    "EntryFailed": 0,
    "NotTaken": 0,
    "Answer": 1,
    "note": 0,
    "_on_problem": 0,
}


def codes_in(tree: ast.AST) -> Iterator[str]:
    """Reason codes of one module: in calls, and wherever a name or key `reason` gets or returns one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            position = CODED_CALLS.get(name_of(node.func))
            if position is not None:
                yield from texts_in(*node.args[position : position + 1])
            yield from texts_in(*(keyword.value for keyword in node.keywords if keyword.arg == "reason"))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(name_of(target).endswith(("reason", "reasons")) for target in targets):
                yield from texts_in(node.value)
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            yield from texts_in(
                *(value for key, value in pairs if isinstance(key, ast.Constant) and key.value == "reason")
            )
        elif isinstance(node, ast.Return) and node.value is not None:
            yield from (text for text in texts_in(*outside_calls(node.value)) if "-" in text)


def texts_in(*expressions: ast.AST) -> Iterator[str]:
    for expression in expressions:
        for node in ast.walk(expression):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
                yield node.value


def outside_calls(expression: ast.AST) -> Iterator[ast.AST]:
    """The parts of an expression that are in no call of it."""
    if isinstance(expression, ast.Constant):
        yield expression
    elif isinstance(expression, ast.Dict):
        for value in expression.values:
            yield from outside_calls(value)
    elif not isinstance(expression, ast.Call):
        for child in ast.iter_child_nodes(expression):
            yield from outside_calls(child)


def name_of(expression: ast.expr) -> str:
    return str(getattr(expression, "id", None) or getattr(expression, "attr", ""))


def modules() -> dict[Path, ast.Module]:
    """The daemon's modules that give reasons."""
    daemon = PROJECT / "daemon" / "neffd"
    paths = [path for path in daemon.rglob("*.py") if not path.name.startswith("config")]
    return {path.relative_to(daemon): ast.parse(path.read_text()) for path in paths}


def documented_codes() -> set[str]:
    section = OPERATIONS.read_text().partition("\n## Reason codes\n")[2]
    return set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE))


def test_codes_are_found_in_every_form() -> None:
    source = """
def f(self):
    reason = "a-a" if x else y or "a-b"
    self.note("b-a", detail, "not-this")
    raise RemoteUnavailable(reasons.get(number, "c-a"), "not-this")
    reasons = {1: "c-b"}
    send({"reason": "d-a", "detail": "not-this"}, Access(False, reason="d-b"))
    return None, Answer(False, "e-a") or "e-b", NeffdError("not-this")
"""
    assert set(codes_in(ast.parse(source))) == {"a-a", "a-b", "b-a", "c-a", "c-b", "d-a", "d-b", "e-a", "e-b"}


def test_every_reason_code_is_explained() -> None:
    documented = documented_codes()
    missing = {code: str(path) for path, tree in modules().items() for code in codes_in(tree) if code not in documented}
    assert missing == {}, "give each a row in docs/operations.md, under Reason codes"


def test_no_reason_code_is_explained_that_is_not_there_any_more() -> None:
    texts = {node.value for tree in modules().values() for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert documented_codes() - texts == set()


def test_metrics_to_watch_exist() -> None:
    known = set(re.findall(r"^\| `(neffd_\w+)`", (PROJECT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    assert set(re.findall(r"neffd_\w+", OPERATIONS.read_text())) - known == set()


def test_the_installation_that_is_described_is_the_one_that_the_unit_starts() -> None:
    text = OPERATIONS.read_text()
    program, _, config = settings()["ExecStart"][0].split()
    assert f"python3 -m venv {Path(program).parent.parent}\n" in text
    assert f" {config}\n" in text
    named = set(re.findall(r"systemd/(neffd\.[\w.]+)", text))
    assert named == {path.name for path in (PROJECT / "systemd").iterdir()}
