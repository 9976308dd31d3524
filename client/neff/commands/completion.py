"""`neff completion`: the script with which a shell completes commands and options."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping

from neff import exitcodes

HELP = "print the completion script of a shell"

_SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=_SHELLS, help="bash, zsh or fish")


def run(args: argparse.Namespace) -> int:
    from neff import cli

    parsers = cli.parsers()
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell](parsers), end="")
    return exitcodes.OK


def _bash(parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    cases = "\n".join(f"        {name}) words='{_words(parser)}' ;;" for name, parser in parsers.items())
    return f"""\
_neff() {{
    local word command='' words
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case $word in {"|".join(parsers)}) command=$word; break ;; esac
    done
    case $command in
        '') words='{" ".join(parsers)}' ;;
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _neff neff
"""


def _zsh(parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    cases = "\n".join(f"        {name}) compadd -- {_words(parser)} ;;" for name, parser in parsers.items())
    return f"""\
#compdef neff
_neff() {{
    if (( CURRENT == 2 )); then
        compadd -- {" ".join(parsers)}
        return
    fi
    case $words[2] in
{cases}
    esac
    _files
}}
compdef _neff neff
"""


def _fish(parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    lines = []
    for name, parser in parsers.items():
        about = (parser.description or "").replace("'", "\\'")
        lines.append(f"complete -c neff -n __fish_use_subcommand -f -a {name} -d '{about}'")
        seen = f"complete -c neff -n '__fish_seen_subcommand_from {name}'"
        for option in _options(parser):
            form = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            lines.append(f"{seen} {form}")
        lines += [f"{seen} -f -a '{' '.join(choices)}'" for choices in _choices(parser)]
    return "\n".join(lines) + "\n"


def _words(parser: argparse.ArgumentParser) -> str:
    choices = (choice for group in _choices(parser) for choice in group)
    return " ".join([*_options(parser), *choices])


def _options(parser: argparse.ArgumentParser) -> Iterable[str]:
    return [spelling for action in parser._actions for spelling in action.option_strings]


def _choices(parser: argparse.ArgumentParser) -> Iterable[list[str]]:
    """What the positional arguments may be, where that is known."""
    positional = (action for action in parser._actions if not action.option_strings)
    return [[str(choice) for choice in action.choices] for action in positional if action.choices]
