from __future__ import annotations

import threading

import pytest

from neff.notices import Notices


def test_a_reason_is_said_once_by_all_threads_together(caplog: pytest.LogCaptureFixture) -> None:
    notices = Notices()
    threads = [threading.Thread(target=notices.say, args=("why", "what")) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    notices.say("other", "what")
    assert [record.getMessage() for record in caplog.records] == ["neff: what (why)", "neff: what (other)"]


def test_what_a_daemon_sends_cannot_forge_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    Notices().say("why\n" + "x" * 500, "a\nb\x1b[31m")
    message = caplog.records[0].getMessage()
    assert "\n" not in message
    assert "\x1b" not in message
    assert len(message) < 450
