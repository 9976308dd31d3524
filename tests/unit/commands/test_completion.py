"""Completion scripts: what a shell offers."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from functools import cache

import pytest

from neff import cli


@cache
def script(shell: str) -> str:
    command = [sys.executable, "-m", "neff.cli", "completion", shell]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def offered_by(shell: str, *words: str) -> set[str]:
    """What a shell offers for the last of the words; zsh asks only a person, so there it is what its function says."""
    line = " ".join(shlex.quote(word) for word in words)
    asked = {
        "bash": f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _neff; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        "fish": f"complete -C {shlex.quote(' '.join(words))} | string split -f 1 \\t; or true",
        "zsh": f"words=({line}); CURRENT={len(words)}; PREFIX={shlex.quote(words[-1])}; _neff",
    }[shell]
    before = "compdef() {}; compadd() { shift; print -l -- $@ }; _files() {}" if shell == "zsh" else ""
    text = "\n".join([before, script(shell), asked])
    done = subprocess.run([shell, "-c", text], capture_output=True, text=True, check=True, timeout=30)
    offered = set(done.stdout.split())
    return {word for word in offered if word.startswith(words[-1])} if shell == "zsh" else offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_their_options_and_what_these_may_be(shell: str) -> None:
    if shutil.which(shell) is None:
        assert shell != "bash"
        return  # what is not here cannot be asked; the next test reads its script
    assert offered_by(shell, "neff", "") >= set(cli.parsers())
    assert offered_by(shell, "neff", "loo") == {"lookup"}
    assert offered_by(shell, "neff", "lookup", "org/model", "--batch") == {"--batch_size", "--batch-size"}
    assert offered_by(shell, "neff", "lookup", "--dtype", "b") == {"bfloat16"}
    assert offered_by(shell, "neff", "--socket", "/x", "sync") == {"synchronize"}
    assert offered_by(shell, "neff", "--socket", "/x", "synchronize", "--pu") == {"--pull", "--push"}
    assert offered_by(shell, "neff", "completion", "z") == {"zsh"}
    assert offered_by(shell, "neff", "--v") == {"--version"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_knows_every_command_and_option(shell: str) -> None:
    text = script(shell)
    for name, parser in cli.parsers().items():
        assert name in text
        for action in parser._actions:
            for spelling in action.option_strings:
                assert (spelling if shell != "fish" else f" {spelling.lstrip('-')}") in text
