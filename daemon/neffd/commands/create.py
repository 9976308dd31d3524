"""`neff create`: a new cache repo on the Hub, used from now on."""

from __future__ import annotations

import argparse
from typing import Any

from neff import exitcodes
from neffd.commands.options import add_json, repo_id

EXAMPLE = "neff create -n my-org/optimum-neuron-cache"
JSON = {
    "visibility": "private or public",
    "repo_id": "the repo, with its owner",
    "path": "the file that holds its name",
    "overruled_by": "CUSTOM_CACHE_REPO of this environment if it is another repo, or null",
    "daemons": "as of `neff set`",
}

_DEFAULT_NAME = "optimum-neuron-cache"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n",
        "--name",
        metavar="NAME",
        type=repo_id,
        default=_DEFAULT_NAME,
        help="the new repo; without OWNER/ it is yours (default: %(default)s)",
    )
    parser.add_argument("--public", action="store_true", help="everybody can read it (default: private)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from neffd.commands import login, output, saving
    from neffd.commands.errors import CommandError, not_logged_in

    if login.token() is None:
        raise not_logged_in("creating a repo")
    created = _create(args.name, private=not args.public)
    visibility = "public" if args.public else "private"
    try:
        outcome = saving.save(created, args.socket)
    except CommandError as error:  # the repo stays, and a second try would be refused
        mend = f"CUSTOM_CACHE_REPO={created}, or neff set {created}   (once the file can be written)"
        raise CommandError(f"{created} [{visibility}] was created, but {error.message}", mend) from error
    if args.json:
        output.print_json("create", visibility=visibility, **outcome.document())
    else:
        print(f"Neuron cache created on the Hugging Face Hub: {created} [{visibility}].", *outcome.lines(), sep="\n")
        if args.public:
            print("Everybody can read it: the daemon shares nothing there before its remote has `allow_public: true`.")
    return exitcodes.OK


def _create(name: str, *, private: bool) -> str:
    """Create the repo; returns its name with its owner. Raises CommandError."""
    from huggingface_hub.errors import HfHubHTTPError

    from neffd.commands import hub
    from neffd.commands.errors import CommandError

    try:
        with hub.api(name) as api:
            return str(api.create_repo(name, private=private, repo_type="model").repo_id)
    except HfHubHTTPError as error:
        raise _refusal(error, name) from error
    except (OSError, ValueError) as error:
        raise CommandError(f"{name} could not be created: {error}") from error


def _refusal(error: Any, name: str) -> Exception:
    from neffd.commands.errors import NOT_LOGGED_IN, CommandError, no_write_access

    status = getattr(error.response, "status_code", None)
    if status == 401:
        return CommandError("the Hub does not accept the token", NOT_LOGGED_IN, exitcodes.REFUSED)
    if status == 403:
        return no_write_access(name, "this token may not create it")
    if status == 409:
        mend = f"neff set {name if '/' in name else f'OWNER/{name}'}   (to use it)"
        return CommandError(f"{name} is there already", mend)
    message = f"{name} could not be created: {getattr(error, 'server_message', None) or error}"
    is_away = status == 429 or (status is not None and status >= 500)
    return CommandError(message, exit_code=exitcodes.UNREACHABLE if is_away else exitcodes.FAILED)
