"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from typing import Any


def add_option(parser: argparse.ArgumentParser, name: str, **options: Any) -> None:
    """An option in both spellings, `--batch_size` and `--batch-size`; first as optimum-neuron has it."""
    dest = name.replace("-", "_")
    spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}", f"--{dest}"))
    parser.add_argument(*spellings, dest=dest, **options)


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as one JSON document, with the version of its schema")


def add_repo_id(parser: argparse.ArgumentParser, default: str) -> None:
    add_option(
        parser, "repo_id", metavar="REPO", type=repo_id, default=None, help=f"the cache repo (default: {default})"
    )


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if text.isascii() and text.isdecimal() and 0 < int(text) < 10**9:
        return int(text)
    raise argparse.ArgumentTypeError(f"not a whole number from 1 on: {text!r}")


def repo_id(text: str) -> str:
    """A repo's name, with or without its owner."""
    from neff.hubrepo import is_repo_id

    if is_repo_id(text):
        return text
    raise argparse.ArgumentTypeError(f"not the name of a repo: {text!r} (expected OWNER/NAME)")
