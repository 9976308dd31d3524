"""Arguments that several commands share."""

from __future__ import annotations

import argparse

from neff.commands.arguments import add_option, positive
from neff.commands.documents import add_json

__all__ = ["add_json", "add_option", "add_repo_id", "positive", "repo_id"]


def add_repo_id(parser: argparse.ArgumentParser, default: str) -> None:
    add_option(
        parser, "repo_id", metavar="REPO", type=repo_id, default=None, help=f"the cache repo (default: {default})"
    )


def repo_id(text: str) -> str:
    """A repo's name, with or without its owner."""
    from neff.hubrepo import is_repo_id

    if is_repo_id(text):
        return text
    raise argparse.ArgumentTypeError(f"not the name of a repo: {text!r} (expected OWNER/NAME)")
