"""Becomes somebody else somewhere else, then the command: `python -I -S enter.py ROOM COMMAND …`, as root.

ROOM is what `rooms.Room.prefix` writes. Everything is done with the system calls themselves, so that neither tools nor
an interpreter that the new user can reach are needed before the command. Mounts vanish with the last process.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_FLAGS = {
    "mount": 0x20000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4


def main() -> None:
    room: dict[str, Any] = json.loads(sys.argv[1])
    namespaces = set(room["namespaces"])
    _call("unshare", _FLAGS["mount"] | sum(_FLAGS[name] for name in namespaces - {"user"}))
    _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    _make_mounts(room["mounts"])
    if "pid" in namespaces:
        _go_on_as_first_process()
    os.setgroups(room["groups"])
    os.setresgid(*[room["gid"]] * 3)
    os.setresuid(*[room["uid"]] * 3)
    os.umask(room["umask"])
    if "user" in namespaces:
        _be_root_of_a_user_namespace(room["uid"], room["gid"])
    if "pid" in namespaces:
        _call("prctl", _PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)  # only now: a change of user forgets it
    os.execvp(sys.argv[2], sys.argv[2:])


def _make_mounts(mounts: list[tuple[str, str, str]]) -> None:
    # Opened first: a mount may hide the source of a later one.
    sources = [os.open(source, os.O_PATH) if source else -1 for _, source, _ in mounts]
    for (kind, source, target), opened in zip(mounts, sources, strict=True):
        _make_target(target, is_folder=not source or os.path.isdir(f"/proc/self/fd/{opened}"))  # noqa: PTH112
        if kind == "tmpfs":
            _call("mount", b"tmpfs", os.fsencode(target), b"tmpfs", 0, b"mode=755")
        elif kind == "bind":
            _call("mount", b"/proc/self/fd/%d" % opened, os.fsencode(target), None, _MS_BIND | _MS_REC, None)
        else:
            for part in ("upper", "work"):
                _make_target(f"{target}.{part}", is_folder=True)
            options = f"lowerdir=/proc/self/fd/{opened},upperdir={target}.upper,workdir={target}.work"
            _call("mount", b"overlay", os.fsencode(target), b"overlay", 0, os.fsencode(options))
    for opened in sources:
        if opened >= 0:
            os.close(opened)


def _make_target(path: str, *, is_folder: bool) -> None:
    folder = path if is_folder else os.path.dirname(path)  # noqa: PTH120
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103
    if not is_folder:
        os.close(os.open(path, os.O_CREAT, 0o644))


def _go_on_as_first_process() -> None:
    """Returns in the first process of the new pid namespace; this one waits for it and ends as it does."""
    child = os.fork()
    if child == 0:
        _call("mount", b"proc", b"/proc", b"proc", 0, None)
        return
    status = os.waitpid(child, 0)[1]
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


def _be_root_of_a_user_namespace(uid: int, gid: int) -> None:
    """What rootless containers do: this user is root inside, and nobody else is there."""
    _call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)  # else our own /proc/self is not ours to write
    _call("unshare", _FLAGS["user"])
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _call(name: str, *arguments: Any) -> None:
    """One system call through libc; raises OSError that says which."""
    given = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    if getattr(_LIBC, name)(*given) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
