"""One client's connection: greeting, requests, answers. The protocol is described in docs/protocol.md.

What can be asked for is a table of operations; each lives in a module of its own (`serve/operations/`) and is given
the session, the request's number and the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, Protocol, cast

from neff import protocol
from neff.keys import LockId, ModuleName
from neff.protocol import Message, ProtocolError, safe_text
from neffd import __version__
from neffd.compiles.board import Program
from neffd.compiles.processes import client_pid, program_of
from neffd.fetch.flight import Answer, Flight
from neffd.limits import CONNECTIONS, Limits
from neffd.metrics import Metrics
from neffd.serve.client_failures import count_failures
from neffd.tasks import Tasks

log = logging.getLogger(__name__)

# While a question is open, something is sent at least this often.
ALIVE_S = 1.0
# A client that does not read its answers is let go at this much.
_MAX_UNREAD_BYTES = 4 * protocol.MAX_LINE_BYTES
# So long the requests of one client are served in a row: thousands may come at once.
_TURN_S = 0.005
# Answers wait for the rest of what came with their requests until there are so many.
_MAX_GATHERED_BYTES = 65_536
_MAX_OPEN_REQUESTS = 64
_MAX_JOB_VARIABLES = 16
_CREDENTIALS = struct.Struct("3i")


class Resolver(Protocol):
    """What answers for the keys of one cache directory: `neffd.fetch.fetcher.Fetcher`."""

    def resolve(self, name: ModuleName, *, urgent: bool = True, holding: LockId | None = None) -> Answer | Flight: ...


class Host(Protocol):
    """What a session needs of the service."""

    metrics: Metrics
    tasks: Tasks
    limits: Limits

    def find_root(self, hello: Message) -> tuple[Resolver | None, str | None, str | None]:
        """For a greeting: the resolver of the managed directory, its path, and where there is none the reason."""


class BadRequest(Exception):
    """A request that cannot be served; `code` is one of the protocol's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Session(asyncio.Protocol):
    """Reads lines and hands requests to their operations; what they start ends with the connection.

    Attributes:
        uid, pid: of the client, as the kernel states them; pid is 0 for a process of an invisible pid namespace, and
            for one behind a proxy.
        root: path of the managed cache directory that the client greeted for, None where it is none.
        resolver: what answers for the keys of `root`.
        reason: why `root` is None, or what is not as the client asked.
        job: the launcher's variables that the client named.
        program: which program the client's process is, where that is certain.
        tell: is shown each final answer; what it returns is sent.
        greeted: is shown each greeting.
    """

    def __init__(
        self,
        host: Host,
        operations: Mapping[str, Operation],
        tell: Tell | None = None,
        greeted: Greeted | None = None,
    ) -> None:
        self._host = host
        self._operations = operations
        self._buffer = bytearray()
        self._requests: set[asyncio.Task[None]] = set()
        self._closers: dict[object, Callable[[], None]] = {}
        self._greeted = self._is_admitted = self._is_behind = False
        self._together: list[bytes] | None = None
        self.metrics = host.metrics
        self.resolver: Resolver | None = None
        self.root: str | None = None
        self.reason: str | None = "no-greeting"
        self.job: dict[str, str] = {}
        self.program: Program | None = None
        self.tell: Tell = tell or _as_it_is
        self._greeted_by = greeted
        self.uid = -1
        self.pid = self._peer = 0

    def reply(self, number: int, /, **fields: Any) -> None:
        """Send one answer of request `number`; the last one holds `done=True`. A no-op once the client is gone."""
        self._send({"id": number, **fields})

    def error(self, number: int | None, code: str, text: str) -> None:
        """End request `number` with an error; `code` is one of the protocol's."""
        self._send({"id": number, "error": {"code": code, "message": safe_text(text)}})

    def start(self, number: int, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run `work`, which answers request `number`, until it is done or the client is gone, whichever is first."""
        task = self._host.tasks.start(self._answered(number, work), name=f"{name}-{id(self)}")
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def _answered(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:  # a defect of ours: seen in the log, and not waited for
            self.error(number, "internal-error", "a fault of the daemon's own; its log says more")
            raise

    def on_close(self, callback: Callable[[], None], key: object = None) -> None:
        """Have `callback` called once the connection has ended; of those with the same `key` only the last."""
        self._closers[key or callback] = callback

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop has classes of its own
        client: socket.socket = transport.get_extra_info("socket")
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self._peer, self.uid, _ = _CREDENTIALS.unpack(credentials)
        self.pid = self._peer
        self.metrics.connections.inc()
        self._is_admitted = self._host.limits.take(self._host.limits.connections, self.uid, CONNECTIONS)
        if not self._is_admitted:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.metrics.connections.dec()
        if self._is_admitted:
            self._host.limits.give_back(self._host.limits.connections, self.uid)
        for request in self._requests:
            request.cancel()
        closers, self._closers = self._closers, {}
        for callback in closers.values():
            callback()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_behind:
            self._take_turn()

    def _take_turn(self) -> None:
        """Serve what has come; what is left after a while lets others go first."""
        if self._transport.is_closing():
            return
        was_behind = self._is_behind
        with self.together():
            self._is_behind = self._is_more_left(time.monotonic() + _TURN_S)
        if self._transport.is_closing():
            return
        if self._is_behind:
            asyncio.get_running_loop().call_soon(self._take_next_turn)
        if self._is_behind and not was_behind:
            self._transport.pause_reading()
        elif was_behind and not self._is_behind:
            self._transport.resume_reading()

    def _take_next_turn(self) -> None:
        try:
            self._take_turn()
        except BaseException:  # a defect of ours: nobody else would let the client know
            self._transport.abort()
            raise

    def _is_more_left(self, ends_at_s: float) -> bool:
        """Serve lines until `ends_at_s`; whether there are more."""
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[: end + 1])
            del self._buffer[: end + 1]
            if not self._line(line):
                return False
            if time.monotonic() >= ends_at_s:
                return b"\n" in self._buffer
        if len(self._buffer) > protocol.MAX_LINE_BYTES:
            self._hang_up("line too long")
        return False

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is said inside goes as one write: a system call is most of a short answer's cost."""
        self._together = self._together or []
        try:
            yield
        finally:
            # Who has sent all that it has to say may be gone: to write to it ends the connection.
            if not self._is_behind or sum(map(len, self._together or ())) > _MAX_GATHERED_BYTES:
                self._send_together()

    def _line(self, line: bytes) -> bool:
        """Serve one line; false once the connection is given up."""
        try:
            message = protocol.decode(line)
        except ProtocolError as error:
            self._hang_up(str(error))
            return False
        number = message.get("id")
        try:
            if "hello" in message:
                self._greet(message["hello"])
            elif not self._greeted:
                self._hang_up("greeting expected")
                return False
            else:
                self._request(number, message)
        except BadRequest as error:
            self.error(number if type(number) is int else None, error.code, str(error))
        return not self._transport.is_closing()

    def _greet(self, hello: Any) -> None:
        if not isinstance(hello, dict) or not isinstance(hello.get("protocol"), int) or hello["protocol"] < 1:
            raise BadRequest("unsupported-protocol", f"this daemon speaks protocol {protocol.PROTOCOL_VERSION}")
        self._greeted = True
        self.resolver, self.root, self.reason = self._host.find_root(hello)
        self.job = _job(hello.get("job"))
        self.pid = client_pid(hello, self._peer)
        self.program = program_of(hello, self.pid)
        count_failures(self.metrics, hello.get("failures"))
        if self._greeted_by is not None:
            self._greeted_by(self, hello)
        answer = {
            "protocol": protocol.PROTOCOL_VERSION,
            "server": f"neffd {__version__}",
            "capabilities": list(self._operations),
            "alive_s": ALIVE_S,
            "root": self.root,
            "reason": self.reason,
        }
        self._send({"hello": answer})

    def _request(self, number: Any, message: Message) -> None:
        if type(number) is not int:
            raise BadRequest("bad-request", "id must be a number")
        if len(self._requests) >= _MAX_OPEN_REQUESTS:
            raise BadRequest("too-many", f"more than {_MAX_OPEN_REQUESTS} open requests")
        name = message.get("op")
        operation = self._operations.get(name) if isinstance(name, str) else None
        if operation is None:
            shown = name if isinstance(name, str) else type(name).__name__
            raise BadRequest("unknown-op", f"no operation {safe_text(shown)!r}")
        operation(self, number, message)

    def _send(self, message: Message) -> None:
        if self._transport.is_closing():
            return
        try:
            line = protocol.encode(message)
        except ProtocolError as error:
            return self.error(message.get("id"), "too-many", str(error))
        if self._together is not None:
            self._together.append(line)
        else:
            self._write(line)
        return None

    def _send_together(self) -> None:
        lines, self._together = self._together, None
        if lines and not self._transport.is_closing():
            self._write(b"".join(lines))

    def _write(self, lines: bytes) -> None:
        self._transport.write(lines)
        if self._transport.get_write_buffer_size() > _MAX_UNREAD_BYTES:
            log.info("a client of uid %d does not read its answers", self.uid)
            self._transport.abort()

    def _hang_up(self, why: str) -> None:
        self.error(None, "bad-request", why)
        self._send_together()
        self._transport.close()


def _job(value: Any) -> dict[str, str]:
    """The variables of a greeting, bounded."""
    pairs = list(value.items())[:_MAX_JOB_VARIABLES] if isinstance(value, dict) else []
    return {safe_text(name): safe_text(text) for name, text in pairs}


def _as_it_is(session: Session, name: ModuleName, answer: Answer) -> Answer:
    return answer


Tell = Callable[[Session, ModuleName, Answer], Answer]
Greeted = Callable[[Session, Message], None]
# Answers with `session.reply`, now or from a coroutine given to `session.start`; may raise BadRequest at once.
Operation = Callable[[Session, int, Message], None]
