"""Writes entries below a folder as they come on standard input: `python -m tests.faults.power_trainer FOLDER`."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from tests.harness import entries

if __name__ == "__main__":
    while True:
        try:
            name, files = pickle.load(sys.stdin.buffer)
        except EOFError:
            break
        entries.write(Path(sys.argv[1]), name, files)
        print("written", flush=True)
