"""`python -m tests.commands_page` writes docs/commands.md from the parser of `neff`; a test holds the two together."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neff import cli
from neff.commands import withdaemon

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"
_EXIT_CODES = {
    0: "done",
    1: "failed, or parked: the text says what",
    2: "wrong use of the command; `neff plan`: fetchable",
    3: "not found: a module, a model, a repo; what was searched is said; `neff plan`: it will compile",
    4: "no daemon, or no Hub, could be reached",
    5: "still waiting when the time was up; it goes on",
    6: "refused: not logged in, no repo set, no right to do it, or not on this host; with the command that mends it",
    7: "`neff add`: the command succeeded, but a remote lacks modules that it used, or it used none",
    8: "`neff plan`: nobody can tell, no run like it was recorded",
    64: "`neff plan`: wrong use",
    126: "`neff run`: the command cannot be executed",
    127: "`neff run`: the command was not found",
    130: "interrupted (Ctrl-C)",
}
_COMMANDS_OWN = """
`neff run` ends with the exit code of its command, and so does `neff add` where its command fails (128 and the signal's
number if one ended it), whatever that number means above. `command_exit_code` of `--json` tells whose it is: where
that is 0, `neff add` ends with a code of its own.
"""
_INTRODUCTION = """\
# Commands
Made from the parser by `python -m tests.commands_page`; do not edit.

`neff COMMAND --help` says the same. What comes with `pip install neffd` alone is marked *client*; the others need the
daemon's packages: `pip install 'neffd[daemon]'`. Options with an underscore can be written with a hyphen too. All take
`--socket PATH`, the daemon's socket, before or after the command; without it: `NEFFD_SOCKET`, `/run/neffd/neffd.sock`,
`$XDG_RUNTIME_DIR/neffd/neffd.sock`.

Output is for a person on a terminal (`NO_COLOR` is honoured), one item a line in a pipe, `name=value` quoted as a shell
would, and one JSON document with `--json`: its `schema` (now 1) rises when a field changes its meaning or goes away,
`command` is the command's name. What `neff status --json` and `neff why --json` say besides is the daemon's own
document, described in [protocol.md](protocol.md). What keeps a command from answering is told on the standard error as
text, with the exit code; then the standard output is empty, also with `--json`.

The Hub is the one of `HF_ENDPOINT`, the login that of `hf auth login` or `HF_TOKEN`. The repo is that of
`CUSTOM_CACHE_REPO`, else the one saved in `$HF_HOME/optimum_neuron_custom_cache` (by `neff set`, or by optimum-neuron),
else, to look up, `aws-neuron/optimum-neuron-cache`. With `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE` no command asks the
Hub: one that has to ends with 4. The daemon, and so what only asks it, goes by its configuration alone.

## Exit codes
"""


def render() -> str:
    """The whole page."""
    codes = "\n".join(_table(["code", "meaning"], _EXIT_CODES.items()))
    return "\n".join([f"{_INTRODUCTION}{codes}\n{_COMMANDS_OWN.rstrip()}", *_commands(), ""])


def _commands() -> Iterator[str]:
    for name, parser in cli.parsers().items():
        module = importlib.import_module(f"neffd.commands.{name}") if name in withdaemon.COMMANDS else None
        yield f"\n## neff {name}{'' if module else ' (client)'}"
        yield f"{parser.description}\n"
        yield f"```sh\n{_usage(name, parser)}\n{_example(parser)}```\n"
        rows = [
            (_spelling(action), action.help % _values(parser, action) if action.help else "") for action in _own(parser)
        ]
        yield "\n".join(_table(["argument", "meaning"], rows))
        if name == "status":  # without a daemon it is another document
            module = importlib.import_module("neffd.commands.localstatus")
        fields = getattr(module or importlib.import_module(f"neff.commands.{name}"), "JSON", None)
        if fields is not None:
            column = f"field of `{'--cache_dir ' if name == 'status' else ''}--json`"
            yield "\n" + "\n".join(_table([column, "meaning"], fields.items()))


def _own(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.dest not in ("help", "socket")]


def _usage(name: str, parser: argparse.ArgumentParser) -> str:
    if parser.usage:
        return "\n".join(line.strip() for line in parser.usage.splitlines())
    words = [_usage_word(action) for action in _own(parser)]
    return " ".join(["neff", name, *words])


def _usage_word(action: argparse.Action) -> str:
    if action.option_strings:
        value = "" if action.nargs == 0 else f" {_value(action)}"
        return f"[{action.option_strings[0]}{value}]"
    word = _value(action)
    return {"?": f"[{word}]", "+": f"{word} ..."}.get(str(action.nargs), word)


def _example(parser: argparse.ArgumentParser) -> str:
    said = (parser.epilog or "").partition("Example: ")[2].partition(". Exit codes")[0]
    return f"# {said}\n" if said else ""


def _spelling(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{_value(action)}`"
    first, *others = action.option_strings
    value = "" if action.nargs == 0 else f" {_value(action)}"
    same = {first.replace("_", "-")}
    return ", ".join(f"`{spelling}{value}`" for spelling in [first, *(other for other in others if other not in same)])


def _value(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    return "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()


def _values(parser: argparse.ArgumentParser, action: argparse.Action) -> dict[str, Any]:
    return {**vars(action), "prog": parser.prog}


def _table(columns: list[str], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |"


if __name__ == "__main__":
    PAGE.write_text(render())
