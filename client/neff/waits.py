"""The clock and the one place where the client waits, so that tests can count waits instead of measuring time."""

from __future__ import annotations

import math
import select
import socket
import time

from neff.errors import HandlerError


class Waits:
    """Real time. Tests give their own."""

    def now_s(self) -> float:
        """Monotonic time."""
        return time.monotonic()

    def wait_ready(self, sock: socket.socket | None, timeout_s: float, *, to_write: bool = False) -> bool:
        """Wait until `sock` can be read (or written), at most `timeout_s`; without a socket just wait.

        poll, not select: a trainer easily has more than 1,024 open files. Signals do not end the wait early
        (PEP 475) unless their handler raises, which ends it with a HandlerError.
        """
        poll = select.poll()
        if sock is not None:
            poll.register(sock, select.POLLOUT if to_write else select.POLLIN)
        try:
            return bool(poll.poll(math.ceil(max(timeout_s, 0.0) * 1000)))
        except Exception as error:
            # poll calls nothing that is written in Python: a frame below this one is a handler's.
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise HandlerError(error) from None
            raise
