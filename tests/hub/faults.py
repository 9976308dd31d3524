"""Faults by route: which requests fail, how, and how often."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Kind = Literal["status", "reset", "stall", "stall-body", "truncate", "corrupt", "slow"]

_BODY_KINDS = {"stall-body", "truncate", "corrupt", "slow"}


@dataclass
class Fault:
    """One rule; the first rule that matches a request and has some `times` left is applied to it.

    Raises:
        ValueError: unknown kind, or a pattern that is no regular expression.
    """

    match: str
    """Regular expression, searched in `METHOD path?query` with the path as sent (percent-encoded)."""
    kind: Kind = "status"
    times: int | None = 1
    """How many requests it hits; None for all of them."""
    skip: int = 0
    """How many matching requests pass unharmed first."""
    landed: bool = False
    """For status, reset and stall: only after the operation succeeded, so that its answer is what gets lost."""
    status: int = 503
    message: str = "Service temporarily unavailable"
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    after_bytes: int = 0
    """For faults of the body: how many bytes are sent intact first."""
    bytes_per_s: float = 65536.0
    """For `slow`."""
    stall_s: float | None = None
    """How long a stall lasts; None until the faults are cleared or the server stops."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {get_args(Kind)}, not {self.kind!r}")
        if self.landed and self.kind in _BODY_KINDS:
            raise ValueError(f"landed means nothing for kind {self.kind!r}, whose answer always comes after")
        if self.bytes_per_s <= 0:
            raise ValueError("bytes_per_s must be above 0")
        try:
            self._pattern = re.compile(self.match)
        except re.error as error:
            raise ValueError(f"match is no regular expression: {error}") from error

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Fault:
        """Build a fault from a JSON object.

        Raises:
            ValueError: a member is unknown, missing or wrong.
        """
        try:
            return cls(**value)
        except TypeError as error:
            raise ValueError(str(error)) from error

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def in_body(self) -> bool:
        return self.kind in _BODY_KINDS

    def matches(self, request_line: str) -> bool:
        return self._pattern.search(request_line) is not None


class Faults:
    """The rules in force. Each match counts `skip`, then `times` down."""

    def __init__(self) -> None:
        self._rules: list[Fault] = []
        self._released = asyncio.Event()

    @property
    def rules(self) -> list[Fault]:
        return list(self._rules)

    def add(self, fault: Fault) -> None:
        self._rules.append(fault)

    def replace(self, faults: Iterable[Fault]) -> None:
        """Put these rules in place of all others and end every stall."""
        self._rules = list(faults)
        self._released.set()
        self._released = asyncio.Event()

    def clear(self) -> None:
        """Drop all rules and end every stall."""
        self.replace([])

    def take(self, request_line: str) -> Fault | None:
        """Return the fault for this request and count it."""
        for rule in self._rules:
            if rule.times == 0 or not rule.matches(request_line):
                continue
            if rule.skip:
                rule.skip -= 1
                continue
            if rule.times is not None:
                rule.times -= 1
            return rule
        return None

    def give_back(self, fault: Fault) -> None:
        """Undo `take`: the answer has no body to harm, or the operation that was to land did not."""
        if fault.times is not None:
            fault.times += 1

    async def stall(self, fault: Fault) -> None:
        """Wait as long as the fault says, or until the rules are replaced."""
        released = self._released
        try:
            await asyncio.wait_for(released.wait(), fault.stall_s)
        except asyncio.TimeoutError:
            return
