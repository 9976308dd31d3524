"""`neff completion`: the script with which a shell completes commands, options, and what options may be."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

from neff import exitcodes

HELP = "print the completion script of a shell"

_SHELLS = ("bash", "zsh", "fish")
_Parsers = Mapping[str, argparse.ArgumentParser]
# Before any command.
_OWN_OPTIONS = "--help --socket --version"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=_SHELLS, help="bash, zsh or fish")


def run(args: argparse.Namespace) -> int:
    from neff import cli

    parsers = cli.parsers()
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell](parsers), end="")
    return exitcodes.OK


def _bash(parsers: _Parsers) -> str:
    # With nothing to offer, bash completes names of files.
    return f"""\
_neff() {{
    local word command='' offered='' at="${{COMP_WORDS[COMP_CWORD]}}"
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case $word in {"|".join(parsers)}) command=$word; break ;; esac
    done
    case "$command ${{COMP_WORDS[COMP_CWORD-1]}}" in
{_cases(_values(parsers), "{0}) offered='{1}' ;;", "        ")}
        *) case $at in
            -*) case $command in
                '') offered='{_OWN_OPTIONS}' ;;
{_cases(_options(parsers), "{0}) offered='{1}' ;;", "                ")}
            esac ;;
            *) case $command in
                '') offered='{" ".join(parsers)}' ;;
{_cases(_positionals(parsers), "{0}) offered='{1}' ;;", "                ")}
            esac ;;
        esac ;;
    esac
    COMPREPLY=($(compgen -W "$offered" -- "$at"))
}}
complete -o default -F _neff neff
"""


def _zsh(parsers: _Parsers) -> str:
    return f"""\
#compdef neff
_neff() {{
    local word command=''
    for word in ${{words[2,CURRENT-1]}}; do
        case $word in ({"|".join(parsers)}) command=$word; break ;; esac
    done
    case "$command ${{words[CURRENT-1]}}" in
{_cases(_values(parsers), "({0}) compadd -- {1}; return ;;", "        ")}
    esac
    if [[ $PREFIX == -* ]]; then
        case $command in
            ('') compadd -- {_OWN_OPTIONS} ;;
{_cases(_options(parsers), "({0}) compadd -- {1} ;;", "            ")}
        esac
        return
    fi
    case $command in
        ('') compadd -- {" ".join(parsers)} ;;
{_cases(_positionals(parsers), "({0}) compadd -- {1} ;;", "        ")}
        (*) _files ;;
    esac
}}
if [[ $funcstack[1] == _neff ]]; then _neff "$@"; else compdef _neff neff; fi
"""


def _fish(parsers: _Parsers) -> str:
    lines = [
        "function __neff_is",
        "    for word in (commandline -opc)[2..-1]",
        f"        contains -- $word {' '.join(parsers)}; and test $word = $argv[1]; and return 0",
        f"        contains -- $word {' '.join(parsers)}; and return 1",
        "    end",
        "    test -z $argv[1]",
        "end",
    ]
    lines += [f"complete -c neff -n '__neff_is \"\"' -l {option[2:]}" for option in _OWN_OPTIONS.split()]
    for name, parser in parsers.items():
        about = (parser.description or "").replace("'", "\\'")
        lines.append(f"complete -c neff -n '__neff_is \"\"' -f -a {name} -d '{about}'")
        seen = f"complete -c neff -n '__neff_is {name}'"
        for action in parser._actions:
            choices = f" -a '{' '.join(map(str, action.choices))}'" if action.choices else ""
            for option in action.option_strings:
                form = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
                value = "" if action.nargs == 0 else f" -x{choices}" if choices else " -r"
                lines.append(f"{seen} {form}{value}")
            if choices and not action.option_strings:
                lines.append(f"{seen} -f{choices}")
    return "\n".join(lines) + "\n"


def _cases(offered: Iterator[tuple[str, str]], form: str, indent: str) -> str:
    return "\n".join(indent + form.format(pattern, words) for pattern, words in offered)


def _options(parsers: _Parsers) -> Iterator[tuple[str, str]]:
    """Each command with its options."""
    for name, parser in parsers.items():
        yield name, " ".join(spelling for action in parser._actions for spelling in action.option_strings)


def _values(parsers: _Parsers) -> Iterator[tuple[str, str]]:
    """Command and option, as a pattern, with what the option may be, where that is known."""
    for name, parser in parsers.items():
        for action in parser._actions:
            if action.option_strings and action.choices:
                pattern = "|".join(f"'{name} {spelling}'" for spelling in action.option_strings)
                yield pattern, " ".join(map(str, action.choices))


def _positionals(parsers: _Parsers) -> Iterator[tuple[str, str]]:
    """Commands whose other words are known, with these."""
    for name, parser in parsers.items():
        for action in parser._actions:
            if not action.option_strings and action.choices:
                yield name, " ".join(map(str, action.choices))
