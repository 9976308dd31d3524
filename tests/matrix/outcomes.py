"""The table: what the caller of a Hub repo sees, for every fault at every place, while the fault lasts.

A bare word is the reason of `RemoteUnavailable`: nobody knows, ask again later. Besides:

- `-`: the fault cannot show at this place, the call succeeds;
- `refused …`: the copy must not be used;
- `parked …`: this entry will not be published, the others are.

Whatever the outcome, the same call succeeds once the fault is over, leaves nothing torn where files are downloaded to,
and nothing twice on the Hub.
"""

from __future__ import annotations

from typing import Any

PLACES = ("head poll", "listing", "paths-info", "download", "token route", "upload", "commit")
READS = PLACES[:4]

# By fault, the outcome at each place in the order of PLACES.
_TABLE = """
connect refused           | unreachable  | unreachable     | unreachable     | unreachable             | unreachable     | unreachable           | unreachable
name not found            | name-not-found | name-not-found | name-not-found | name-not-found          | name-not-found  | name-not-found        | name-not-found
reset                     | unreachable  | unreachable     | unreachable     | unreachable             | unreachable     | unreachable           | unreachable
stall before headers      | timeout      | timeout         | timeout         | timeout                 | stalled         | stalled               | stalled
stall in body             | -            | timeout         | timeout         | timeout                 | stalled         | stalled               | stalled
truncated body            | -            | broken-transfer | broken-transfer | broken-transfer         | unreachable     | unreachable           | unreachable
wrong bytes               | -            | bad-answer      | bad-answer      | refused digest-mismatch | unreachable     | unreachable           | worker-failed
401                       | bad-token    | bad-token       | bad-token       | bad-token               | bad-token       | upload-failed         | bad-token
403                       | forbidden    | forbidden       | forbidden       | forbidden               | no-write-access | parked refused-by-hub | no-write-access
404                       | repo-not-found | repo-not-found | repo-not-found | repo-not-found          | repo-not-found  | upload-failed         | repo-not-found
409                       | bad-answer   | bad-answer      | bad-answer      | bad-answer              | conflict        | conflict              | conflict
412                       | bad-answer   | bad-answer      | bad-answer      | bad-answer              | conflict        | conflict              | conflict
413                       | bad-answer   | bad-answer      | bad-answer      | bad-answer              | parked too-large | parked too-large     | parked too-large
416                       | bad-answer   | bad-answer      | bad-answer      | bad-answer              | bad-answer      | upload-failed         | bad-answer
429 RateLimit             | rate-limited | rate-limited    | rate-limited    | rate-limited            | rate-limited    | rate-limited          | rate-limited
429 Retry-After           | rate-limited | rate-limited    | rate-limited    | rate-limited            | rate-limited    | rate-limited          | rate-limited
429 both                  | rate-limited | rate-limited    | rate-limited    | rate-limited            | rate-limited    | rate-limited          | rate-limited
429 date                  | rate-limited | rate-limited    | rate-limited    | rate-limited            | rate-limited    | rate-limited          | rate-limited
429 bare                  | rate-limited | rate-limited    | rate-limited    | rate-limited            | rate-limited    | rate-limited          | rate-limited
429 commit quota          | rate-limited | rate-limited    | rate-limited    | rate-limited            | rate-limited    | rate-limited          | commit-quota
500                       | server-error | server-error    | server-error    | server-error            | server-error    | server-error          | server-error
502                       | server-error | server-error    | server-error    | server-error            | server-error    | server-error          | server-error
503                       | server-error | server-error    | server-error    | server-error            | server-error    | server-error          | server-error
504                       | server-error | server-error    | server-error    | server-error            | server-error    | server-error          | server-error
landed, reset             | unreachable  | unreachable     | unreachable     | unreachable             | unreachable     | unreachable           | unreachable
landed, 500               | server-error | server-error    | server-error    | server-error            | server-error    | server-error          | server-error
landed, 504               | server-error | server-error    | server-error    | server-error            | server-error    | server-error          | server-error
landed, stall             | timeout      | timeout         | timeout         | timeout                 | stalled         | stalled               | stalled
"""  # noqa: E501 - a table

OUTCOMES: dict[tuple[str, str], str] = {
    (fault.strip(), place): outcome.strip()
    for fault, *outcomes in (line.split("|") for line in _TABLE.strip().splitlines())
    for place, outcome in zip(PLACES, outcomes, strict=True)
}
FAULTS = tuple(dict.fromkeys(fault for fault, _ in OUTCOMES))

_QUOTA_TEXT = "You have exceeded the rate limit for repository commits (128 per hour)."
# How the local Hub makes each of them; the two that are missing are made without it.
OPTIONS: dict[str, dict[str, Any]] = {
    "reset": {"kind": "reset"},
    "stall before headers": {"kind": "stall"},
    "stall in body": {"kind": "stall-body", "after_bytes": 5},
    "truncated body": {"kind": "truncate", "after_bytes": 5},
    "wrong bytes": {"kind": "corrupt"},
    **{code: {"status": int(code)} for code in FAULTS if code.isdigit()},
    "429 RateLimit": {"status": 429, "headers": {"RateLimit": '"api";r=0;t=30'}},
    "429 Retry-After": {"status": 429, "headers": {"Retry-After": "30"}},
    "429 both": {"status": 429, "headers": {"RateLimit": '"api";r=0;t=30', "Retry-After": "5"}},
    "429 date": {"status": 429, "headers": {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}},
    "429 bare": {"status": 429},
    "429 commit quota": {"status": 429, "message": _QUOTA_TEXT, "headers": {"RateLimit": '"api";r=400;t=30'}},
    "landed, reset": {"kind": "reset", "landed": True},
    "landed, 500": {"status": 500, "landed": True},
    "landed, 504": {"status": 504, "landed": True},
    "landed, stall": {"kind": "stall", "landed": True},
}


def quick_subset() -> set[tuple[str, str]]:
    """Every fault at half of the reading places and at one of the writing ones, in turn."""
    chosen = set()
    for number, fault in enumerate(FAULTS):
        reads = {READS[(number + step) % len(READS)] for step in (0, 2)}
        writes = {PLACES[len(READS) + number % (len(PLACES) - len(READS))]}
        chosen |= {(fault, place) for place in reads | writes}
    return chosen
