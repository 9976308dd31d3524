"""One blocking connection to the daemon: finding the socket, the greeting, requests and their answers.

Every wait goes through `Waits.wait_ready` and has an absolute deadline, so trickling bytes cannot prolong it. Whatever
comes instead of the protocol ends in a `DaemonError`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from neff import forks
from neff.errors import LostError, RefusedError, SilentError, UnreachableError
from neff.handlers import pass_on
from neff.patience import FIRST_ANSWER_S, Patience
from neff.protocol import (
    MAX_LINE_BYTES,
    MAX_SOCKET_PATH_BYTES,
    SYSTEM_SOCKET,
    Message,
    ProtocolError,
    decode,
    encode,
    safe_text,
)
from neff.waits import Waits

_CHUNK_BYTES = 65_536
# A full queue of waiting connections cannot be polled for; look again this often.
_BUSY_RETRY_S = 0.02
_STDERR = 2


def socket_candidates(given: str | None, environ: Mapping[str, str] | None = None) -> list[str]:
    """Where the daemon may listen, best first. A path that somebody names is the only candidate."""
    environ = os.environ if environ is None else environ
    named = given or environ.get("NEFFD_SOCKET")
    if named:
        return [named]
    runtime_dir = environ.get("XDG_RUNTIME_DIR")
    own = [os.path.join(runtime_dir, "neffd", "neffd.sock")] if runtime_dir else []
    return [SYSTEM_SOCKET, *own]


def connect(candidates: Sequence[str], greeting: Message, waits: Waits, limit_s: float) -> Connection:
    """Connect to the first candidate that takes the connection and exchange greetings, all within `limit_s`."""
    deadline_s = waits.now_s() + limit_s
    failures: list[tuple[str, OSError]] = []
    for path in candidates:
        try:
            sock = _open_socket(path, waits, deadline_s)
        except OSError as error:
            pass_on(error)
            failures.append((path, error))
            continue
        connection = Connection(sock, path, waits)
        try:
            connection.greet(greeting, deadline_s)
        except BaseException:
            connection.close()
            raise
        return connection
    raise _unreachable(failures)


def post(candidates: Sequence[str], messages: Sequence[Message], waits: Waits) -> None:
    """Leave messages, the greeting first, where a daemon is too busy to answer: it reads them when it comes to it.

    Waits for nothing and says nothing of whether they will be read.
    """
    lines = b"".join(map(encode, messages))
    sock = open_now(candidates, waits)
    if sock is not None:
        with sock:
            try:
                sock.send(lines, socket.MSG_NOSIGNAL)
            except OSError as error:
                pass_on(error)


def open_now(candidates: Sequence[str], waits: Waits) -> socket.socket | None:
    """A non-blocking socket of the first candidate that takes a connection without any wait."""
    for path in candidates:
        try:
            return _open_socket(path, waits, waits.now_s())
        except OSError as error:  # noqa: PERF203, of two
            pass_on(error)
    return None


def _unreachable(failures: list[tuple[str, OSError]]) -> UnreachableError:
    for path, error in failures:
        if isinstance(error, PermissionError):
            return UnreachableError("no-permission", f"no permission to talk to the daemon at {path}")
    tried = " or ".join(f"{path} ({error.strerror or error})" for path, error in failures)
    return UnreachableError("no-daemon", f"no daemon answers at {tried}")


class Connection:
    """A connection after its greeting. For one thread of one process; a forked child closes its copy."""

    def __init__(self, sock: socket.socket, path: str, waits: Waits) -> None:
        self.path = path
        self.capabilities: frozenset[str] = frozenset()
        self.reason: str | None = None
        self.alive_s: float | None = None
        self.was_used = False
        self._socket = sock
        self._waits = waits
        self._buffer = bytearray()
        self._last_id = 0
        forks.watch(self)

    def after_fork_in_child(self) -> None:
        """The parent's connection must end with the parent, also where its greeting was under way."""
        self.close()

    def __del__(self) -> None:
        with suppress(AttributeError):  # ended by a signal while it was made
            self.close()

    @property
    def is_closed(self) -> bool:
        """Whether this end is closed."""
        return self._socket.fileno() < 0

    def close(self) -> None:
        """Close this process's end; a no-op if it is closed."""
        self._socket.close()

    def greet(self, greeting: Message, deadline_s: float) -> None:
        """Exchange greetings; raises UnreachableError when the daemon stays silent or is none."""
        try:
            self._send({"hello": greeting}, deadline_s)
            answer = self._receive(deadline_s)
        except SilentError:
            text = f"the daemon at {self.path} takes connections but does not greet"
            raise UnreachableError("silent", text) from None
        _raise_if_error(answer)
        hello = answer.get("hello")
        if not isinstance(hello, dict):
            raise LostError("garbage", f"what listens at {self.path} does not greet like neffd")
        names = hello.get("capabilities")
        if isinstance(names, list):
            self.capabilities = frozenset(name for name in names if isinstance(name, str))
        alive_s = hello.get("alive_s")
        self.alive_s = alive_s if isinstance(alive_s, (int, float)) and 0 < alive_s < FIRST_ANSWER_S else None
        reason = hello.get("reason")
        self.reason = reason if isinstance(reason, str) else None

    def answers(self, op: str, fields: Message, patience: Patience) -> Iterator[Message]:
        """Send one request and give its answers up to the last.

        A caller that has what it wanted may stop early: later answers of a request that is over are skipped.
        Raises SilentError when the patience ends.
        """
        if op not in self.capabilities:
            raise RefusedError("unsupported", f"the daemon at {self.path} does not offer {op!r}: another version?")
        self._last_id += 1
        request_id = self._last_id
        self._send({"id": request_id, "op": op, **fields}, patience.deadline_s)
        while True:
            message = self._receive(patience.deadline_s)
            now_s = self._waits.now_s()
            if message.get("id") in (request_id, None):
                _raise_if_error(message)
            if message.get("id") == request_id:
                patience.heard(message, now_s)
                yield message
                if message.get("done") is True:
                    return
            if now_s >= patience.deadline_s:
                raise self._silent()

    def tell(self, op: str, fields: Message) -> None:
        """Send one request whose answer nobody waits for; nothing happens where the daemon does not offer it.

        Raises LostError where it cannot be sent at once.
        """
        if op not in self.capabilities:
            return
        self._last_id += 1
        line = encode({"id": self._last_id, "op": op, **fields})
        if self._send_some(memoryview(line)) != len(line):
            self.close()
            raise self._lost("the daemon reads nothing")

    def _send(self, message: Message, deadline_s: float) -> None:
        rest = memoryview(encode(message))
        while rest := rest[self._send_some(rest) :]:
            if not self._waits.wait_ready(self._socket, max(deadline_s - self._waits.now_s(), 0.0), to_write=True):
                raise self._silent()

    def _send_some(self, data: memoryview) -> int:
        try:
            return self._socket.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as error:
            pass_on(error)
            raise self._lost(error.strerror or str(error)) from None

    def _receive(self, deadline_s: float) -> Message:
        """The next message. What has already arrived is taken even after the deadline."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MAX_LINE_BYTES:
                raise self._garbage()
            if not self._waits.wait_ready(self._socket, max(deadline_s - self._waits.now_s(), 0.0)):
                raise self._silent()
            self._buffer += self._read_chunk()
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        try:
            return decode(line)
        except ProtocolError:
            raise self._garbage() from None

    def _read_chunk(self) -> bytes:
        try:
            chunk = self._socket.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            pass_on(error)
            raise self._lost(error.strerror or str(error)) from None
        if not chunk:
            raise self._lost("closed by the daemon")
        return chunk

    def _silent(self) -> SilentError:
        return SilentError("silent", f"the daemon at {self.path} does not answer in time")

    def _lost(self, why: str) -> LostError:
        return LostError("lost", f"the connection to {self.path} ended: {why}")

    def _garbage(self) -> LostError:
        return LostError("garbage", f"what comes from {self.path} is not neffd's protocol")


def _open_socket(path: str, waits: Waits, deadline_s: float) -> socket.socket:
    """A connected, non-blocking socket (close-on-exec, as all of Python's); raises OSError."""
    length_bytes = len(os.fsencode(path))
    if length_bytes > MAX_SOCKET_PATH_BYTES:
        raise OSError(f"a socket path of {length_bytes} bytes, at most {MAX_SOCKET_PATH_BYTES} are possible")
    sock = _make_socket()
    try:
        sock.setblocking(False)
        while not _is_connected(sock, path):
            left_s = deadline_s - waits.now_s()
            if left_s <= 0:
                raise TimeoutError("too many others wait to connect")
            waits.wait_ready(None, min(_BUSY_RETRY_S, left_s))
        return sock
    except BaseException:
        sock.close()
        raise


def _make_socket() -> socket.socket:
    """Never under the number of a standard stream that is closed: what is printed there would go to the daemon."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if sock.fileno() > _STDERR:
        return sock
    import fcntl  # only here

    with sock:
        return socket.socket(fileno=fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, _STDERR + 1))


def _is_connected(sock: socket.socket, path: str) -> bool:
    """One attempt; False if the daemon's queue is full."""
    try:
        sock.connect(path)
    except BlockingIOError:
        return False
    return True


def _raise_if_error(message: Message) -> None:
    error = message.get("error")
    if error is None:
        return
    fields = error if isinstance(error, dict) else {}
    raise RefusedError(safe_text(fields.get("code", "error")), safe_text(fields.get("message", "no message")))
