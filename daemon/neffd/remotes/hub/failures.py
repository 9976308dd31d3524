"""What to do after a write that failed: decisions only, no I/O.

A failure is of one of three kinds: the moment was wrong (try again as it was), the batch was wrong (too large, or one
of its entries is refused: halve it until that one is alone), or nobody's entry is to blame (wait).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from neffd.remotes.base import RemoteUnavailable
from neffd.remotes.hub.budget import OWN_ESTIMATE_S
from neffd.remotes.hub.worker import LFS_ERROR
from neffd.remotes.hub.workers import HubCallFailed

# Ours for entries that a commit will never bring; each parks one entry.
REFUSED = "refused-by-hub"
TOO_LARGE = "too-large"
# Trouble of the worker itself, which what it was given may have caused.
_WORKER_TROUBLE = ("stalled", "worker-died")
_TOO_MUCH = (413, 504)
_BAD_CONTENT = (400, 422)


class Step(Enum):
    """What comes next."""

    AGAIN = "again"  # the branch moved, or another commit holds it: look, then the same once more
    HALVE = "halve"  # the same entries in two smaller commits
    PARK = "park"  # this one entry is refused for good
    DOUBT = "doubt"  # the batch may be to blame: later, and smaller
    WAIT = "wait"  # no entry is to blame: later


@dataclass(frozen=True)
class Verdict:
    """A step, the reason to show, how long the Hub wants us to wait, if it does, and one line for a log.

    `is_refusal` where the Hub does not take something of what it was given: anything else may pass.
    """

    step: Step
    reason: str
    retry_after_s: float | None = None
    detail: str = ""
    is_refusal: bool = False


def judge(failure: HubCallFailed | RemoteUnavailable, entries: int) -> Verdict:
    """What a failed commit of so many entries means.

    Whether an ambiguous one landed need not be known here: every try begins with a look at what is there.
    """
    if isinstance(failure, RemoteUnavailable):
        step = Step.DOUBT if failure.reason in _WORKER_TROUBLE else Step.WAIT
        return Verdict(step, failure.reason, failure.retry_after_s, str(failure))
    is_refusal = _judge_answer(failure, 1).step is Step.PARK
    return replace(_judge_answer(failure, entries), detail=str(failure), is_refusal=is_refusal)


def _judge_answer(failure: HubCallFailed, entries: int) -> Verdict:
    status = failure.status
    if status in (409, 412) or failure.code == "EntryNotFound":
        return Verdict(Step.AGAIN, "conflict")
    if status == 429:
        return _slow_down(failure)
    if status in _TOO_MUCH:
        if entries > 1:
            return Verdict(Step.HALVE, TOO_LARGE)
        return Verdict(Step.PARK, TOO_LARGE) if status == 413 else Verdict(Step.DOUBT, "server-error")
    if status in _BAD_CONTENT or failure.code == LFS_ERROR or (status == 403 and failure.in_upload):
        return Verdict(Step.HALVE if entries > 1 else Step.PARK, REFUSED)
    return _not_the_content(failure)


def _slow_down(failure: HubCallFailed) -> Verdict:
    """The quota of commits has no header of its own, only a text."""
    if failure.retry_after_s is not None:
        return Verdict(Step.WAIT, "rate-limited", failure.retry_after_s)
    is_commit_quota = "repository commits" in failure.message
    return Verdict(Step.WAIT, "commit-quota" if is_commit_quota else "rate-limited", OWN_ESTIMATE_S)


def _not_the_content(failure: HubCallFailed) -> Verdict:
    status = failure.status
    if status is None:
        lost = failure.kind == "ConnectionError"
        return Verdict(Step.WAIT, "unreachable") if lost else Verdict(Step.DOUBT, "worker-failed")
    if status >= 500:
        return Verdict(Step.DOUBT, "server-error", failure.retry_after_s)
    if failure.in_upload:  # the store's word, not the Hub's: it knows neither our token nor the repo
        return Verdict(Step.DOUBT, "upload-failed")
    if failure.code == "RevisionNotFound":
        return Verdict(Step.WAIT, "revision-gone")
    if failure.code == "RepoNotFound" or status == 404:
        return Verdict(Step.WAIT, "repo-not-found")
    by_status = {401: "bad-token", 403: "no-write-access"}
    if status in by_status:
        return Verdict(Step.WAIT, by_status[status])
    return Verdict(Step.DOUBT, "bad-answer")


class CommitSize:
    """How many entries go into one commit: fewer after repeated failures that the batch may have caused."""

    def __init__(self) -> None:
        self._limit: int | None = None
        self._doubts = 0

    def limit(self, entries: int) -> int:
        """The size of the next commit when so many entries wait."""
        return max(1, entries if self._limit is None else min(entries, self._limit))

    def doubted(self, entries: int) -> None:
        """A commit of so many failed, perhaps by its own fault. Once may be chance."""
        self._doubts += 1
        if self._doubts > 1:
            self._limit = max(1, entries // 2)

    def landed(self) -> None:
        """A commit arrived: the next may be larger again."""
        self._doubts = 0
        if self._limit is not None:
            self._limit *= 2
