"""One line a reason a process, on the logger `neff`."""

from __future__ import annotations

import sys

from neff.keys import ModuleName
from neff.protocol import Message, safe_text


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


def who_compiles(name: ModuleName, message: Message) -> str:
    """One line on who compiles what."""
    who = "a process that neffd does not know has locked it"
    if message.get("holder") == "neffd":
        who = "neffd is bringing it"
    elif message.get("pid"):
        does = "compiles it"
        if message.get("holder") == "gone":
            at_work = message.get("at_work")
            pids = f" (process {', '.join(map(str, at_work))})" if isinstance(at_work, list) and at_work else ""
            does = f"has ended, what it started still compiles it{pids}"
        who = f"process {message['pid']} (uid {message.get('uid')}) {does}"
    since, usually = _minutes(message.get("since_s")), _minutes(message.get("usually_s"))
    usual = f", usually {usually}" if usually else ""
    return f"waiting for {name.key}: {who}, for {since or '?'}{usual}"


def _minutes(seconds: object) -> str:
    return f"{seconds / 60:.1f} min" if isinstance(seconds, (int, float)) else ""
