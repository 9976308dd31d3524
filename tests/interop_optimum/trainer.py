"""A trainer with optimum-neuron as a process, in the environment that `make interop` built."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.neuron.env import PROJECT_DIR, standin_env

HERE = Path(__file__).parent
# The release that optimum-neuron 0.4.5 names in its own metadata: its registry looks for that name on the Hub.
COMPILER_VERSION = "2.21.33363.0+82129205"
NAMESPACE = f"neuronxcc-{COMPILER_VERSION}"
_CALL_S = 120.0


class Trainer:
    """Starts the process; every `call` is one action of `scripts/worker.py`.

    Args:
        python: interpreter of the interop environment.
        home: a folder of its own.
        cache: the compile cache that it uses.
        hub: variables that lead to a Hub repo.
        socket: the daemon's; without one there is no daemon.
        switches: of the stand-in stack.
    """

    def __init__(
        self,
        python: str,
        home: Path,
        cache: Path,
        hub: Mapping[str, str],
        socket: Path | None = None,
        **switches: object,
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.cache = cache
        self._compile_log = home / "compiles"
        self._log = home / "log"
        environment = standin_env(
            cache, flags="", compiler_version=COMPILER_VERSION, compile_log=self._compile_log, **switches
        )
        environment = {name: value for name, value in environment.items() if not name.startswith("HF_")} | {
            "PYTHONPATH": os.pathsep.join([environment["PYTHONPATH"], str(HERE / "fakes")]),
            "HOME": str(home),
            "NEFFD_SOCKET": str(socket or home / "no-daemon.sock"),
            "HF_HOME": str(home / "hf"),
            "HF_XET_CACHE": str(home / "hf" / "xet"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_XET_TELEMETRY_ENABLED": "0",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            **hub,
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [python, "-m", "tests.interop_optimum.scripts.worker"],
                cwd=PROJECT_DIR,
                env=environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def call(self, action: str, **arguments: Any) -> Any:
        """What an action returned; AssertionError with its traceback if it raised, or with the log if it died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": action, **arguments}) + "\n")
        self._process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            line = self._process.stdout.readline() if selector.select(_CALL_S) else ""
        assert line, f"no answer; the log:\n{self.log}"
        outcome = json.loads(line)
        assert "error" not in outcome, outcome["error"]
        return outcome["result"]

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def compiles(self) -> int:
        """How often the compiler was started."""
        return len(self._compile_log.read_text().splitlines()) if self._compile_log.exists() else 0

    def entry(self, key: str) -> dict[str, bytes]:
        """The files of a module in the cache directory."""
        folder = self.cache / NAMESPACE / key
        return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
