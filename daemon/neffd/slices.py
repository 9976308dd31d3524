"""Very many things in parts, so that whoever goes through them can let others have their turn."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")
# Of keys, about a millisecond's work.
_AT_ONCE = 4_000


def slices(things: Iterable[_T]) -> Iterator[list[_T]]:
    """All of them, in order, some at a time; `things` must stay as they are meanwhile."""
    rest = iter(things)
    while part := list(itertools.islice(rest, _AT_ONCE)):
        yield part
