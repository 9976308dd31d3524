"""The command's help and its log."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from neffd.main import _log_format, main


def test_help_names_the_file_of_the_installation(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "neffd --config /etc/neffd/config.yaml" in capsys.readouterr().out


def test_interrupted_before_it_listens_for_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("neffd.config.load", interrupt)
    assert main([]) == 130


def test_a_path_that_the_locale_has_no_characters_for(tmp_path: Path) -> None:
    file = tmp_path / "neffd.yaml"
    file.write_text("cache_dirs: /var/tmp/kräftig\nremotes: []\n", encoding="utf-8")
    environ = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "neffd", "--check-config", "--config", str(file)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "in the characters of the locale (ascii); LC_ALL=C.UTF-8 has all" in done.stderr


@pytest.mark.parametrize(("environ", "has_time"), [({}, True), ({"JOURNAL_STREAM": "8:12345"}, False)])
def test_log_lines_carry_a_time_where_the_journal_adds_none(environ: dict[str, str], has_time: bool) -> None:
    formatter = logging.Formatter(_log_format(environ))
    line = formatter.format(logging.LogRecord("neffd", logging.INFO, "", 1, "hello", None, None))
    assert line.endswith("INFO neffd: hello")
    assert line.startswith("INFO") is not has_time
