"""One client's connection: greeting, requests, answers. The protocol is described in docs/protocol.md."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from typing import Any, Protocol, cast

from neff import protocol
from neff.keys import ModuleName, is_module_key, is_namespace, parse_module_name
from neff.protocol import Message, ProtocolError, safe_text
from neffd import __version__
from neffd.fetch.flight import Answer, Flight
from neffd.metrics import Metrics
from neffd.tasks import Tasks

log = logging.getLogger(__name__)

CAPABILITIES = ("resolve", "prefetch", "status", "flush")
_PROGRESS_EVERY_S = 0.5
# A client that does not read its answers is let go at this much.
_MAX_UNREAD_BYTES = 4 * protocol.MAX_LINE_BYTES
_MAX_OPEN_REQUESTS = 64
# Longer than any valid name, so that whatever is echoed fits into a line.
_MAX_NAME_CHARS = 512
_MAX_PARKED_SHOWN = 300
_CREDENTIALS = struct.Struct("3i")


class Resolver(Protocol):
    """What answers for the keys of one cache directory: `neffd.fetch.fetcher.Fetcher`."""

    def resolve(self, name: ModuleName) -> Answer | Flight: ...


class Host(Protocol):
    """What a session needs of the service."""

    metrics: Metrics
    tasks: Tasks

    def find_root(self, hello: Message) -> tuple[Resolver | None, str | None, str | None]:
        """For a greeting: the resolver of the managed directory, its path, and where there is none the reason."""

    def resolver_for(self, name: ModuleName) -> Resolver | None:
        """Where a name without a cache directory (`neff prefetch`) is fetched to."""

    async def full_names(self, keys: Collection[str]) -> dict[str, list[ModuleName]]:
        """For each bare module key, the names under which remotes hold it."""

    def status(self) -> dict[str, Any]:
        """The status document."""

    def flush(self, timeout_s: float, progress: Callable[[int], None]) -> Awaitable[tuple[int, list[dict[str, str]]]]:
        """Send what waits; returns what is still pending and what is parked."""


class BadRequest(Exception):
    """A request that cannot be served; `code` is one of the protocol's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Session(asyncio.Protocol):
    """Reads lines, answers what is known at once, and runs everything else as a task that ends with the connection."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._buffer = bytearray()
        self._requests: set[asyncio.Task[None]] = set()
        self._resolver: Resolver | None = None
        self._reason: str | None = "no-greeting"
        self._greeted = False
        self._together: list[bytes] | None = None
        self.uid = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop has classes of its own
        client: socket.socket = transport.get_extra_info("socket")
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, self.uid, _ = _CREDENTIALS.unpack(credentials)
        self._host.metrics.connections.inc()

    def connection_lost(self, exc: Exception | None) -> None:
        self._host.metrics.connections.dec()
        for request in self._requests:
            request.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._together = []
        try:
            while (end := self._buffer.find(b"\n")) >= 0:
                line = bytes(self._buffer[: end + 1])
                del self._buffer[: end + 1]
                if not self._line(line):
                    return
            if len(self._buffer) > protocol.MAX_LINE_BYTES:
                self._hang_up("line too long")
        finally:
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
            self._error(number, error)
        return not self._transport.is_closing()

    def _greet(self, hello: Any) -> None:
        if not isinstance(hello, dict) or not isinstance(hello.get("protocol"), int) or hello["protocol"] < 1:
            raise BadRequest("unsupported-protocol", f"this daemon speaks protocol {protocol.PROTOCOL_VERSION}")
        self._greeted = True
        self._resolver, path, self._reason = self._host.find_root(hello)
        answer = {
            "protocol": protocol.PROTOCOL_VERSION,
            "server": f"neffd {__version__}",
            "capabilities": list(CAPABILITIES),
            "root": path,
            "reason": self._reason,
        }
        self._send({"hello": answer})

    def _request(self, number: Any, message: Message) -> None:
        if type(number) is not int:
            raise BadRequest("bad-request", "id must be a number")
        if len(self._requests) >= _MAX_OPEN_REQUESTS:
            raise BadRequest("too-many", f"more than {_MAX_OPEN_REQUESTS} open requests")
        operation = message.get("op")
        if operation == "resolve":
            self._resolve(number, message)
        elif operation == "status":
            self._send({"id": number, "status": self._host.status(), "done": True})
        elif operation == "prefetch":
            self._start(self._prefetch(number, _strings(message, "names"), bool(message.get("wait"))), "prefetch")
        elif operation == "flush":
            self._start(self._flush(number, _timeout_s(message)), "flush")
        else:
            shown = operation if isinstance(operation, str) else type(operation).__name__
            raise BadRequest("unknown-op", f"no operation {safe_text(shown)!r}")

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._host.tasks.start(work, name=f"{name}-{id(self)}")
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    def _resolve(self, number: int, message: Message) -> None:
        """Answer at once what is known; only the rest needs a task."""
        began_at = time.perf_counter()
        namespace, module_keys = message.get("namespace"), _strings(message, "keys")
        holding = set(_strings(message, "holding"))
        flights: dict[str, Flight] = {}
        for key in module_keys:
            answer = self._ask(namespace, key)
            if isinstance(answer, Flight):
                flights[key] = answer
            else:
                self._answer(number, {"key": key}, answer)
        if flights:
            held = [flight for key, flight in flights.items() if key in holding]
            self._start(self._follow(number, "key", flights, began_at, held), "resolve")
        else:
            self._finish(number, began_at)

    def _ask(self, namespace: Any, key: str) -> Answer | Flight:
        if self._resolver is None:
            return Answer(False, self._reason or "no-cache-dir")
        if not isinstance(namespace, str) or not is_namespace(namespace) or not is_module_key(key):
            return Answer(False, "bad-name")
        return self._resolver.resolve(ModuleName(namespace, key))

    async def _follow(
        self, number: int, label: str, flights: dict[str, Flight], began_at: float, held: Sequence[Flight] = ()
    ) -> None:
        """Report flights until all have landed; of those in `held` the asker has made the lock."""
        landed: asyncio.Queue[str] = asyncio.Queue()
        for flight in held:
            flight.holders.add(id(self))
        for text, flight in flights.items():
            flight.outcome.add_done_callback(lambda _, text=text: landed.put_nowait(text))  # type: ignore[misc]
        try:
            report_at = time.monotonic() + _PROGRESS_EVERY_S
            while flights:
                with contextlib.suppress(asyncio.TimeoutError):
                    text = await asyncio.wait_for(landed.get(), max(0.0, report_at - time.monotonic()))
                    self._answer(number, {label: text}, flights.pop(text).outcome.result())
                if time.monotonic() >= report_at:
                    report_at = time.monotonic() + _PROGRESS_EVERY_S
                    for text, flight in flights.items():
                        if flight.found and not flight.outcome.done():
                            self._send({"id": number, label: text, **_progress(flight)})
            self._finish(number, began_at)
        finally:
            for flight in held:
                flight.holders.discard(id(self))

    async def _prefetch(self, number: int, names: Sequence[str], wait: bool) -> None:
        began_at = time.perf_counter()
        flights: dict[str, Flight] = {}
        bare = [text for text in names if is_module_key(text)]
        full_names = await self._host.full_names(bare) if bare else {}
        for text in names:
            answer = self._ask_by_name(text, full_names.get(text))
            if not isinstance(answer, Flight):
                self._answer(number, {"name": text}, answer)
            elif wait:
                flights[text] = answer
            else:
                self._send({"id": number, "name": text, **_progress(answer)})
        await self._follow(number, "name", flights, began_at)

    def _ask_by_name(self, text: str, full_names: list[ModuleName] | None) -> Answer | Flight:
        """`full_names` are those of a bare key; None where `text` is none."""
        if full_names is None:
            try:
                full_names = [parse_module_name(text)]
            except ValueError:
                return Answer(False, "bad-name")
        if len(full_names) != 1:
            return Answer(False, "ambiguous-namespace" if full_names else "not-on-remotes")
        name = full_names[0]
        resolver = self._resolver or self._host.resolver_for(name)
        return resolver.resolve(name) if resolver is not None else Answer(False, "no-cache-dir")

    async def _flush(self, number: int, timeout_s: float) -> None:
        pending, parked = await self._host.flush(timeout_s, lambda left: self._send({"id": number, "pending": left}))
        self._send({"id": number, "pending": pending, "parked": parked[:_MAX_PARKED_SHOWN], "done": True})

    def _answer(self, number: int, what: Message, answer: Answer) -> None:
        state = protocol.READY if answer.ready else protocol.ABSENT
        detail = {"source": answer.source} if answer.ready else {"reason": answer.reason}
        self._host.metrics.questions.labels(state, answer.reason).inc()
        self._send({"id": number, **what, "state": state, **detail})

    def _finish(self, number: int, began_at: float) -> None:
        self._host.metrics.answer_s.observe(time.perf_counter() - began_at)
        self._send({"id": number, "done": True})

    def _send(self, message: Message) -> None:
        if self._transport.is_closing():
            return
        try:
            line = protocol.encode(message)
        except ProtocolError as error:
            return self._error(message.get("id"), BadRequest("too-many", str(error)))
        if self._together is not None:
            self._together.append(line)
        else:
            self._write(line)
        return None

    def _send_together(self) -> None:
        """What one piece of input was answered with, as one write: a system call is most of a short answer's cost."""
        lines, self._together = self._together, None
        if lines and not self._transport.is_closing():
            self._write(b"".join(lines))

    def _write(self, lines: bytes) -> None:
        self._transport.write(lines)
        if self._transport.get_write_buffer_size() > _MAX_UNREAD_BYTES:
            log.info("a client of uid %d does not read its answers", self.uid)
            self._transport.abort()

    def _error(self, number: Any, error: BadRequest) -> None:
        shown = number if type(number) is int else None
        self._send({"id": shown, "error": {"code": error.code, "message": safe_text(error)}})

    def _hang_up(self, why: str) -> None:
        self._error(None, BadRequest("bad-request", why))
        self._send_together()
        self._transport.close()


def _progress(flight: Flight) -> Message:
    return {
        "state": protocol.FETCHING,
        "done_bytes": flight.done_bytes,
        "total_bytes": flight.queued_bytes + flight.total_bytes,
        "give_up_s": flight.give_up_s,
    }


def _strings(message: Message, field: str) -> Sequence[str]:
    values = message.get(field, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise BadRequest("bad-request", f"{field} must be a list of strings")
    if len(values) > protocol.MAX_KEYS_PER_REQUEST:
        raise BadRequest("too-many", f"{field} holds more than {protocol.MAX_KEYS_PER_REQUEST} names")
    if any(len(value) > _MAX_NAME_CHARS for value in values):
        raise BadRequest("bad-request", f"{field} holds a name of more than {_MAX_NAME_CHARS} characters")
    return values


def _timeout_s(message: Message) -> float:
    timeout_s = message.get("timeout_s", 60)
    if type(timeout_s) not in (int, float) or not 0 <= timeout_s <= 86_400:
        raise BadRequest("bad-request", "timeout_s must be from 0 to 86400")
    return float(timeout_s)
