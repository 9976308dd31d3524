"""Where a configuration comes from: the YAML file and the environment, merged into one tree of text.

Every scalar stays the text that was written (or None for null), so a value means the same in the file and in the
environment; the models in `config` give it a type. Problems are collected, not raised: one run shows all of them.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from neff.protocol import safe_text

PREFIX = "NEFFD_"
CONFIG_VARIABLE = "NEFFD_CONFIG"
MAX_FILE_BYTES = 1_048_576

# What Kubernetes tells every pod about a Service called `neffd`, or `neffd-…`.
_OF_KUBERNETES = re.compile(r"(NEFFD(?:_\w+?)??)_(?:SERVICE_(?:HOST|PORT.*)|PORT(?:_.*)?)")
_NULLS = ("", "~", "null", "Null", "NULL")
_SECRET_KEY = re.compile(r"token|secret|password|credential", re.IGNORECASE)
_SECRET_TEXT = re.compile(r"hf_\w+|(?<=://)[^/\s]*@|(?<=\?).*")
_MAX_SHOWN_CHARS = 80


class Key(NamedTuple):
    """One key of the configuration: its dotted path, and whether its value is a list."""

    path: str
    is_list: bool

    @property
    def variable(self) -> str:
        """The environment variable that sets this key."""
        return PREFIX + self.path.replace(".", "_").upper()


class Problem(NamedTuple):
    """One thing wrong with the configuration."""

    source: str
    path: str
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in self if part)


class Merged(NamedTuple):
    """The tree of all values given, the source of each key's value, and what was wrong with the sources themselves."""

    tree: dict[str, Any]
    sources: dict[str, str]
    problems: list[Problem]

    def source_of(self, path: str) -> str:
        """The source of the value at `path`, or of the nearest value around it; the file for a key nobody knows."""
        while path not in self.sources and path:
            path = path.rpartition(".")[0]
        return self.sources.get(path, "default")


def read(file: str | os.PathLike[str] | None, environ: Mapping[str, str], keys: Iterable[Key]) -> Merged:
    """Read `file` and the environment's NEFFD_… variables; the environment wins."""
    by_path = {key.path: key for key in keys}
    file = file or environ.get(CONFIG_VARIABLE) or None
    merged = Merged({}, {}, [])
    if file is not None:
        _read_file(os.fspath(file), by_path, merged)
    by_variable = {key.variable: key for key in by_path.values()}
    for variable, text in sorted(environ.items()):
        is_ours = variable.startswith(PREFIX) and not _is_of_kubernetes(variable, environ)
        if is_ours and variable != CONFIG_VARIABLE:
            _read_variable(variable, text, by_variable, merged)
    return merged


def _is_of_kubernetes(variable: str, environ: Mapping[str, str]) -> bool:
    """Of a longer name only where that service has an address too: NEFFD_HTTP_PORT alone is somebody's mistake."""
    match = _OF_KUBERNETES.fullmatch(variable)
    return match is not None and (match[1] == "NEFFD" or f"{match[1]}_SERVICE_HOST" in environ)


def nearest(word: str, known: Iterable[str]) -> str:
    """A suggestion for a misspelt key: the known one most like it, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"allowed: {', '.join(known)}"


def shown(path: str, value: Any) -> str:
    """What was found at `path`, fit for a terminal and without secrets."""
    if value is None or value == "":
        return "nothing"
    if isinstance(value, (dict, list, tuple)):
        return "a mapping" if isinstance(value, dict) else "a list"
    if _SECRET_KEY.search(path.rpartition(".")[2]):
        return "a value (not shown)"
    text = without_secrets(str(value))
    return repr(text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 1] + "…")


def without_secrets(text: str) -> str:
    """`text` on one printable line, with tokens, passwords and queries of URLs left out."""
    return safe_text(_SECRET_TEXT.sub("…", text))


class _Loader(yaml.BaseLoader):
    """PyYAML's plainest loader (text, lists and mappings, no tags) that also knows null and notices duplicate keys."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.duplicates: list[str] = []

    def construct_scalar(self, node: Any) -> Any:
        return None if node.style is None and node.value in _NULLS else super().construct_scalar(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            key = key_node.value
            if key in mapping:
                line = key_node.start_mark.line + 1
                self.duplicates.append(f"line {line}: the key {without_secrets(key)!r} appears twice")
            mapping[key] = self.construct_object(value_node, deep=True)
        return mapping


def _parse(text: str) -> tuple[Any, list[str]]:
    """The tree in `text` and what is wrong with it."""
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data(), loader.duplicates
        finally:
            loader.dispose()
    except RecursionError:
        return None, ["nested too deeply"]
    except yaml.MarkedYAMLError as error:
        # Only the parser's own words: PyYAML's full text quotes the line, which may hold a secret.
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        return None, [f"{where}not YAML: {without_secrets(error.problem or 'syntax error')}"]
    except (yaml.YAMLError, ValueError) as error:
        return None, [f"not YAML: {without_secrets(str(error))}"]


def _read_file(file: str, keys: Mapping[str, Key], merged: Merged) -> None:
    name = safe_text(file)
    try:
        with Path(file).open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
        text = content.decode()
    except UnicodeDecodeError:
        merged.problems.append(Problem(name, "", "not UTF-8 text"))
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        merged.problems.append(Problem(name, "", f"cannot be read: {reason}"))
        return
    if len(content) > MAX_FILE_BYTES:
        merged.problems.append(Problem(name, "", f"too large; allowed: at most {MAX_FILE_BYTES} bytes"))
        return
    tree, wrong = _parse(text)
    merged.problems.extend(Problem(name, "", text) for text in wrong)
    if not isinstance(tree, dict):
        if tree is not None:
            merged.problems.append(Problem(name, "", f"found {shown('', tree)}; allowed: a mapping of keys to values"))
        return
    sections = {path.partition(".")[0] for path in keys if "." in path}
    # A section whose keys are all commented out is empty, not wrong.
    merged.tree.update({key: {} if key in sections and value is None else value for key, value in tree.items()})
    # Whatever is not traced to a variable below comes from the file, unknown keys included.
    merged.sources[""] = name
    merged.sources.update({path: name for path in keys if _holds(merged.tree, path)})


def _read_variable(variable: str, text: str, keys: Mapping[str, Key], merged: Merged) -> None:
    key = keys.get(variable)
    if key is None:
        suggestion = nearest(variable, [*keys, CONFIG_VARIABLE])
        merged.problems.append(Problem(safe_text(variable), "", f"no such key; {suggestion}"))
        return
    value: Any = None if text in _NULLS else text
    if key.is_list:
        value, wrong = _parse(text)
        merged.problems.extend(Problem(variable, key.path, what) for what in wrong)
        if wrong:
            return
    section, _, last = key.path.rpartition(".")
    target = merged.tree.setdefault(section, {}) if section else merged.tree
    if isinstance(target, dict):  # else the file holds something odd there, which is reported as such
        target[last] = value
        merged.sources[key.path] = variable


def _holds(tree: Any, path: str) -> bool:
    for part in path.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True
