"""Kinds of arguments that several commands take."""

from __future__ import annotations

import argparse
import math
from typing import Any


def add_option(parser: argparse.ArgumentParser, name: str, **options: Any) -> None:
    """An option in both spellings, `--batch_size` and `--batch-size`; first as optimum-neuron has it."""
    parser.add_argument(*spellings(name), dest=name.replace("-", "_"), **options)


def spellings(name: str) -> list[str]:
    """How an option can be written."""
    return list(dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}", f"--{name.replace('-', '_')}")))


def positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if text.isascii() and text.isdecimal() and 0 < int(text) < 10**9:
        return int(text)
    raise argparse.ArgumentTypeError(f"not a whole number from 1 on: {text!r}")


def seconds(text: str) -> float:
    """A time of at most a day, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"not a number of seconds between 0 and 86400: {text!r}")
    return value
