"""Kinds of arguments that several commands take."""

from __future__ import annotations

import argparse
import math


def seconds(text: str) -> float:
    """A time of at most a day, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"not a number of seconds between 0 and 86400: {text!r}")
    return value
