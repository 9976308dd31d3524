"""After a run: does every remote have every module that it used, and if not, why not?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from neff import keys
from neff.commands.session import ANSWER_S, WAITS, fields, objects, status_of
from neff.connection import Connection
from neff.hubrepo import is_repo_id
from neff.keys import ModuleName
from neff.patience import SilencePatience
from neffd.commands import hub
from neffd.commands.errors import CommandError
from neffd.commands.serving import Serving

_LOOK_S = 0.5
_HUB = "hf://"


@dataclass(frozen=True)
class Lacking:
    """A module that a remote does not have, and a code from docs/operations.md why."""

    name: str
    remote: str
    reason: str


def names_in(modules: Iterable[dict[str, Any]]) -> list[str]:
    """The full names in a run's summary, each once, in the order of their first use."""
    names = dict.fromkeys(str(module.get("name")) for module in modules)
    return [name for name in names if _is_name(name)]


def wait_for_compiles(
    connection: Connection, names: Iterable[str], progress: Callable[[int], None], look_s: float = _LOOK_S
) -> None:
    """Until nobody compiles one of the modules any more; a lock of whom nobody knows is not waited for."""
    wanted, told = set(names), 0
    while under_way := wanted & _compiling(status_of(connection)):
        if len(under_way) != told:
            told = len(under_way)
            progress(told)
        time.sleep(look_s)


def lacking(connection: Connection, remotes: Sequence[Serving], names: Sequence[str]) -> list[Lacking]:
    """What is missing where. A remote on the Hub is asked itself, where this login may; else the daemon is.

    What another remote of the daemon has is not missing: it was fetched from there, and so can others.
    """
    stories = {name: _story(connection, name) for name in names}
    missing = []
    for remote in remotes:
        seen = _on_hub(remote, names)
        for name, story in stories.items():
            held_by = {str(part.get("name")) for part in objects(story.get("remotes")) if part.get("holds") is True}
            has_it = name in seen if seen is not None else remote.remote in held_by
            if not has_it and not held_by - {other.remote for other in remotes}:
                missing.append(Lacking(name, remote.remote, _reason(story, remote.remote)))
    return missing


def repo_of(remote: Serving) -> str | None:
    """The Hub repo that a remote is, or None for a bucket or a directory."""
    name = remote.url.removeprefix(_HUB)
    return name if remote.url.startswith(_HUB) and is_repo_id(name) else None


def _compiling(status: dict[str, Any]) -> set[str]:
    rows = objects(status.get("compiling"))
    return {str(row.get("name")) for row in rows if row.get("holder") in ("process", "gone", "neffd")}


def _story(connection: Connection, name: str) -> dict[str, Any]:
    patience = SilencePatience(WAITS.now_s(), ANSWER_S)
    answers = list(connection.answers("why", {"name": name}, patience))
    return fields(answers[-1].get("why")) if answers else {}


def _on_hub(remote: Serving, names: Sequence[str]) -> set[str] | None:
    """Those that the repo has, by its own word; None where it cannot be asked with this login."""
    repo_id = repo_of(remote)
    if repo_id is None:
        return None
    marks = {f"{name}/{keys.ready_mark(name.partition('/')[0])}": name for name in names}

    async def found() -> set[str]:
        async with hub.opened(repo_id) as client:
            return {marks[str(item["path"])] for item in await client.paths_info(list(marks), "main")}

    try:
        return hub.run_async(found()) if marks else set()
    except CommandError:
        return None


def _reason(story: dict[str, Any], remote: str) -> str:
    """Why a module is not there, as a code."""
    part = next((part for part in objects(story.get("remotes")) if part.get("name") == remote), {})
    if part.get("parked"):
        return str(part["parked"])
    if part.get("waiting_since") is not None:
        return str(part.get("trouble") or "waiting")
    here = objects(story.get("here"))
    states = [item.get("state") for item in here]
    if "ready" in states:
        return "not-taken"
    failure = next((fields(item.get("failure")) for item in here if item.get("failure")), {})
    if failure:
        return str(failure.get("reason"))
    if "compiling" in states:
        return "locked"
    return "compile-failed" if "failed" in states else "not-compiled"


def _is_name(text: str) -> bool:
    namespace, _, key = text.partition("/")
    return keys.is_namespace(namespace) and keys.is_module_key(key) and str(ModuleName(namespace, key)) == text
