"""`neff status`: what the daemon on this host is doing."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from itertools import chain

from neff import exitcodes
from neff.commands import withdaemon
from neff.commands.documents import print_json
from neff.commands.session import fields, number, objects, session, status_of, texts, whole
from neff.protocol import Message, safe_text

HELP = "show what the daemon is doing"
# How it is now, which the sections above say, at times by a newer look.
_NO_COUNTERS = (
    "neffd_cache_",
    "neffd_connections",
    "neffd_journal_",
    "neffd_manifests_waiting",
    "neffd_not_evicted",
    "neffd_remote_breaker",
    "neffd_tasks",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the whole status as JSON")
    parser.add_argument(
        "--cache_dir", "--cache-dir", metavar="DIR", help="what this cache directory holds, without asking a daemon"
    )


def run(args: argparse.Namespace) -> int:
    if args.cache_dir is not None:
        return withdaemon.run_module("localstatus", args)
    with session(args) as connection:
        status = status_of(connection)
    if args.json:
        print_json("status", **status)
    else:
        print("\n".join(describe(status)))
    return exitcodes.OK


def describe(status: Message) -> Iterator[str]:
    """The status for a person, line by line. Missing fields are left out or shown as `?`."""
    version, state, pid = texts(status, "version", "state", "pid")
    yield f"neffd {version}, {state}, pid {pid}, up {duration(status.get('uptime_s'))}"
    yield from _problems(objects(status.get("problems")))
    yield from _section("cache directories", _cache_dirs(objects(status.get("cache_dirs"))))
    remotes, orphaned = objects(status.get("remotes")), objects(status.get("orphaned"))
    none = "none (nothing is shared)" if status.get("remotes") == [] else ""
    yield from _section("remotes", chain(_remotes(remotes), _orphaned(orphaned)), none)
    yield from _section("fetching", _fetching(objects(status.get("fetching")), status.get("fetching_count")))
    yield from _section("compiling", _compiling(objects(status.get("compiling"))))
    yield from _section("runs", _runs(fields(status.get("runs"))))
    yield from _section("beyond a limit", _limits(objects(status.get("limits"))))
    yield from _section("since the start", _counters(status.get("counters")))


def _section(title: str, lines: Iterable[str], remark: str = "") -> Iterator[str]:
    """The lines below their title; nothing where there are none and nothing is to be remarked on it."""
    indented = [f"  {line}" for line in lines]
    if indented or remark:
        yield f"\n{title}: {remark}".rstrip()
    yield from indented


def _cache_dirs(cache_dirs: list[Message]) -> Iterator[str]:
    for cache_dir in cache_dirs:
        entries = fields(cache_dir.get("entries"))
        states = ("ready", "compiling", "pending", "failed")
        counts = ", ".join(f"{count} {state}" for state, count in zip(states, texts(entries, *states), strict=True))
        yield f"{texts(cache_dir, 'path')[0]}: {counts}"
        yield from _space(fields(cache_dir.get("space")))
        yield from _problems(objects(cache_dir.get("problems")))


def _problems(problems: list[Message]) -> Iterator[str]:
    for problem in problems:
        yield f"  problem: {texts(problem, 'reason')[0]}: {whole(problem, 'detail')}"
        if problem.get("hint"):
            yield f"  mend it: {whole(problem, 'hint')}"


def _space(space: Message) -> Iterator[str]:
    """How much there is, how much there may be, and what went for it."""
    held, free, limit = space.get("bytes"), space.get("free_bytes"), space.get("max_bytes")
    if held is None:
        return
    at_most = "" if limit is None else f" of at most {megabytes(limit)}"
    yield f"  {megabytes(held)}{at_most}, {megabytes(free)} free on its disk"
    evicted = number(space.get("evicted_entries"))
    if evicted:
        yield f"  {evicted:.0f} evicted since the start, {megabytes(space.get('evicted_bytes'))}"


def _remotes(remotes: list[Message]) -> Iterator[str]:
    lines = columns([_remote_row(remote) for remote in remotes])
    for line, remote in zip(lines, remotes, strict=True):
        yield line
        journal = fields(remote.get("journal"))
        waiting = number(journal.get("waiting"))
        if waiting:
            yield f"  {waiting:.0f} waiting for upload, the oldest for {duration(journal.get('oldest_s'))}"
        for parked in objects(journal.get("parked")):
            name, reason = texts(parked, "name", "reason")
            yield f"  parked: {name}: {reason}"
        yield from _more("parked", journal.get("parked_count"), journal.get("parked"))
        yield from _refused(fields(remote.get("refused")))
        yield from _breaker(fields(remote.get("breaker")))


def _more(what: str, count: object, shown: object) -> Iterator[str]:
    """That there are more than the document lists."""
    unlisted = (number(count) or 0) - len(objects(shown))
    if unlisted > 0:
        yield f"  and {unlisted:.0f} more {what}"


def _refused(refused: Message) -> Iterator[str]:
    """Copies that failed verification, and where each is kept for a look."""
    for copy in objects(refused.get("shown")):
        name, reason = texts(copy, "name", "reason")
        yield f"  refused: {name}: {reason}" + (f", kept in {whole(copy, 'folder')}" if copy.get("folder") else "")
    yield from _more("refused", refused.get("count"), refused.get("shown"))


def _breaker(breaker: Message) -> Iterator[str]:
    """Sides of a remote that are given a rest."""
    for side, what in (("read", "not read"), ("write", "not written")):
        seen = fields(breaker.get(side))
        state, reason = texts(seen, "state", "reason")
        if state == "open":
            yield f"  {what} for {duration(seen.get('retry_s'))}: {reason}"
        elif state == "half-open":
            yield f"  {what} until a first try succeeds: {reason}"


def _orphaned(orphaned: list[Message]) -> Iterator[str]:
    """Remotes that entries wait for and that nothing is sent to."""
    for name, waiting in (texts(orphan, "remote", "waiting") for orphan in orphaned):
        todo = "put it back under this name, or see docs/operations.md"
        yield f"{name}  not configured as read-write  {waiting} waiting: {todo}"


def _remote_row(remote: Message) -> list[str]:
    name, url, mode, reason = texts(remote, "name", "url", "mode", "reason")
    if reason == "no-write-access" and mode == "read-write":
        mode = f"{mode} (no write access)"
    available = remote.get("available", "?")
    if available is False:
        state = f"unavailable: {reason}"
    else:
        state = "?" if available == "?" else "available" if available else "not asked yet"
        state += f", not written: {reason}" if remote.get("reason") else ""
    catalog = fields(remote.get("catalog"))
    age = catalog.get("age_s")
    seen = "never read" if age is None else f"read {duration(age)} ago"
    held = f"{_counted(catalog, 'key')} in {_counted(catalog, 'namespace')}"
    return [name, url, mode, state, f"{held}, {seen}"]


def _fetching(fetches: list[Message], count: object) -> Iterator[str]:
    for fetch in fetches:
        name, remote = texts(fetch, "name", "remote")
        progress = f"{megabytes(fetch.get('done_bytes'))} of {megabytes(fetch.get('total_bytes'))}"
        yield f"{name} from {remote}: {progress}, {duration(fetch.get('since_s'))}"
    yield from map(str.lstrip, _more("under way, or waiting for their turn", count, fetches))


def _compiling(compiles: list[Message]) -> Iterator[str]:
    """Who compiles what since when, and how many wait for it."""
    for compile_ in compiles:
        name, holder, pid, uid = texts(compile_, "name", "holder", "pid", "uid")
        who = {
            "process": f"process {pid} of uid {uid}",
            "gone": f"process {pid} of uid {uid}, which is gone{_at_work(compile_.get('at_work'))}",
            "neffd": "neffd, which is bringing it",
        }.get(holder, "locked by an unknown process")
        since = duration(compile_.get("since_s"))
        usual = f", usually {duration(compile_['usually_s'])}" if compile_.get("usually_s") is not None else ""
        waiting = number(compile_.get("waiting"))
        waits = f", {waiting:.0f} waiting" if waiting else ""
        yield f"{name}: {who}, for {since}{usual}{waits}"


def _runs(runs: Message) -> Iterator[str]:
    """What each used until now, and what fetching has spared all of them."""
    for run in objects(runs.get("running")):
        key, instance = texts(run, "key", "instance")
        model = texts(run, "model")[0] if run.get("model") else instance
        came = [f"{number(run.get(how)) or 0:.0f} {how}" for how in ("local", "fetched", "compiled")]
        saved = number(run.get("saved_s"))
        spared = f", {duration(saved)} saved" if saved else ""
        told = f", not told to remotes: {texts(run, 'withheld')[0]}" if run.get("withheld") else ""
        key = f", {key}" if run.get("key") else ""
        yield f"{model}: {_counted(run, 'module')} ({', '.join(came)}){spared}{key}{told}"
    saved = number(runs.get("saved_s"))
    if saved:
        yield f"saved in all: {duration(saved)} of compiling"


def _limits(met: list[Message]) -> Iterator[str]:
    """Users who wanted more than they may have."""
    for limit in met:
        uid, reason, times = texts(limit, "uid", "reason", "times")
        yield f"uid {uid}: {reason}, {times} times, last {duration(limit.get('ago_s'))} ago"


def _at_work(pids: object) -> str:
    """The processes that keep a lock whose maker is gone."""
    shown = ", ".join(safe_text(pid) for pid in pids) if isinstance(pids, list) else ""
    return f" (still at it: process {shown})" if shown else ""


def _counters(counters: object) -> Iterator[str]:
    """Those that have counted something."""
    rows = []
    counted = ((name, value) for name, value in fields(counters).items() if not name.startswith(_NO_COUNTERS))
    for name, value in sorted(counted):
        labelled = value if isinstance(value, dict) else {"": value}
        for labels, count in labelled.items():
            amount = number(count)
            if amount:
                shown = ",".join(label for label in labels.split(",") if not label.endswith("="))
                text = megabytes(amount) if name.endswith("_bytes") else f"{amount:.0f}"
                rows.append([f"{name}{{{shown}}}" if shown else name, text])
    yield from map(safe_text, columns(rows))


def columns(rows: list[list[str]]) -> list[str]:
    """The rows as lines with their columns under each other."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _counted(message: Message, what: str) -> str:
    """The number in the field `{what}s` with its noun: `1 key`, `2 keys`."""
    (count,) = texts(message, f"{what}s")
    return f"{count} {what}" if count == "1" else f"{count} {what}s"


def duration(value: object) -> str:
    """Seconds as a person says them: `12 s`, `3 min`, `2 h 5 min`, `4 d 1 h`."""
    seconds = number(value)
    if seconds is None:
        return "?"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if minutes == 0:
        return f"{seconds:.0f} s"
    if hours == 0:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if days == 0 else f"{days} d {hours % 24} h"


def megabytes(value: object) -> str:
    """Bytes as `1.5 MB`."""
    size_bytes = number(value)
    return "?" if size_bytes is None else f"{size_bytes / 1e6:.1f} MB"
