"""The `neff` command as a person runs it: a process of its own, with a home, a login and a Hub."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.harness.daemon import python_path

_RUN_S = 60.0


class Person:
    """Somebody with a home folder, who may be logged in to a Hub.

    Args:
        home: a folder of their own.
        endpoint: of the Hub.
        token: of the login; None for nobody's.
        environ: further variables.

    `prefix` is put before every command.
    """

    def __init__(self, home: Path, endpoint: str, token: str | None = None, **environ: str) -> None:
        self.home = home
        self.prefix: tuple[str, ...] = ()
        self.saved = home / "hf" / "optimum_neuron_custom_cache"
        home.mkdir(parents=True, exist_ok=True)
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "NEFFD_", "NEURON_"))}
        ours.pop("CUSTOM_CACHE_REPO", None)
        self.environ = ours | {
            "PYTHONPATH": python_path(),
            "HOME": str(home),
            "HF_HOME": str(home / "hf"),
            "HF_ENDPOINT": endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NEFFD_SOCKET": str(home / "no-daemon.sock"),
            "TERM": "xterm",
            **({} if token is None else {"HF_TOKEN": token}),
            **environ,
        }

    def neff(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command with pipes."""
        return subprocess.run(
            [*self.prefix, *_command(arguments)],
            env=self.environ | environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_RUN_S,
            check=False,
        )

    def json(self, *arguments: str) -> dict[str, Any]:
        """What a command with `--json` prints; AssertionError where it is not one document."""
        done = self.neff(*arguments, "--json")
        assert done.stdout, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        assert (document.pop("schema"), document.pop("command")) == (1, arguments[0])
        assert set(document) == set(importlib.import_module(f"neffd.commands.{arguments[0]}").JSON)
        return document

    def on_terminal(self, *arguments: str, **environ: str) -> tuple[int, str]:
        """Run a command whose output goes to a terminal; exit code and what was shown."""
        ours, theirs = pty.openpty()
        try:
            command = [*self.prefix, *_command(arguments)]
            process = subprocess.Popen(command, env=self.environ | environ, stdin=theirs, stdout=theirs, stderr=theirs)
        finally:
            os.close(theirs)
        shown = bytearray()
        with contextlib.suppress(OSError):  # how a terminal says that nobody writes to it any more
            while data := os.read(ours, 65_536):
                shown += data
        os.close(ours)
        return process.wait(_RUN_S), shown.decode().replace("\r\n", "\n")


def _command(arguments: tuple[str, ...]) -> list[str]:
    """The installed command; its module where only the sources are there."""
    installed = Path(sys.executable).with_name("neff")
    return [str(installed), *arguments] if installed.exists() else [sys.executable, "-m", "neff.cli", *arguments]
