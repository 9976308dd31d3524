"""The command's help and its log."""

from __future__ import annotations

import logging

import pytest

from neffd.main import _log_format, main


def test_help_names_the_file_of_the_installation(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "neffd --config /etc/neffd/config.yaml" in capsys.readouterr().out


@pytest.mark.parametrize(("environ", "has_time"), [({}, True), ({"JOURNAL_STREAM": "8:12345"}, False)])
def test_log_lines_carry_a_time_where_the_journal_adds_none(environ: dict[str, str], has_time: bool) -> None:
    formatter = logging.Formatter(_log_format(environ))
    line = formatter.format(logging.LogRecord("neffd", logging.INFO, "", 1, "hello", None, None))
    assert line.endswith("INFO neffd: hello")
    assert line.startswith("INFO") is not has_time
