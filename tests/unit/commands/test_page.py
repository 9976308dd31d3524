"""The page of commands, their help and their exit codes are one."""

from __future__ import annotations

import pytest

from neff import cli, exitcodes
from neff.commands import withdaemon
from tests import commands_page

PARSERS = cli.parsers()


def test_the_page_is_what_the_parser_says() -> None:
    assert commands_page.PAGE.read_text() == commands_page.render(), "run: python -m tests.commands_page"


def test_the_page_has_every_exit_code() -> None:
    codes = {value for name, value in vars(exitcodes).items() if name.isupper()}
    assert set(commands_page._EXIT_CODES) == codes


def test_every_command_speaks_json_with_its_fields_described() -> None:
    options = {
        name: [s for action in parser._actions for s in action.option_strings] for name, parser in PARSERS.items()
    }
    assert {name for name, spellings in options.items() if "--json" not in spellings} == {"run", "completion"}
    assert "--summary-json" in options["run"]  # its output is the command's
    page = commands_page.PAGE.read_text()
    for name in options.keys() - {"run", "completion", "why"}:  # `why` tells the daemon's document
        section = page.partition(f"\n## neff {name}")[2].partition("\n## neff ")[0]
        assert "| field of `" in section, name


@pytest.mark.parametrize("name", list(withdaemon.COMMANDS))
def test_every_command_has_an_example_and_both_spellings(name: str) -> None:
    parser = cli.parsers()[name]
    assert f"Example: neff {name}" in (parser.epilog or "")
    for action in parser._actions:
        for spelling in action.option_strings:
            assert spelling.replace("_", "-") in [other.replace("_", "-") for other in action.option_strings]
            if "_" in spelling:
                assert spelling[:2] + spelling[2:].replace("_", "-") in action.option_strings


def test_whose_exit_code_add_ends_with_is_said() -> None:
    for text in (PARSERS["add"].format_help(), commands_page.PAGE.read_text()):
        assert "command_exit_code of --json tells whose it is" in " ".join(text.replace("`", "").split()), text
