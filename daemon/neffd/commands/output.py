"""How commands print: for a person on a terminal, one fact a line in a pipe, or as one JSON document."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from neff.commands.documents import print_json
from neff.protocol import safe_text

__all__ = ["block", "bytes_bar", "is_plain", "is_terminal", "line", "print_json", "print_table", "size", "title"]


def is_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout is not None and sys.stdout.isatty()  # None: closed by the caller, as `>&-` does


def is_plain() -> bool:
    """Whether no escape sequence may be printed."""
    return not is_terminal() or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def title(text: str) -> str:
    """A heading; bold where that is possible."""
    return text if is_plain() else f"\x1b[1m{text}\x1b[0m"


def block(facts: Mapping[str, Any]) -> Iterable[str]:
    """`name: value`, one a line; what is not known is left out."""
    return (f"{name}: {safe_text(value)}" for name, value in facts.items() if value is not None)


def line(facts: Mapping[str, Any]) -> str:
    """`name=value` one after the other, quoted as a shell would, for a pipe; what is not known is left out."""
    return " ".join(f"{name}={shlex.quote(safe_text(value))}" for name, value in facts.items() if value is not None)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], heading: str = "") -> None:
    """A table on a terminal; lines with tabs between the cells in a pipe."""
    cells = [[safe_text(cell) for cell in row] for row in rows]
    if not is_terminal():
        for row in cells:
            print("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if heading:
        print(title(heading))
    table = Table(header_style="" if is_plain() else "bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


@contextlib.contextmanager
def bytes_bar(what: str, *, hidden: bool) -> Iterator[Callable[[int, int | None, str], None]]:
    """A bar on a terminal, nothing elsewhere. Told of bytes so far, all of them, and a word on what is left."""
    if hidden or not is_terminal():
        yield lambda done_bytes, total_bytes, left: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    left_column = TextColumn("{task.fields[left]}")
    with Progress(TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), left_column) as bars:
        task = bars.add_task(what, total=None, left="")
        yield lambda done_bytes, total_bytes, left: bars.update(
            task, completed=done_bytes, total=total_bytes or None, left=left
        )


def size(size_bytes: int) -> str:
    """Bytes as `1.5 MB`."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    value = size_bytes / 1000
    for unit in ("kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
