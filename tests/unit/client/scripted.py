"""A daemon that does what a script says, on a real Unix socket, each connection in a thread of its own."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from neff.protocol import Message

TRANSCRIPTS = Path(__file__).parent / "transcripts"
HELLO: Message = {
    "hello": {
        "protocol": 1,
        "server": "neffd 0.1.0",
        "capabilities": ["resolve", "prefetch", "status", "flush"],
        "root": "/cache",
        "reason": None,
    }
}

Script = Callable[["Peer"], None]


class Peer:
    """The daemon's end of one connection."""

    def __init__(self, sock: socket.socket, stopped: threading.Event) -> None:
        self._socket = sock
        self._file = sock.makefile("rb")
        self._stopped = stopped

    def read(self) -> Message:
        """The client's next message; raises EOFError when it closes."""
        line = self._file.readline()
        if not line:
            raise EOFError
        message: Message = json.loads(line)
        return message

    def send(self, *messages: Message) -> None:
        self.send_raw(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    def send_raw(self, data: bytes) -> None:
        self._socket.sendall(data)

    def greet(self, **changes: Any) -> Message:
        """Exchange greetings; returns the client's."""
        hello: Message = self.read()["hello"]
        self.send({"hello": {**HELLO["hello"], **changes}})
        return hello

    def hang(self) -> None:
        """Say nothing until the test is over."""
        self._stopped.wait(30)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class ScriptedDaemon:
    """Plays `scripts`, one a connection; the last one for all further connections."""

    def __init__(self, path: Path, *scripts: Script) -> None:
        self.path = str(path)
        self.connections = 0
        self.seen: list[Message] = []
        self._scripts = scripts
        self._failures: list[BaseException] = []
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(64)

    def __enter__(self) -> ScriptedDaemon:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._listener.close()
        os.unlink(self.path)  # noqa: PTH108
        if kind is None and self._failures:
            raise self._failures[0]

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            sock.settimeout(20)
            self._start(self._play, script, sock)

    def _play(self, script: Script, sock: socket.socket) -> None:
        peer = Peer(sock, self._stopped)
        try:
            script(peer)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass  # the client has gone, as it may at any time
        except BaseException as failure:
            self._failures.append(failure)
        finally:
            peer.close()


def answering(answer: Callable[[Message, str], list[Message]], seen: list[Message], **hello: Any) -> Script:
    """Greets, then answers every key of every question with what `answer` gives for it."""

    def script(peer: Peer) -> None:
        seen.append(peer.greet(**hello))
        while True:
            request = peer.read()
            seen.append(request)
            for key in request["keys"]:
                peer.send(*({"id": request["id"], "key": key, **part} for part in answer(request, key)))
            peer.send({"id": request["id"], "done": True})

    return script


def serving(seen: list[Message], answers: Mapping[str, list[Message]], **hello: Any) -> Script:
    """Greets, then answers each request with those of its `op`, and that it is done; reads all, heard or not."""

    def script(peer: Peer) -> None:
        seen.append(peer.read()["hello"])
        with suppress(OSError):
            peer.send({"hello": {**HELLO["hello"], **hello}})
        while True:
            request = peer.read()
            seen.append(request)
            with suppress(OSError):
                peer.send(*({"id": request["id"], **answer} for answer in answers.get(request["op"], [])))
                peer.send({"id": request["id"], "done": True})

    return script


def transcript(name: str) -> Script:
    """Plays a golden file: `C` lines must come from the client (`"*"` fits anything), `D` lines are sent."""

    def script(peer: Peer) -> None:
        for line in (TRANSCRIPTS / name).read_text().splitlines():
            side, _, text = line.partition(" ")
            if side == "C":
                assert _fits(json.loads(text), message := peer.read()), f"{text} is not {message}"
            elif side == "D":
                peer.send_raw(text.encode() + b"\n")
        peer.hang()

    return script


def _fits(pattern: object, value: object) -> bool:
    if pattern == "*":
        return True
    if isinstance(pattern, dict) and isinstance(value, dict):
        return pattern.keys() == value.keys() and all(_fits(pattern[key], value[key]) for key in pattern)
    return pattern == value
