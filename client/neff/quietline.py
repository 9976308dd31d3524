"""A connection to the daemon on which nothing is ever waited for: what is said goes at once or not at all."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

from neff.connection import open_now
from neff.errors import LostError
from neff.handlers import pass_on
from neff.protocol import MAX_LINE_BYTES, Message, ProtocolError, decode, encode
from neff.waits import Waits

_CHUNK_BYTES = 65_536


class QuietLine:
    """For one process; its callers keep threads apart.

    Args:
        candidates: where the daemon may listen.
        hello: the greeting, which is sent at once.

    Attributes:
        capabilities: what the daemon can do; None until its greeting has come.
        last_id: number of the last request.

    Raises:
        LostError: nobody takes the connection at once.
    """

    def __init__(self, candidates: Sequence[str], hello: Message, waits: Waits) -> None:
        self.capabilities: frozenset[str] | None = None
        self._buffer = bytearray()
        self.last_id = 0
        opened = open_now(candidates, waits)
        if opened is None:
            raise LostError("no-daemon", "no daemon takes a connection at once")
        self._socket = opened
        self._send({"hello": hello})

    def close(self) -> None:
        """Close this process's end; a no-op if it is closed."""
        self._socket.close()

    def tell(self, op: str, fields: Message) -> None:
        """Send a request; raises LostError if it cannot be sent at once, as a whole."""
        self.last_id += 1
        self._send({"id": self.last_id, "op": op, **fields})

    def messages(self) -> Iterator[Message]:
        """What has come since the last time, the greeting apart; raises LostError if the line has ended."""
        while chunk := self._chunk():
            self._buffer += chunk
            yield from self._complete()

    def _complete(self) -> Iterator[Message]:
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[: end + 1])
            del self._buffer[: end + 1]
            try:
                message = decode(line)
            except ProtocolError:
                raise self._lost("what comes is not neffd's protocol") from None
            if isinstance(hello := message.get("hello"), dict):
                names = hello.get("capabilities")
                self.capabilities = frozenset(map(str, names)) if isinstance(names, list) else frozenset()
            else:
                yield message
        if len(self._buffer) > MAX_LINE_BYTES:
            raise self._lost("what comes is not neffd's protocol")

    def _chunk(self) -> bytes:
        try:
            chunk = self._socket.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            pass_on(error)
            raise self._lost(str(error)) from None
        if not chunk:
            raise self._lost("closed by the daemon")
        return chunk

    def _send(self, message: Message) -> None:
        line = encode(message)
        try:
            sent = self._socket.send(line, socket.MSG_NOSIGNAL)
        except OSError as error:  # a full buffer too
            pass_on(error)
            raise self._lost(str(error)) from None
        if sent != len(line):
            raise self._lost("the daemon reads nothing")

    def _lost(self, why: str) -> LostError:
        self.close()
        return LostError("lost", why)
