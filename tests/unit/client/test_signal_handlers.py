"""The trainer's own signal handlers act as without us: also while it waits for the daemon, also when they raise."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import neff
from neff.asking import Asker
from neff.errors import LostError
from neff.handlers import is_of_handler
from neff.hook import Hook
from neff.keys import ModuleName
from neff.notices import Notices
from neff.protocol import FREE, MAX_LINE_BYTES
from neff.quietline import QuietLine
from neff.waits import Waits
from tests.harness.waiting import eventually
from tests.unit.client.hooked import Answers
from tests.unit.client.scripted import Peer, ScriptedDaemon
from tests.unit.client.test_waiting import CAPABLE, COMPILING, NAME, ROOT

OWN_LIMITS = [TimeoutError("the trainer's own limit"), RuntimeError("a worker has died"), ValueError("its own")]


@contextlib.contextmanager
def handler(error: BaseException) -> Iterator[None]:
    """A handler of SIGUSR1 that raises."""

    def on_signal(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def signal_the_waiting() -> None:
    """Once the main thread waits; until then a signal is no different from any other time."""

    def is_waiting() -> bool:
        (frame,) = [frame for ident, frame in sys._current_frames().items() if ident == threading.main_thread().ident]
        return frame.f_code.co_name == "wait_ready"

    eventually(is_waiting, "the wait")
    os.kill(os.getpid(), signal.SIGUSR1)


def until_it_leaves(peer: Peer) -> None:
    with pytest.raises((EOFError, ConnectionResetError)):
        peer.read()


def signalled(peer: Peer) -> None:
    """Has the signal come while its client waits for what never comes."""
    peer.greet(**CAPABLE)
    peer.read()
    signal_the_waiting()
    until_it_leaves(peer)


class Handles:
    """A handler with a state of its own."""

    def __call__(self, *_: object) -> None:
        raise RuntimeError("a worker has died")


@pytest.mark.parametrize("error", OWN_LIMITS, ids=lambda error: type(error).__name__)
def test_what_it_raises_during_a_question_reaches_the_trainer(
    error: Exception, stack: Any, entry: Path, tmp_path: Path, socket_path: Path
) -> None:
    with ScriptedDaemon(socket_path, signalled) as daemon, handler(error):
        asker = Asker(daemon.path)
        hook = Hook(asker, Notices())
        hook.patch(stack)
        cache = stack.CompileCacheFs(stack.CacheUrl(str(tmp_path), url_type="fs"))
        with pytest.raises(type(error)) as raised:
            cache.exists(f"{entry}/model.done")
        assert raised.value is error
        assert asker.is_well, "no failure of the daemon's"
        hook.unpatch()


def test_what_it_raises_anywhere_else_in_our_code_reaches_the_trainer(
    hook: Hook, answers: Answers, stack: Any, entry: Path, tmp_path: Path
) -> None:
    def signalled(name: ModuleName) -> bool:
        os.kill(os.getpid(), signal.SIGUSR1)
        return False

    answers.answer = signalled
    cache = stack.CompileCacheFs(stack.CacheUrl(str(tmp_path), url_type="fs"))
    with handler(OWN_LIMITS[0]), pytest.raises(TimeoutError):
        cache.exists(f"{entry}/model.done")


@pytest.mark.parametrize(
    "handle", [Handles(), functools.partial(Handles.__call__, Handles())], ids=["object", "partial"]
)
def test_a_handler_need_not_be_a_function(handle: Any) -> None:
    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with pytest.raises(RuntimeError) as raised:
            os.kill(os.getpid(), signal.SIGUSR1)
        assert is_of_handler(raised.value)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not is_of_handler(raised.value)


@pytest.mark.parametrize("error", [OWN_LIMITS[0], KeyboardInterrupt()], ids=lambda error: type(error).__name__)
def test_what_it_raises_while_a_session_begins_reaches_the_trainer_and_there_is_no_run(
    error: BaseException, socket_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def silent(peer: Peer) -> None:
        peer.read()
        signal_the_waiting()
        until_it_leaves(peer)

    monkeypatch.setenv("NEURON_COMPILE_CACHE_URL", str(tmp_path))
    monkeypatch.delenv("NEFF_RUN", raising=False)
    with ScriptedDaemon(socket_path, silent) as daemon, handler(error):
        monkeypatch.setenv("NEFFD_SOCKET", daemon.path)
        try:
            session = neff.session(config={"model_type": "llama"}, packages={}, batch_size=1)
            with pytest.raises(type(error)) as raised, session:
                pytest.fail("the limit was over before")
            assert raised.value is error
            assert "NEFF_RUN" not in os.environ, "what comes now is no part of a run that never began"
        finally:
            neff.uninstall()


def test_a_failure_of_the_wait_itself_is_no_handlers() -> None:
    with handler(OWN_LIMITS[0]), pytest.raises(OverflowError):
        Waits().wait_ready(None, 1e18)


def test_a_wait_ends_when_the_lock_is_seen_to_be_gone(socket_path: Path) -> None:
    def believes(peer: Peer) -> None:
        peer.greet(**CAPABLE)
        request = peer.read()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(100):
                peer.send({"id": request["id"], **COMPILING})

    seen = iter([True, True, False])
    with ScriptedDaemon(socket_path, believes) as daemon:
        asker = Asker(daemon.path)
        assert asker.wait_for_lock(ROOT, NAME, is_there=lambda: next(seen)) == FREE
        asker.close()
    assert list(seen) == []


def test_a_line_that_does_not_end_is_not_kept(socket_path: Path) -> None:
    def endless(peer: Peer) -> None:
        peer.read()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while True:
                peer.send_raw(b"x" * 65_536)

    with ScriptedDaemon(socket_path, endless) as daemon:
        line = QuietLine([daemon.path], {}, Waits())
        with pytest.raises(LostError):
            eventually(lambda: list(line.messages()), "a message")
        assert len(line._buffer) <= MAX_LINE_BYTES + 65_536
