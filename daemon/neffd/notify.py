"""systemd's notification protocol: ready, stopping, and the watchdog's sign of life (sd_notify(3))."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping

_SEND_S = 0.2


class Notifier:
    """Sends states to the service manager; does nothing where there is none."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        is_for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(environ.get("WATCHDOG_USEC", "0")) / 1e6 if is_for_us else 0.0

    def send(self, state: str) -> None:
        """Tell the service manager, for example `READY=1`; a manager that went away is no error."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(_SEND_S)  # a manager that does not read must not stop the event loop
            sender.sendto(state.encode(), address)

    async def keep_alive(self) -> None:
        """Show, at twice the rate that is asked for, that the event loop still turns."""
        while self.watchdog_s > 0:
            self.send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 2)
