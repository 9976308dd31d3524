from __future__ import annotations

import math
from typing import Any

import pytest

from neff.patience import FetchPatience, SilencePatience


def _fetching(done_bytes: Any, give_up_s: Any = 600) -> dict[str, Any]:
    return {"state": "fetching", "done_bytes": done_bytes, "give_up_s": give_up_s}


def test_the_first_answer_has_three_seconds() -> None:
    assert FetchPatience(100.0).deadline_s == 103.0


def test_it_may_have_less() -> None:
    assert FetchPatience(100.0, 1.0, 0.5).deadline_s == 100.5
    assert FetchPatience(100.0, None, 9.0).deadline_s == 103.0
    alive = FetchPatience(0.0, 1.0, 1.8)
    alive.heard({"state": "asking"}, 1.0)
    assert alive.deadline_s == 1.8
    assert not alive.is_hung(1.8)
    alive.heard(_fetching(1), 1.2)
    assert alive.deadline_s == 6.2


def test_bytes_prolong_and_their_absence_does_not() -> None:
    patience = FetchPatience(0.0)
    patience.heard(_fetching(0), 1.0)
    assert patience.deadline_s == 6.0
    patience.heard(_fetching(10), 2.0)
    assert patience.deadline_s == 7.0
    patience.heard(_fetching(10), 3.0)
    patience.heard(_fetching(9), 4.0)
    assert patience.deadline_s == 7.0


@pytest.mark.parametrize(
    ("give_up_s", "limit_s"),
    [(20, 20), (600, 600), (9000, 600), (0, 0), (-5, 600), (math.nan, 600), (None, 600), ("7", 600), (True, 600)],
)
def test_no_fetch_is_waited_for_longer_than_it_is_worth(give_up_s: Any, limit_s: float) -> None:
    patience = FetchPatience(0.0)
    for second in range(1, 700):
        patience.heard(_fetching(second, give_up_s), second)
    assert patience.deadline_s == limit_s


def test_other_answers_do_not_prolong() -> None:
    patience = FetchPatience(0.0)
    patience.heard({"state": "considering"}, 2.0)
    assert patience.deadline_s == 3.0


def test_a_daemon_that_promises_signs_of_life_is_given_up_when_they_stop() -> None:
    patience = FetchPatience(0.0, alive_s=1.0)
    assert patience.deadline_s == 1.5
    patience.heard({"state": "asking"}, 0.5)
    assert patience.deadline_s == 2.0
    patience.heard({"state": "asking"}, 2.0)
    assert patience.deadline_s == 3.0  # alive, and too slow
    assert not patience.is_hung(3.0)
    assert patience.is_hung(3.5)
    patience.heard(_fetching(1), 2.5)
    assert not patience.is_hung(2.6)
    assert patience.deadline_s == 7.5
    patience.heard({"state": "asking"}, 2.6)
    assert patience.deadline_s == 7.5


@pytest.mark.parametrize("done_bytes", [None, "x", -1, math.nan, math.inf, 10**400, [], True])
def test_odd_sizes_are_no_progress(done_bytes: Any) -> None:
    patience = FetchPatience(0.0)
    patience.heard(_fetching(5), 1.0)
    patience.heard(_fetching(done_bytes), 2.0)
    assert patience.deadline_s == 6.0


def test_a_stalled_download_is_no_hung_daemon() -> None:
    patience = FetchPatience(0.0)
    for second in range(1, 7):
        patience.heard(_fetching(1), second)
    assert patience.deadline_s == 6.0
    assert not patience.is_hung(6.5)
    assert patience.is_hung(9.0)


def test_a_person_waits_while_the_daemon_talks_up_to_a_total() -> None:
    patience = SilencePatience(0.0, 10.0, 15.0)
    assert patience.deadline_s == 10.0
    patience.heard({}, 9.0)
    assert patience.deadline_s == 15.0
    unlimited = SilencePatience(0.0, 10.0)
    unlimited.heard({}, 9.0)
    assert unlimited.deadline_s == 19.0
