"""`neff synchronize`: what the cache directory and the cache repo lack of each other, and nothing else, is copied."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neff import exitcodes
from neffd.commands.options import add_json, add_option, add_repo_id

if TYPE_CHECKING:
    from neffd.commands.exchange import Outcome
    from neffd.commands.registrypush import Sent

EXAMPLE = "neff synchronize --pull"
JSON = {
    "repo_id": "the cache repo",
    "cache_dir": "the directory",
    "through": "`daemon` if one serves the directory, else `own`",
    "pushed": "number of modules that were sent, or null with --pull",
    "pulled": "number of modules that were fetched, or null with --push",
    "waiting": "number of modules that still have to be sent; the next run goes on",
    "reason": "why they wait, or null; codes as in operations.md",
    "parked": "name and reason of modules that are not sent",
    "not_pulled": "name and reason of modules that could not be fetched",
    "registry": "number of optimum-neuron's registry files that were sent, or null where that failed",
}
_NO_RIGHT = frozenset({"no-write-access", "not-logged-in", "no-token", "bad-token", "forbidden"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_repo_id(parser, "the one that is set")
    add_option(parser, "cache_dir", metavar="DIR", help="the cache directory (default: that of the Neuron tools)")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--pull", action="store_true", help="only fetch what is missing here")
    one.add_argument("--push", action="store_true", help="only send what is missing there")
    add_option(
        parser,
        "compiler_version",
        metavar="VERSION",
        help="fetch for this compiler, such as 2.21 (default: those in the directory, and the installed neuronx-cc, "
        "here or for the python3 on PATH)",
    )
    add_option(parser, "allow_public", action="store_true", help="also send to a repo that everybody can read")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from neffd.commands.chosenrepo import chosen
    from neffd.commands.errors import none_set
    from neffd.commands.localcache import root_of

    repo_id = chosen(args.repo_id)
    if repo_id is None:
        raise none_set("name the one to synchronize with: --repo_id REPO, or set one")
    root = root_of(args.cache_dir, make=not args.push)
    from neffd.commands import exchange, hub
    from neffd.commands.registrypush import Sent

    hub.run_async(hub.check_repo(repo_id))
    names = [] if args.push else hub.run_async(_missing(args, root, repo_id))
    outcome, registry, through = exchange.Outcome(pulled=0), Sent(0, True), "own"
    if names or not args.pull:
        with _daemon(args, root, repo_id) as (socket, remote, through):
            outcome, registry = _exchange(args, root, repo_id, socket, remote, names)
    _print(args, root, repo_id, through, outcome, registry.files)
    return _exit_code(outcome, registry)


@contextlib.contextmanager
def _daemon(args: argparse.Namespace, root: Path, repo_id: str) -> Iterator[tuple[str, str, str]]:
    """Socket, name of the remote, and whose the daemon is: the one that serves the directory, else one of our own."""
    from neffd.commands import owndaemon
    from neffd.commands.hub import endpoint
    from neffd.commands.serving import find

    found = find(root, repo_id, args.socket)
    if found is not None:
        yield found.socket, found.remote if args.pull else found.writable("fetch only: --pull"), "daemon"
        return
    name, mode = owndaemon.remote_name(repo_id), "read" if args.pull else "read-write"
    remote = {"name": name, "url": f"hf://{repo_id}", "endpoint": endpoint(), "mode": mode}
    if not args.pull:
        remote["allow_public"] = args.allow_public
    with owndaemon.running(root, remote, args.socket) as socket:
        yield socket, name, "own"


def _exchange(
    args: argparse.Namespace, root: Path, repo_id: str, socket: str, remote: str, names: list[str]
) -> tuple[Outcome, Sent]:
    """What became of both directions, and of the registry."""
    from neff.commands.session import status_of
    from neffd.commands import exchange, output, registrypush

    outcome, registry = exchange.Outcome(), registrypush.Sent(0, True)
    with exchange.session(socket, root) as connection:
        if not args.push:
            with output.bytes_bar("fetched", hidden=args.json) as progress:
                exchange.pull(connection, names, outcome, progress)
        if not args.pull:
            with output.bytes_bar("sent", hidden=args.json) as progress:
                exchange.push(connection, remote, outcome, progress)
            is_allowed = outcome.reason is None and not any(i["reason"] == "public-repo" for i in outcome.parked)
            if is_allowed:
                terms = exchange.facts_of(status_of(connection), remote)
                registry = registrypush.push(root, repo_id, terms)
    return outcome, registry


async def _missing(args: argparse.Namespace, root: Path, repo_id: str) -> list[str]:
    """Names of what the repo holds for the compilers that are wanted, and the directory lacks; raises CommandError."""
    from neffd.commands import exchange, hub, localcache
    from neffd.commands.errors import CommandError

    ready = [entry for name in localcache.namespaces(root) for entry in localcache.entries(root, name)]
    present = {f"{entry.namespace}/{entry.key}" for entry in ready if entry.state == "ready"}
    async with hub.opened(repo_id) as client:
        wanted = args.compiler_version or localcache.trainers_compiler()
        local = [] if args.compiler_version else localcache.namespaces(root)
        there = await _compilers(client)
        namespaces = [name for name in there if name in local or (wanted and localcache.is_of_version(name, wanted))]
        if not namespaces and (there or args.pull):
            nothing = CommandError(
                f"{repo_id} holds nothing for a compiler that is known here", "--compiler_version VERSION"
            )
            if args.pull:
                raise nothing
            print("\n".join(nothing.lines()), file=sys.stderr)
        return await exchange.missing(client, namespaces, present)


async def _compilers(client: Any) -> list[str]:
    """The compiler versions of a repo."""
    from neff import keys

    pages = [page async for page in client.tree("", "main")]
    folders = [str(item.get("path")) for page in pages for item in page if item.get("type") == "directory"]
    return [name for name in folders if keys.is_namespace(name)]


def _print(
    args: argparse.Namespace, root: Path, repo_id: str, through: str, outcome: Outcome, registry: int | None
) -> None:
    from neffd.commands import output

    if args.json:
        output.print_json(
            "synchronize", repo_id=repo_id, cache_dir=str(root), through=through, registry=registry, **vars(outcome)
        )
        return
    counts = {"pulled": outcome.pulled, "pushed": outcome.pushed, "registry": registry or None}
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count is not None)
    print(f"{repo_id} and {root}: {said}")
    for item in [*outcome.not_pulled, *outcome.parked]:
        print(f"neff: not copied: {item['name']}: {item['reason']}", file=sys.stderr)
    if any(item["reason"] == "public-repo" for item in outcome.parked):
        print(f"  mend it: make {repo_id} private, or say --allow_public", file=sys.stderr)
    if outcome.reason in _NO_RIGHT:
        print(f"neff: nothing was sent: {outcome.reason}", file=sys.stderr)
    elif outcome.waiting or outcome.reason:
        print(f"neff: {outcome.waiting} still to be sent: {outcome.reason or 'it goes on'}", file=sys.stderr)
    if outcome.reason in _NO_RIGHT:
        from neffd.commands.errors import no_write_access

        print(f"  mend it: {no_write_access(repo_id).mend}", file=sys.stderr)


def _exit_code(outcome: Outcome, registry: Sent) -> int:
    if outcome.reason in _NO_RIGHT:
        return exitcodes.REFUSED
    if outcome.waiting or outcome.reason:
        return exitcodes.PENDING
    is_all = registry.is_all and not outcome.parked and not outcome.not_pulled
    return exitcodes.OK if is_all else exitcodes.FAILED
