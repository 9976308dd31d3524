"""What a section of the configuration is made of: typed keys, each with a parser of what was written, and a default.

    @dataclass(frozen=True, init=False)
    class FetchConfig(Section):
        parallel: int = key(whole_number(256), 40)

A section is made from what was given for its keys (`FetchConfig(parallel="3")`), and never changes. A parser raises
ValueError whose text says what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from neffd.config_sources import nearest

Parser = Callable[[Any], Any]
# Takes a value and those of the keys before it, as far as they are right; returns the value, or raises ValueError.
Then = Callable[[Any, Mapping[str, Any]], Any]

_NOTHING: Any = object()


class Wrong(NamedTuple):
    """One thing wrong: where, and what is to be said of it; with something `found` there, what would be allowed."""

    path: tuple[str | int, ...]
    text: str
    found: Any = _NOTHING

    @property
    def is_value(self) -> bool:
        """Whether something was found that is not allowed."""
        return self.found is not _NOTHING


class Invalid(ValueError):
    """What was given makes no section: everything that is wrong with it."""

    def __init__(self, wrong: list[Wrong]) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, one.path))}: {one.text}" for one in wrong))
        self.wrong = wrong


class Contradiction(ValueError):
    """For values of which each is right by itself: its text is all there is to say."""


def key(parse: Parser | type[Section], default: Any = _NOTHING, then: Then | None = None) -> Any:
    """One key; without a default it has to be given. What was given goes through `parse`, then through `then`."""
    return field(default=default, metadata={"parse": parse, "then": then})


@dataclass(frozen=True, init=False)
class Section:
    """Unknown keys are mistakes, and nothing changes after the start."""

    def __init__(self, /, **given: Any) -> None:
        """Raises Invalid."""
        values: dict[str, Any] = {}
        wrong: list[Wrong] = []
        for each in fields(self):
            found = given.get(each.name, each.default)
            if found is _NOTHING:
                wrong.append(Wrong((each.name,), "missing"))
                continue
            try:
                value, then = _parsed(each.metadata["parse"], found), each.metadata["then"]
                values[each.name] = value if then is None else then(value, values)
            except ValueError as error:
                wrong += _located(error, each.name, found)
        names = [each.name for each in fields(self)]
        wrong += [Wrong((name,), f"no such key; {nearest(name, names)}") for name in given if name not in names]
        if wrong:
            raise Invalid(wrong)
        for name, value in values.items():
            object.__setattr__(self, name, value)


def list_of(parse: Parser | type[Section], *, at_least: int = 0, or_one: bool = False) -> Parser:
    """A parser of lists; with `or_one` one value stands for a list of one: `NEFFD_CACHE_DIRS=/some/path`."""

    def parse_all(found: Any) -> tuple[Any, ...]:
        if or_one and isinstance(found, str):
            found = [found]
        if not isinstance(found, (list, tuple)):
            raise ValueError("a list")
        if len(found) < at_least:
            raise ValueError("at least one")
        values, wrong = [], []
        for number, item in enumerate(found):
            try:
                values.append(_parsed(parse, item))
            except ValueError as error:  # noqa: PERF203, all that is wrong is told at once
                wrong += _located(error, number, item)
        if wrong:
            raise Invalid(wrong)
        return tuple(values)

    return parse_all


def optional(parse: Parser) -> Parser:
    """The same, or null."""
    return lambda found: None if found is None else parse(found)


def _parsed(parse: Parser | type[Section], found: Any) -> Any:
    if not isinstance(parse, type):
        return parse(found)
    if isinstance(found, parse):
        return found
    if not isinstance(found, Mapping):
        raise ValueError("a mapping of keys to values")
    return parse(**found)


def _located(error: ValueError, part: str | int, found: Any) -> list[Wrong]:
    """What is wrong with the value at `part`."""
    if isinstance(error, Invalid):
        return [one._replace(path=(part, *one.path)) for one in error.wrong]
    return [Wrong((part,), str(error), _NOTHING if isinstance(error, Contradiction) else found)]
