"""sd_notify: what the service manager hears, and that it cannot stop the daemon."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from neffd.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(5)
        listening.bind(str(tmp_path / "notify"))
        yield listening


def test_a_state_arrives(manager: socket.socket) -> None:
    Notifier({"NOTIFY_SOCKET": manager.getsockname()}).send("READY=1")
    assert manager.recv(64) == b"READY=1"


def test_an_abstract_address_is_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(5)
        listening.bind(f"\0neffd-test-{os.getpid()}")
        Notifier({"NOTIFY_SOCKET": f"@neffd-test-{os.getpid()}"}).send("READY=1")
        assert listening.recv(64) == b"READY=1"


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "x" * 200])
def test_no_manager_is_no_error(address: str, caplog: pytest.LogCaptureFixture) -> None:
    Notifier({"NOTIFY_SOCKET": address}).send("READY=1")
    assert caplog.text == ""


def test_a_manager_that_does_not_read_does_not_stop_us(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    sent = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filling:
        filling.setblocking(False)
        try:
            while sent < 100_000:
                filling.sendto(b"x", manager.getsockname())
                sent += 1
        except BlockingIOError:
            pass
    notifier.send("WATCHDOG=1")  # returns; a test that hangs here fails by its time limit
    assert sent


async def test_watchdog_is_fed_at_twice_its_rate(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "40000"})
    alive = asyncio.create_task(notifier.keep_alive())  # noqa: TID251
    try:
        for _ in range(3):
            assert await asyncio.to_thread(manager.recv, 64) == b"WATCHDOG=1"
    finally:
        alive.cancel()
        await asyncio.wait({alive})


async def test_another_process_feeds_its_own_watchdog(manager: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "40000", "WATCHDOG_PID": "1"}
    await asyncio.wait_for(Notifier(environ).keep_alive(), 5)
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(64)
