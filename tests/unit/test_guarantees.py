"""docs/guarantees.md against the tests that it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
TEXT = (PROJECT / "docs" / "guarantees.md").read_text()
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def _tests_in(path: Path) -> set[str]:
    """Names of test functions, and of the classes that hypothesis makes from state machines."""
    body = ast.parse(path.read_text()).body
    functions = {node.name for node in body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    assigned = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    return functions | {target.id for target in assigned if isinstance(target, ast.Name)}


def test_every_named_test_exists() -> None:
    missing = [
        f"{path}::{name}"
        for path, name in _NAMED.findall(TEXT)
        if not (PROJECT / path).is_file() or name not in _tests_in(PROJECT / path)
    ]
    assert missing == []


def test_every_promise_names_a_test() -> None:
    promises = re.split(r"^## ", TEXT.partition("\n## Not proved")[0], flags=re.MULTILINE)[1:]
    assert len(promises) == 11
    assert [promise.splitlines()[0] for promise in promises if not _NAMED.search(promise)] == []
