"""Running a function as another user, in a child: an interpreter need not be startable for that user."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest


def needs_root(test: Any) -> Any:
    """Marks a test that acts as several users."""
    skip = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as several users")
    return pytest.mark.root(skip(test))


@dataclass(frozen=True)
class User:
    """Somebody on the host; `groups` beside the own one."""

    uid: int
    gid: int
    groups: Sequence[int] = ()
    umask: int = 0o077

    def run(self, work: Callable[[], Any]) -> Any:
        """What `work` returns, through JSON; raises AssertionError with what it raised."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reading)
                os.write(writing, json.dumps(self._answer(work)).encode())
            finally:
                os._exit(0)
        os.close(writing)
        with open(reading, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(child, 0)
        outcome = json.loads(answer)
        assert "raised" not in outcome, outcome["raised"]
        return outcome["returned"]

    def _answer(self, work: Callable[[], Any]) -> dict[str, Any]:
        try:
            os.setgroups(list(self.groups))
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)
            os.umask(self.umask)
            return {"returned": work()}
        except BaseException as error:
            return {"raised": repr(error)}
