"""A signal may come at any instant of our code: what its handler raises reaches the trainer, and nothing is lost."""

from __future__ import annotations

import contextlib
import dis
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import neff
from neff.asking import Asker
from neff.hook import Hook
from neff.notices import Notices
from neff.protocol import ABSENT
from neff.runs.session import Session
from neff.tally import SUFFIX, Tally
from neff.used import UsedReports
from tests.unit.client.hooked import MODERN
from tests.unit.client.scripted import Peer, ScriptedDaemon

# After these Python looks whether a signal has come.
_CHECKED = ("CALL", "JUMP_BACKWARD", "JUMP_ABSOLUTE")
_OURS = str(Path(neff.__file__).parent)
_CAPABLE = ["resolve", "holding", "released", "wait", "used", "run-ended", "plan", "prefetch"]


class Instant:
    """Traces what is called within; the signal comes at the moment in our code with the number that is given.

    Python runs handlers when a function begins, and when a call has returned or a loop goes round.
    """

    def __init__(self, number: int) -> None:
        self.where: str | None = None
        self._left = number
        self._codes: dict[CodeType, bytes] = {}

    def __enter__(self) -> Instant:
        self._before = sys.gettrace()
        sys._getframe().f_trace_opcodes = True  # Python 3.12 wants one before it traces any
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame: FrameType, event: str, argument: object) -> Any:
        # What is raised below a `__del__`, nobody could hand on.
        if self.where is not None or not _is_ours(frame) or "__del__" in _callers(frame):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        code = self._codes.setdefault(frame.f_code, frame.f_code.co_code)
        previous = "CALL"

        def step(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal previous
            if event == "opcode" and self.where is None:
                # What stands in no line is how Python ends a generator.
                if frame.f_lineno and previous.startswith(_CHECKED) and not previous.startswith("CALL_INTRINSIC"):
                    self._reach(frame)
                previous = dis.opname[code[frame.f_lasti]]
            return step

        return step

    def _reach(self, frame: FrameType) -> None:
        self._left -= 1
        if self._left == 0:
            self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            signal.raise_signal(signal.SIGUSR1)


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_OURS)


def _callers(frame: FrameType | None) -> Iterator[str]:
    while frame is not None and _is_ours(frame):
        yield frame.f_code.co_name
        frame = frame.f_back


def _answers(peer: Peer) -> None:
    peer.greet(capabilities=_CAPABLE)
    while True:
        request = peer.read()
        for key in request.get("keys", []):
            peer.send({"id": request["id"], "key": key, "state": ABSENT, "reason": "not-on-remotes"})
        peer.send({"id": request["id"], "done": True})


class Trainer:
    """One hooked process's state, made anew for each instant, with an entry for each question."""

    def __init__(self, stack: Any, root: Path, socket: str) -> None:
        self._root = root
        self.asker = Asker(socket)
        self.notices = Notices()
        self.hook = Hook(self.asker, self.notices, Tally(str(root)))
        self.hook.used = UsedReports(lambda: socket)
        self.hook.patch(stack)
        self.cache = stack.CompileCacheFs(stack.CacheUrl(str(root), url_type="fs"))
        self._entries = 0
        self._session: Session | None = None

    def entry(self) -> Path:
        self._entries += 1
        entry = self._root / MODERN / f"MODULE_{self._entries}+e30acd3a"
        entry.mkdir(parents=True, exist_ok=True)
        return entry

    def misses(self) -> None:
        assert not self.cache.exists(f"{self.entry()}/model.done")

    def finds(self) -> None:
        entry = self.entry()
        (entry / "model.done").touch()
        assert self.cache.exists(f"{entry}/model.done")

    def compiles(self) -> None:
        hlo = f"{self.entry()}/model.hlo_module.pb"
        if self.cache.hlo_acquire_lock(hlo):
            self.cache.hlo_release_lock(hlo)

    def begins_a_run(self) -> None:
        self._session = neff.session(config={"model_type": "llama"}, packages={}, batch_size=1)
        self._session.__enter__()

    def leaves(self, came: BaseException | None) -> None:
        """What else it does; `came`: what kept it from doing all the rest."""
        if self._session is not None and came is None:
            self._session.__exit__(None, None, None)
        self.hook.unpatch()
        neff.uninstall()


@pytest.fixture
def raised() -> Iterator[list[BaseException]]:
    """What the handler raises, which is put into the list."""
    errors: list[BaseException] = []

    def on_signal(*_: object) -> None:
        raise errors[-1]

    before = signal.signal(signal.SIGUSR1, on_signal)
    yield errors
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # between an `open` and its `with` is such an instant
@pytest.mark.parametrize("kind", [TimeoutError, KeyboardInterrupt])
@pytest.mark.parametrize("does", [Trainer.misses, Trainer.finds, Trainer.compiles, Trainer.begins_a_run])
def test_what_a_handler_raises_at_any_instant_reaches_the_trainer(
    does: Callable[[Trainer], None],
    kind: type[BaseException],
    raised: list[BaseException],
    stack: Any,
    tmp_path: Path,
    socket_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    monkeypatch.delenv("NEFF_RUN", raising=False)
    with ScriptedDaemon(socket_path, _answers) as daemon:
        monkeypatch.setenv("NEFFD_SOCKET", daemon.path)
        for number in range(1, 100_000):
            trainer = Trainer(stack, tmp_path / f"{number}", daemon.path)
            raised.append(kind("the trainer's own"))
            came: BaseException | None = None
            try:
                with Instant(number) as instant:
                    does(trainer)
            except kind as error:
                came = error
            assert (came is raised[-1]) is (instant.where is not None), f"swallowed at {instant.where}"
            assert trainer.asker.is_well, f"held against the daemon at {instant.where}"
            assert came is None or "NEFF_RUN" not in os.environ, f"a run without end from {instant.where}"
            trainer.leaves(came)
            came = None
            raised.pop().__traceback__ = None
            assert not unraisable, f"printed at {instant.where}: {unraisable}"
            if instant.where is None:
                break
    assert number > 50, "it was traced"
    _close_notes()


def _close_notes() -> None:
    """One instant is that between a file's opening and the name for its descriptor."""
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if str(link.readlink()).endswith(SUFFIX):
                os.close(int(link.name))
