"""`neff why`: the story of one module on this host."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

from neff import exitcodes
from neff.commands.documents import print_json
from neff.commands.reasons import explained
from neff.commands.session import ANSWER_S, WAITS, fields, number, objects, session, texts, whole
from neff.commands.status import duration
from neff.errors import LostError
from neff.patience import SilencePatience
from neff.protocol import Message, safe_text

HELP = "tell what became of a module on this host, and why"

_HOLDS = {True: "has it", False: "does not have it", None: "nobody knows whether it has it"}
_STATES = {
    "ready": "ready",
    "compiling": "locked: somebody compiles it",
    "pending": "extracted, not compiled",
    "failed": "failed",
    "empty": "an empty folder",
    "absent": "not there",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="everything that is known as JSON")
    parser.add_argument("key", metavar="KEY", help="a module key or its beginning, alone or after <namespace>/")


def run(args: argparse.Namespace) -> int:
    with session(args) as connection:
        for answer in connection.answers("why", {"name": args.key}, SilencePatience(WAITS.now_s(), ANSWER_S)):
            story = answer.get("why")
            if isinstance(story, dict):
                return _show(story, args)
    raise LostError("garbage", f"the daemon at {connection.path} told nothing")


def _show(story: Message, args: argparse.Namespace) -> int:
    matches = story.get("matches")
    is_ambiguous = isinstance(matches, list) and len(matches) > 1
    if args.json:
        print_json("why", **story)
    elif is_ambiguous:
        print(f"neff: {safe_text(args.key)} is the beginning of more than one:", file=sys.stderr)
        print("\n".join(safe_text(match) for match in matches))  # type: ignore[union-attr]
        if more := number(story.get("more")):
            print(f"and {more:.0f} more", file=sys.stderr)
    elif "name" not in story:
        print(f"neff: this host has never heard of {safe_text(args.key)}", file=sys.stderr)
    else:
        print("\n".join(describe(story)))
    if is_ambiguous:
        return exitcodes.FAILED
    return exitcodes.OK if story.get("known") is True else exitcodes.NOT_FOUND


def describe(story: Message) -> Iterator[str]:
    """The story for a person: how it stands, then what happened, the newest last, then what comes near."""
    yield texts(story, "name")[0]
    if story.get("known") is not True:
        yield "  this host has never heard of it"
    for part in objects(story.get("here")):
        yield from _here(part)
    for remote in objects(story.get("remotes")):
        yield from _remote(remote)
    events = [f"  {_moment(event.get('at'))}  {_told(event)}" for event in objects(story.get("events"))]
    if events:
        yield "\nwhat happened:"
        yield from events
    yield from _nearest(fields(story.get("nearest")))


def _here(part: Message) -> Iterator[str]:
    root, state = texts(part, "root", "state")
    yield f"  in {root}: {_STATES.get(state, state)}{_origin(part)}"
    failure = fields(part.get("failure"))
    if failure:
        reason, kept = texts(failure, "reason", "kept")
        yield f"    failed: {explained(reason)}"
        if failure.get("text"):
            yield f"    its log: {texts(failure, 'text')[0]}"
        yield f"    not tried again: {explained(kept)}"
        yield f"    to have it compiled again: {whole(failure, 'hint')}"
    retried = number(failure.get("retried")) or number(part.get("retried"))
    if retried:
        yield f"    its failures were set aside {_times(retried)}"


def _origin(part: Message) -> str:
    origin = part.get("origin")
    if not isinstance(origin, str):
        return ""
    seconds = number(part.get("compile_s"))
    took = f", {duration(seconds)} of compiling" if seconds is not None else ""
    if origin.startswith("remote:"):
        return f", fetched from {safe_text(origin[len('remote:') :])}{took}"
    return f", {'there before neffd' if origin == 'existing' else 'compiled here'}{took}"


def _remote(remote: Message) -> Iterator[str]:
    holds = remote.get("holds")
    line = f"  remote {texts(remote, 'name')[0]}: {_HOLDS.get(holds if isinstance(holds, bool) else None)}"
    if remote.get("trouble"):
        line += f"; not available: {explained(texts(remote, 'trouble')[0])}"
    if remote.get("parked"):
        line += f"; parked: {explained(texts(remote, 'parked')[0])}"
    elif remote.get("waiting_since"):
        line += f"; waits for upload since {_moment(remote.get('waiting_since'))}"
    yield line


def _told(event: Message) -> str:
    tell = _EVENTS.get(str(event.get("what")))
    return tell(event) if tell is not None else safe_text(event.get("what"))


def _asked(event: Message) -> str:
    pids = event.get("pids")
    listed = ", ".join(safe_text(pid) for pid in pids) if isinstance(pids, list) else "?"
    count = number(event.get("times")) or 1
    who = f"pid {listed} of uid {texts(event, 'uid')[0]}" + (f" and others, {_times(count)}" if count > 8 else "")
    job = ", ".join(f"{safe_text(name)}={safe_text(value)}" for name, value in fields(event.get("job")).items())
    if event.get("answer") == "ready":
        source = texts(event, "source")[0]
        told = "ready, it was here" if source == "local" else f"fetched from {source}"
    else:
        told = explained(texts(event, "reason")[0])
    return f"asked by {who}{f' ({job})' if job else ''}: {told}"


def _compiled(event: Message) -> str:
    pid, uid = texts(event, "pid", "uid")
    return f"compiled by pid {pid} of uid {uid} in {duration(event.get('seconds'))}"


def _delivered(event: Message) -> str:
    remote, outcome = texts(event, "remote", "outcome")
    return f"remote {remote}: {explained(outcome)}"


def _taken(event: Message) -> str:
    remotes = event.get("remotes")
    listed = ", ".join(safe_text(remote) for remote in remotes) if isinstance(remotes, list) else "?"
    return f"taken for upload to {listed or 'no remote'}"


def _set_aside(event: Message) -> str:
    kept_at = whole(event, "kept_at")
    return f"failed: {_cause(event)}; set aside for another try, kept at {kept_at}"


def _kept(event: Message) -> str:
    return f"failed: {_cause(event)}; stays: {explained(texts(event, 'why')[0])}"


def _cause(event: Message) -> str:
    cause = explained(texts(event, "reason")[0])
    return f"{cause}: {texts(event, 'text')[0]}" if event.get("text") else cause


def _pending(event: Message) -> str:
    return f"extracted, and fetched from {texts(event, 'source')[0]} before anybody asked"


def _prefetched(event: Message) -> str:
    return f"fetched from {texts(event, 'source')[0]} before anybody asked, for a run"


def _lock_removed(event: Message) -> str:
    return f"its lock was removed: {texts(event, 'why')[0]}"


def _evicted(event: Message) -> str:
    return "removed from the cache directory to make room"


_EVENTS = {
    "asked": _asked,
    "compiled": _compiled,
    "delivered": _delivered,
    "taken": _taken,
    "failure-set-aside": _set_aside,
    "failure-kept": _kept,
    "fetched-while-pending": _pending,
    "prefetched": _prefetched,
    "lock-removed": _lock_removed,
    "evicted": _evicted,
}


def _nearest(nearest: Message) -> Iterator[str]:
    other_flags = objects(nearest.get("other_flags"))
    if other_flags:
        yield "\nthe same graph with other flags:"
    for other in other_flags:
        yield f"  {texts(other, 'name')[0]}"
        yield from _flags(other)
    others = nearest.get("other_compilers")
    if isinstance(others, list) and others:
        yield "\nthe same key under other compilers:"
        yield from (f"  {safe_text(other)}" for other in others)


def _flags(other: Message) -> Iterator[str]:
    lists = {name: other.get(name) for name in ("only_asked", "only_other", "flags")}
    shown = {name: [safe_text(flag) for flag in flags] for name, flags in lists.items() if isinstance(flags, list)}
    if shown.get("only_asked"):
        yield f"    asked for, and not there: {' '.join(shown['only_asked'])}"
    if shown.get("only_other"):
        yield f"    there, and not asked for: {' '.join(shown['only_other'])}"
    if other.get("other_order") is True:
        yield "    the same flags in another order"
    if "flags" in shown:
        yield f"    its flags: {' '.join(shown['flags']) or 'none'}"
    if not shown:
        yield "    its flags are not known on this host"


def _times(count: float) -> str:
    return "once" if count == 1 else f"{count:.0f} times"


def _moment(value: object) -> str:
    """Seconds since the epoch as local time."""
    seconds = number(value)
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds is not None else "?"
    except (OverflowError, OSError, ValueError):
        return "?"
