"""What becomes of a failed entry: set aside or kept, and why. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from neffd.care.failures import Failure


@dataclass(frozen=True)
class Policy:
    """What is configured.

    Attributes:
        set_aside: whether failures are touched at all.
        max_retries: how often the failure of one entry may be set aside.
    """

    set_aside: bool
    max_retries: int


@dataclass(frozen=True)
class Kept:
    """A failed entry that stays as it is.

    Attributes:
        failure: what its log tells.
        reason: why it stays, a short code; see docs/operations.md.
        retried: how often it was set aside before.
        hint: the command that lets stock compile the entry again.
    """

    failure: Failure
    reason: str
    retried: int
    hint: str

    def text(self) -> str:
        """For a person: what failed, and why it is not tried again; one line."""
        told = f"{self.failure.reason}: {self.failure.text}" if self.failure.text else self.failure.reason
        return f"{told} ({self.reason}, {self.retried} retries)" if self.retried else f"{told} ({self.reason})"


def reason_to_keep(failure: Failure, retried: int, policy: Policy, *, is_trusted: bool) -> str | None:
    """Why a failed entry stays; None where it is to be set aside."""
    if not failure.is_transient:
        return "diagnosed"
    if not policy.set_aside:
        return "set-aside-off"
    if retried >= policy.max_retries:
        return "retries-used-up"
    return None if is_trusted else "untrusted-owner"
