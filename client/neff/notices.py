"""One line a reason a process, on the logger `neff`."""

from __future__ import annotations

import sys

from neff.protocol import safe_text


class Notices:
    """Says each reason once, and reports as often as it is told to."""

    def __init__(self) -> None:
        self._said: dict[str, object] = {}

    def say(self, reason: str, text: str) -> None:
        """Log `text` as a warning unless `reason` was said before, or the interpreter is on its way out."""
        mine = object()
        if sys.is_finalizing() or self._said.setdefault(reason, mine) is not mine:
            return
        self._log(f"{safe_text(text)} ({safe_text(reason)})")

    def report(self, text: str) -> None:
        """Log `text` as a warning, unless the interpreter is on its way out."""
        if not sys.is_finalizing():
            self._log(safe_text(text))

    def _log(self, line: str) -> None:
        import logging  # most processes never get here, and it would be half of our import time

        logging.getLogger("neff").warning("neff: %s", line)
