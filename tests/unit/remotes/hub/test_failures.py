"""The table: what each answer to a commit means."""

from __future__ import annotations

from typing import Any

import pytest

from neffd.remotes.base import RemoteUnavailable
from neffd.remotes.hub.failures import CommitSize, Step, judge
from neffd.remotes.hub.worker import LFS_ERROR
from neffd.remotes.hub.workers import HubCallFailed

COMMIT = "/api/models/alice/cache/commit/main"
TOKEN = "/api/models/alice/cache/xet-write-token/main"
STORE = "/v1/xorbs/default/00"
QUOTA_TEXT = "You have exceeded the rate limit for repository commits (128 per hour)."
AGAIN, HALVE, PARK, DOUBT, WAIT = Step.AGAIN, Step.HALVE, Step.PARK, Step.DOUBT, Step.WAIT


def failed(status: int | None = None, path: str = COMMIT, **facts: Any) -> HubCallFailed:
    return HubCallFailed({"kind": "HfHubHTTPError", "status": status, "path": path, **facts})


@pytest.mark.parametrize(
    ("failure", "of_many", "of_one", "reason"),
    [
        (failed(409), AGAIN, AGAIN, "conflict"),
        (failed(412), AGAIN, AGAIN, "conflict"),
        (failed(404, code="EntryNotFound"), AGAIN, AGAIN, "conflict"),
        (failed(413), HALVE, PARK, "too-large"),
        (failed(400), HALVE, PARK, "refused-by-hub"),
        (failed(422), HALVE, PARK, "refused-by-hub"),
        (failed(400, STORE), HALVE, PARK, "refused-by-hub"),
        (failed(403, STORE), HALVE, PARK, "refused-by-hub"),
        (failed(None, "", kind="ValueError", code=LFS_ERROR), HALVE, PARK, "refused-by-hub"),
        (failed(500), DOUBT, DOUBT, "server-error"),
        (failed(502), DOUBT, DOUBT, "server-error"),
        (failed(503, STORE), DOUBT, DOUBT, "server-error"),
        (failed(404, STORE), DOUBT, DOUBT, "upload-failed"),
        (failed(401, STORE), DOUBT, DOUBT, "upload-failed"),
        (failed(416), DOUBT, DOUBT, "bad-answer"),
        (failed(None, "", kind="RuntimeError"), DOUBT, DOUBT, "worker-failed"),
        (RemoteUnavailable("stalled"), DOUBT, DOUBT, "stalled"),
        (RemoteUnavailable("worker-died"), DOUBT, DOUBT, "worker-died"),
        (RemoteUnavailable("unreachable"), WAIT, WAIT, "unreachable"),
        (failed(None, "", kind="ConnectionError"), WAIT, WAIT, "unreachable"),
        (failed(401), WAIT, WAIT, "bad-token"),
        (failed(401, code="RepoNotFound"), WAIT, WAIT, "repo-not-found"),
        (failed(403), WAIT, WAIT, "no-write-access"),
        (failed(403, TOKEN), WAIT, WAIT, "no-write-access"),
        (failed(404), WAIT, WAIT, "repo-not-found"),
        (failed(404, code="RevisionNotFound"), WAIT, WAIT, "revision-gone"),
        (failed(429), WAIT, WAIT, "rate-limited"),
        (failed(429, message=QUOTA_TEXT), WAIT, WAIT, "commit-quota"),
    ],
    ids=str,
)
def test_the_table(failure: HubCallFailed | RemoteUnavailable, of_many: Step, of_one: Step, reason: str) -> None:
    many, one = judge(failure, 2), judge(failure, 1)
    assert (many.step, one.step) == (of_many, of_one)
    assert many.reason == one.reason == reason
    assert one.detail == str(failure)


def test_a_gateway_that_gives_up_on_one_entry_is_just_not_well() -> None:
    assert judge(failed(504), 2).step is HALVE
    assert (judge(failed(504), 1).step, judge(failed(504), 1).reason) == (DOUBT, "server-error")


@pytest.mark.parametrize(
    ("facts", "wait_s"),
    [
        ({"rate_limit": '"api";r=0;t=20'}, 21),
        ({"retry_after": "20"}, 21),
        ({"rate_limit": '"api";r=0;t=20', "retry_after": "3"}, 21),
        ({"rate_limit": '"api";r=400;t=20', "message": QUOTA_TEXT}, 300),
        ({"retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"}, 300),
        ({}, 300),
    ],
    ids=str,
)
def test_too_many_requests_always_has_a_wait(facts: dict[str, str], wait_s: float) -> None:
    assert judge(failed(429, **facts), 5).retry_after_s == wait_s


def test_an_answer_without_any_facts_is_still_an_answer() -> None:
    verdict = judge(HubCallFailed({}), 3)
    assert (verdict.step, verdict.reason) == (DOUBT, "worker-failed")


def test_one_doubt_is_chance_two_make_commits_smaller_until_one_lands() -> None:
    size = CommitSize()
    assert size.limit(100) == 100
    size.doubted(100)
    assert size.limit(100) == 100
    for expected in (50, 25, 12, 6, 3, 1, 1):
        size.doubted(size.limit(100))
        assert size.limit(100) == expected
    for expected in (2, 4, 8):
        size.landed()
        assert size.limit(100) == expected
    size.doubted(8)
    assert size.limit(100) == 8
