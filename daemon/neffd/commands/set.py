"""`neff set`: which cache repo this user's tools use."""

from __future__ import annotations

import argparse

from neff import exitcodes
from neffd.commands.options import add_json, repo_id

EXAMPLE = "neff set my-org/optimum-neuron-cache"
JSON = {
    "repo_id": "the repo",
    "path": "the file that holds its name",
    "overruled_by": "CUSTOM_CACHE_REPO of this environment if it is another repo, or null",
    "daemons": "socket, knows (whether it uses the repo), remote and mode (if so), problem (why it did not say)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", type=repo_id, help="the repo, OWNER/NAME; it must exist")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from neffd.commands import hub, output, saving

    hub.run_async(hub.check_repo(args.name))
    outcome = saving.save(args.name, args.socket)
    if args.json:
        output.print_json("set", **outcome.document())
    else:
        print(*outcome.lines(), sep="\n")
    return exitcodes.OK
