"""Completion scripts: what a shell offers."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from neff import cli


def script(shell: str) -> str:
    command = [sys.executable, "-m", "neff.cli", "completion", shell]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def offered(*words: str) -> set[str]:
    """What bash offers for the last of the words."""
    line = " ".join(shlex.quote(word) for word in words)
    asked = f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _neff; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    ask = f"{script('bash')}\n{asked}"
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True, timeout=30)
    return set(done.stdout.split())


def test_bash_completes_commands_and_their_options() -> None:
    assert offered("neff", "") == set(cli.parsers())
    assert offered("neff", "loo") == {"lookup"}
    assert offered("neff", "lookup", "org/model", "--batch") == {"--batch_size", "--batch-size"}
    assert offered("neff", "--socket", "x", "synchronize", "--pu") == {"--pull", "--push"}
    assert offered("neff", "completion", "z") == {"zsh"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_knows_every_command_and_option(shell: str) -> None:
    text = script(shell)
    for name, parser in cli.parsers().items():
        assert name in text
        for action in parser._actions:
            for spelling in action.option_strings:
                assert (spelling if shell != "fish" else f" {spelling.lstrip('-')}") in text
