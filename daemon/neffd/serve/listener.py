"""The Unix socket: who may connect, and that two daemons never share it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from neff.protocol import MAX_SOCKET_PATH_BYTES
from neffd.errors import NeffdError

_BACKLOG = 512


class Listener:
    """Accepts clients on `path`.

    Args:
        mode: permission bits of the socket file; connecting needs write permission.
        group: name of the group that owns the socket file, or None to leave it.
        told_by: where `path` comes from, for errors.
    """

    def __init__(self, path: Path, mode: int, group: str | None, told_by: str = "") -> None:
        self._path = path
        self._named = f"{path} ({told_by})" if told_by else str(path)
        self._mode = mode
        self._group = group
        self._server: asyncio.AbstractServer | None = None
        self._identity: tuple[int, int] | None = None

    async def start(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Bind and listen; raises NeffdError where that is not possible."""
        if len(os.fsencode(self._path)) > MAX_SOCKET_PATH_BYTES:
            raise NeffdError(
                "socket-path",
                f"socket path {self._named} has more than {MAX_SOCKET_PATH_BYTES} bytes",
                "set `socket` to a shorter path",
            )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._clear_stale()
            listening = self._bind()
        except OSError as error:
            raise NeffdError(
                "socket",
                f"cannot listen on {self._named}: {error.strerror or error}",
                "make its folder writable, or set `socket`",
            ) from None
        self._server = await asyncio.get_running_loop().create_unix_server(protocol, sock=listening, backlog=_BACKLOG)

    def stop(self) -> None:
        """Stop accepting; the socket file goes if it is still ours."""
        if self._server is None:
            return
        self._server.close()
        self._remove()

    def _clear_stale(self) -> None:
        """Remove a socket file that nobody listens on; refuse anything else that has the name."""
        try:
            facts = self._path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(facts.st_mode):
            raise NeffdError("socket", f"{self._named} is there and is no socket", "move it away, or set `socket`")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self._path))
            except (ConnectionRefusedError, FileNotFoundError):
                self._path.unlink(missing_ok=True)
                return
            except OSError as error:
                if error.errno != errno.EAGAIN and not isinstance(error, TimeoutError):
                    raise
        raise NeffdError(
            "already-running",
            f"another process listens on {self._named}",
            "stop it, or give this daemon its own `socket`",
        )

    def _bind(self) -> socket.socket:
        gid = -1 if self._group is None else _gid(self._group)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listening.bind(str(self._path))
            facts = self._path.lstat()
            self._identity = (facts.st_dev, facts.st_ino)
            self._path.chmod(self._mode)
            os.chown(self._path, -1, gid)
            listening.listen(_BACKLOG)  # only now can anybody connect
        except BaseException:
            listening.close()
            self._remove()
            raise
        return listening

    def _remove(self) -> None:
        """Remove the socket file if it is still ours: a newer daemon may have put its own in its place."""
        with contextlib.suppress(OSError):
            facts = self._path.lstat()
            if (facts.st_dev, facts.st_ino) == self._identity:
                self._path.unlink()


def _gid(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise NeffdError("socket-group", f"there is no group {group!r}", "create it, or set socket_group") from None
