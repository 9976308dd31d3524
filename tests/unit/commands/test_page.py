"""The page of commands, their help and their exit codes are one."""

from __future__ import annotations

import pytest

from neff import cli, exitcodes
from neff.commands import withdaemon
from tests import commands_page


def test_the_page_is_what_the_parser_says() -> None:
    assert commands_page.PAGE.read_text() == commands_page.render(), "run: python -m tests.commands_page"


def test_the_page_has_every_exit_code() -> None:
    codes = {value for name, value in vars(exitcodes).items() if name.isupper()}
    assert set(commands_page._EXIT_CODES) == codes


@pytest.mark.parametrize("name", list(withdaemon.COMMANDS))
def test_every_command_has_an_example_and_both_spellings(name: str) -> None:
    parser = cli.parsers()[name]
    assert f"Example: neff {name}" in (parser.epilog or "")
    for action in parser._actions:
        for spelling in action.option_strings:
            assert spelling.replace("_", "-") in [other.replace("_", "-") for other in action.option_strings]
            if "_" in spelling:
                assert spelling[:2] + spelling[2:].replace("_", "-") in action.option_strings
