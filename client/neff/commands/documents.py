"""What commands print with `--json`: one document with the version of its schema."""

from __future__ import annotations

import argparse
import json
from typing import Any

# Rises when a field changes its meaning or goes away.
SCHEMA = 1


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as one JSON document, with the version of its schema")


def print_json(command: str, **fields: Any) -> None:
    """One document: the schema's version, the command, and its fields."""
    print(json.dumps({"schema": SCHEMA, "command": command, **fields}, indent=2))
