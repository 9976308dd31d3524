"""A daemon that hangs somewhere says so and where, goes on if that passes, and ends rather than live on by half."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults import preload
from tests.harness.daemon import Daemon
from tests.harness.waiting import eventually

COMMAND = ("-m", "tests.faults.hanging_daemon")


@pytest.mark.parametrize("what", ["event-loop", "database", "workers"])
def test_what_hangs_for_good_ends_the_daemon_with_a_message(tmp_path: Path, what: str) -> None:
    host = Daemon(tmp_path, command=COMMAND, environ={"HANG": what})
    assert host.start_and_die() == 1
    assert f"no sign of life of the {what}" in host.log
    assert f"ending: no sign of life of the {what}" in host.log
    assert "in wait\n" in host.log, "the stack says where"


def test_what_hangs_for_a_while_is_reported_until_it_goes_on(tmp_path: Path) -> None:
    end = tmp_path / "end"
    with Daemon(tmp_path, command=COMMAND, environ={"HANG": f"database:{end}"}) as host:
        eventually(lambda: "database-stuck" in [told["reason"] for told in host.status()["problems"]], "it is said")
        end.touch()
        eventually(lambda: host.status()["problems"] == [], "it is over")
        assert host.counter("neffd_stalls", "part=database") >= 1
        assert host.stop() == 0


def test_a_scan_that_hangs_is_reported_for_its_directory_until_it_goes_on(tmp_path: Path) -> None:
    end = tmp_path / "end"
    with Daemon(tmp_path, command=COMMAND, environ={"HANG": f"scan:{end}"}) as host:
        # On a slow machine a scan before it may have been said to hang, too.
        eventually(lambda: "in wait\n" in host.log, "it is said, and the stack says where")
        assert _reasons(host) == ["scan-stuck"]
        assert host.status()["problems"] == [], "everything else is well"
        end.touch()
        eventually(lambda: _reasons(host) == [], "it is over")
        assert host.counter("neffd_stalls", "part=scan") == host.log.count("a scan does not go on")
        assert host.stop() == 0


_NEEDS_COMPILER = pytest.mark.skipif(preload.compiler() is None, reason="no C compiler here")


@pytest.mark.parametrize("what", ["odd-jobs", pytest.param("lookup", marks=_NEEDS_COMPILER)])
def test_what_hangs_at_the_end_does_not_put_it_off(tmp_path: Path, what: str) -> None:
    """The event loop waits for such threads when it is closed."""
    environ = {"HANG": what, "DEAD_LOOKUP_S": "60"}
    if what == "lookup":
        environ["LD_PRELOAD"] = str(preload.build("dead_lookup", tmp_path))
    host = Daemon(tmp_path / "host", command=COMMAND, environ=environ)
    with host:
        eventually(lambda: f"{what} hangs" in host.log, "it hangs")
        assert host.stop() == 0
    assert "leaving threads behind" in host.log


def test_a_daemon_that_was_stopped_and_continued_has_not_hung(tmp_path: Path) -> None:
    with Daemon(tmp_path, command=COMMAND, environ={"HANG": ""}) as host:
        host.signal(signal.SIGSTOP)
        eventually(lambda: Path(f"/proc/{host.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "stopped")
        time.sleep(2)  # longer than the event loop may be silent here
        os.kill(host.pid, signal.SIGCONT)
        before = host.status()["uptime_s"]
        eventually(lambda: host.status()["uptime_s"] > before + 0.3, "some more looks")
        assert "no sign of life" not in host.log
        assert host.stop() == 0


def _reasons(host: Daemon) -> list[str]:
    return [told["reason"] for told in host.status()["cache_dirs"][0]["problems"]]
