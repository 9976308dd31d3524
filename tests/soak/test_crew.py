"""What a trainer that ends is taken for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.soak.crew import Member


def member(folder: Path, life_s: float | None) -> Member:
    host: Any = SimpleNamespace(name="witness", cache=folder / "cache")
    return Member("witness-8", host, folder, 0.0, 100.0, 1, life_s)


@pytest.mark.parametrize(
    ("life_s", "code", "is_its_own_end"), [(None, 0, True), (None, 1, True), (120.0, 1, True), (120.0, 0, False)]
)
def test_only_who_may_end_does_so_in_order(
    tmp_path: Path, life_s: float | None, code: int, is_its_own_end: bool
) -> None:
    one = member(tmp_path, life_s)
    assert one.job().length_s == life_s
    one.process = subprocess.Popen([sys.executable, "-S", "-c", f"raise SystemExit({code})"])
    one.process.wait(10)
    one.look_after()
    assert one.own_ends == [code] * is_its_own_end
