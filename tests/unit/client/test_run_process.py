"""The command under `neff run` sees, and is seen, as if `neff run` were not there."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness.processes import children, is_gone
from tests.harness.waiting import eventually
from tests.unit.client.running import CLIENT, SITE, TIMEOUT_S, answer_of, environment, finished, neff_run, python

# Everything about a process that `neff run` could have changed.
PROBE = """
import json, os, sys
def raw(name):
    with open("/proc/self/" + name, "rb") as file:
        return file.read().hex()
status = {name: value.strip() for name, _, value in (line.partition(":") for line in open("/proc/self/status"))}
fds = {}
for name in os.listdir("/proc/self/fd"):
    try:
        fds[name] = os.readlink("/proc/self/fd/" + name)
    except OSError:
        pass  # the listing's own
print(json.dumps({
    "cmdline": raw("cmdline"), "environ": raw("environ"), "limits": raw("limits"), "fds": fds, "cwd": os.getcwd(),
    "umask": status["Umask"], "blocked": status["SigBlk"], "ignored": status["SigIgn"], "ids": status["Uid"],
    "session": os.getsid(0), "group": os.getpgid(0), "nice": os.getpriority(os.PRIO_PROCESS, 0),
}))
"""
ADDED = {b"PYTHONPATH", b"NEFF_RUN_DIR"}
BYTES = st.binary(max_size=12).map(lambda value: value.replace(b"\0", b"/"))
# -S, so that nothing of the site is set up: it is about the process, and twice as fast.
PROBE_WORDS = [sys.executable, "-S", "-c", PROBE]
SLOW = settings(max_examples=10, deadline=None)


@given(arguments=st.lists(BYTES, max_size=6))
@SLOW
def test_it_sees_its_own_arguments(arguments: list[bytes]) -> None:
    words = [*(os.fsencode(word) for word in PROBE_WORDS), *arguments]
    seen = answer_of(finished(neff_run("--", *words)))
    assert bytes.fromhex(seen["cmdline"]).split(b"\0")[:-1] == words


@given(
    variables=st.dictionaries(BYTES.map(lambda name: b"X" + name.replace(b"=", b"_")), BYTES, min_size=1, max_size=4)
)
@SLOW
def test_it_sees_its_own_environment_and_the_documented_additions(variables: dict[bytes, bytes]) -> None:
    env = {os.fsencode(name): os.fsencode(value) for name, value in environment(PYTHONPATH="/theirs").items()}
    env |= variables
    seen = bytes.fromhex(answer_of(finished(neff_run(*PROBE_WORDS), env))["environ"])
    theirs = dict(entry.split(b"=", 1) for entry in seen.split(b"\0") if entry)
    assert {name: value for name, value in theirs.items() if name not in ADDED} == {
        name: value for name, value in env.items() if name not in ADDED
    }
    assert theirs[b"PYTHONPATH"] == os.fsencode(f"{SITE}:/theirs")
    assert theirs.keys() - env.keys() == {b"NEFF_RUN_DIR"}


def test_all_else_is_as_without_it(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    kept = os.open(tmp_path, os.O_RDONLY)

    def set_up() -> None:
        os.umask(0o027)
        os.dup2(kept, 9)
        os.nice(3)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as shells do in the background of a script
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGRTMIN + 3})

    try:
        options: dict[str, Any] = {
            "pass_fds": (reading, writing, 9),
            "preexec_fn": set_up,
            "cwd": tmp_path,
            "start_new_session": False,
        }
        bare = answer_of(finished(PROBE_WORDS, **options))
        below = answer_of(finished(neff_run(*PROBE_WORDS), **options))
    finally:
        for fd in (reading, writing, kept):
            os.close(fd)
    for seen in (bare, below):
        del seen["environ"]
        # Two signals of glibc's own, which nobody can send or handle: its posix_spawn leaves them ignored.
        seen["ignored"] = int(seen["ignored"], 16) & ~(3 << 31)
        seen["fds"] = {fd: target for fd, target in seen["fds"].items() if int(fd) > 2}
    assert below == bare
    assert below["fds"].keys() >= {"9", str(reading), str(writing)}


def test_children_of_children_see_the_same() -> None:
    words = ["sh", "-c", '"$@" 3</dev/null', "sh", *PROBE_WORDS, "last word"]
    seen = answer_of(finished(neff_run(*python("import os, sys; os.execvp(sys.argv[1], sys.argv[1:])", *words))))
    assert bytes.fromhex(seen["cmdline"]).endswith(b"\0last word\0")
    assert seen["fds"]["3"] == "/dev/null"
    assert f"PYTHONPATH={SITE}".encode() in bytes.fromhex(seen["environ"]).split(b"\0")


def test_standard_streams_are_the_commands() -> None:
    done = finished(neff_run("sh", "-c", "cat; echo err >&2"), stdin=None, input=b"in\0\xff")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"in\0\xff", b"err\n")


def test_closed_standard_streams_stay_closed() -> None:
    words = [
        "sh",
        "-c",
        '"$@" <&- 2>&-',
        "sh",
        *neff_run("sh", "-c", "for fd in 0 2; do [ -e /dev/fd/$fd ] && echo $fd; done; exit 5"),
    ]
    done = finished(words)
    assert (done.returncode, done.stdout, done.stderr) == (5, b"", b"")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_whatever_is_closed_the_command_and_its_exit_code_are_the_same(closed: str, tmp_path: Path) -> None:
    shell = f'"$@" {closed}; echo $? > {tmp_path}/code'
    done = finished(["sh", "-c", shell, "sh", *neff_run("sh", "-c", "exit 5")])
    assert (done.stdout, done.stderr) == (b"", b"")
    assert (tmp_path / "code").read_text() == "5\n"


def test_in_a_directory_that_is_gone_it_starts_all_the_same(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    words = ["sh", "-c", 'rmdir "$0"; exec "$@"', str(gone), *neff_run("--socket", "s", "--summary-json", "j", "false")]
    done = finished(words, cwd=gone)
    assert done.returncode == 1
    assert done.stderr == b"neff: no summary in j: No such file or directory\n"


def test_switched_off_it_is_not_there_at_all() -> None:
    words = ["sh", "-c", 'echo $$; exec "$@"', "sh", *neff_run("sh", "-c", "echo $$; cat /proc/self/environ")]
    env = environment(NEFF_DISABLE="1", PYTHONPATH="/theirs")
    pids, _, seen = finished(words, env).stdout.rpartition(b"\n")
    first, second = pids.split()
    assert first == second
    ours = {entry for entry in seen.split(b"\0") if entry.startswith((b"NEFF", b"PYTHONPATH"))}
    assert ours == {b"NEFF_DISABLE=1", b"PYTHONPATH=/theirs"}


def test_switched_off_or_not_a_broken_pipe_ends_the_command_as_ever() -> None:
    for env in (environment(), environment(NEFF_DISABLE="1")):
        done = finished(neff_run("grep", "SigIgn", "/proc/self/status"), env)
        assert int(done.stdout.split()[1], 16) & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)) == 0


@pytest.mark.parametrize("code", [0, 1, 77, 255])
def test_its_exit_code_is_the_commands(code: int) -> None:
    assert finished(neff_run("sh", "-c", f"exit {code}")).returncode == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT, signal.SIGPIPE])
def test_it_dies_by_the_signal_that_killed_the_command(number: signal.Signals, tmp_path: Path) -> None:
    done = finished(neff_run("sh", "-c", f"kill -{int(number)} $$"), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (-number, b"")
    shell = finished(
        ["sh", "-c", '"$@"; echo $?', "sh", *neff_run("sh", "-c", f"kill -{int(number)} $$")], cwd=tmp_path
    )
    assert shell.stdout.decode().split() == [str(128 + number)]


def test_it_ends_well_where_its_caller_ignores_the_end_of_children() -> None:
    done = finished(neff_run("sh", "-c", "exit 9"), preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    assert done.returncode == 9


# Writes a line for each signal it gets; ends with SIGTERM.
LISTENER = """
import os, signal, sys
numbers = [getattr(signal, name) for name in sys.argv[1:]]
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
os.write(1, b"ready\\n")
while True:
    number = signal.sigwait(numbers)
    os.write(1, b"%d\\n" % number)
    if number == signal.SIGTERM:
        break
"""
LISTENED = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGTERM")


@contextmanager
def listening(**options: Any) -> Iterator[subprocess.Popen[bytes]]:
    words = neff_run(*python(LISTENER, *LISTENED))
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment(), **options) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def test_signals_at_it_reach_the_command() -> None:
    with listening() as process:
        assert process.stdout is not None
        for name in LISTENED:
            number = getattr(signal, name)
            process.send_signal(number)
            assert process.stdout.readline() == b"%d\n" % number
        assert process.wait(TIMEOUT_S) == 0


def test_the_command_outlives_it() -> None:
    with listening() as process:
        (command,) = children(process.pid)
        process.kill()
        process.wait(TIMEOUT_S)
        os.kill(command, signal.SIGUSR1)
        assert process.stdout is not None
        assert process.stdout.readline() == b"%d\n" % signal.SIGUSR1
        os.kill(command, signal.SIGTERM)
        assert process.stdout.readline() == b"%d\n" % signal.SIGTERM
        eventually(lambda: is_gone(command), "the end of the command")


def test_a_signal_that_the_command_sends_to_its_whole_group_is_not_sent_back() -> None:
    code = """
import os, signal
got = []
signal.signal(signal.SIGUSR1, lambda *_: got.append(1))
os.killpg(0, signal.SIGUSR1)
os.kill(os.getppid(), signal.SIGUSR2)
signal.sigtimedwait([signal.SIGUSR2], 0.3)
print(len(got))
"""
    done = finished(neff_run(*python(code)), start_new_session=True)
    assert (done.returncode, done.stdout) == (0, b"1\n")


def test_nohup_holds_for_the_command() -> None:
    words = ["nohup", *neff_run("sh", "-c", "kill -HUP $PPID; kill -HUP $$; echo alive")]
    assert finished(words).stdout == b"alive\n"


def test_pausing_the_command_alone_does_not_hang_the_job() -> None:
    with listening() as process:
        (command,) = children(process.pid)
        os.kill(command, signal.SIGSTOP)
        eventually(lambda: state(command) == "T", "the stop")
        os.kill(command, signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0


def test_after_the_command_signals_are_its_own_again() -> None:
    script = (
        "import os, signal; from neff.launch.process import Child; "
        "before = signal.pthread_sigmask(signal.SIG_BLOCK, []); "
        "assert Child(['true'], os.environ).wait() == 0; "
        "assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before; "
        "os.kill(os.getpid(), signal.SIGTERM)"
    )
    assert finished(python(f"import sys; sys.path[0] = {str(CLIENT)!r}; {script}")).returncode == -signal.SIGTERM


def test_another_threads_share_of_the_signals_does_not_hang_it() -> None:
    script = (
        "import os, threading, time; from neff.launch.process import Child; "
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); "
        "child = Child(['sleep', '0.1'], os.environ); "
        "os.waitid(os.P_PID, child._pid, os.WEXITED | os.WNOWAIT); "
        "os._exit(child.wait())"
    )
    assert finished(python(f"import sys; sys.path[0] = {str(CLIENT)!r}; {script}")).returncode == 0


def test_as_the_first_process_of_a_container_it_still_ends_with_the_code() -> None:
    unshare = ctypes.CDLL(None, use_errno=True).unshare
    clone_newpid = 0x20000000

    def own_pids() -> None:
        if unshare(clone_newpid) == 0 and (pid := os.fork()):
            os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)

    done = finished(neff_run("sh", "-c", "kill -TERM $$"), preexec_fn=own_pids)
    assert done.returncode in (128 + signal.SIGTERM, -signal.SIGTERM)  # the latter where namespaces are not permitted


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
