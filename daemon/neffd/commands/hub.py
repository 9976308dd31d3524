"""The Hub as the person at the keyboard sees it: their login, their endpoint, their repos."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from neff import exitcodes
from neffd.commands import login
from neffd.commands.chosenrepo import chosen
from neffd.commands.errors import NOT_LOGGED_IN, CommandError, no_repo
from neffd.config_defaults import PUBLIC_REPO, hub_endpoint
from neffd.remotes.base import RemoteUnavailable
from neffd.remotes.hub.client import HubClient, NotThere
from neffd.remotes.hub.tokens import TokenSource

if TYPE_CHECKING:  # takes half a second, and only what writes needs it
    from huggingface_hub import HfApi

T = TypeVar("T")
MakeError = Callable[..., CommandError]  # as errors.no_repo

# huggingface_hub waits for ever; a commit takes the Hub some seconds.
_SILENCE_S = 60.0
# A person should not have to type it again because the Hub was restarted somewhere.
_PAUSES_S = (0.5, 2.0)


def endpoint() -> str:
    """Base URL of the Hub; CommandError where HF_ENDPOINT is no URL, or nothing is to be asked of the Hub."""
    name = "HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"
    if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):  # as huggingface_hub reads them
        raise CommandError(f"{name} is set: the Hub is not asked", f"unset {name}", exitcodes.UNREACHABLE)
    try:
        return hub_endpoint(os.environ)
    except ValueError as error:
        raise CommandError(f"HF_ENDPOINT: {error}", exit_code=exitcodes.USAGE) from None


def repo_to_read(given: str | None) -> str:
    """The repo that optimum-neuron would read: the named one, the environment's, the saved one, the public one."""
    return chosen(given) or PUBLIC_REPO


@contextlib.asynccontextmanager
async def opened(repo_id: str, not_there: MakeError = no_repo) -> AsyncIterator[HubClient]:
    """Reading calls on a model repo. What the Hub refuses leaves as a CommandError; `not_there` makes that one."""
    client = HubClient(endpoint(), repo_id, TokenSource(), pauses_s=_PAUSES_S)
    try:
        yield client
    except RemoteUnavailable as error:
        raise refusal(error, repo_id, not_there) from error
    finally:
        await client.close()


async def check_repo(repo_id: str) -> None:
    """Raises CommandError unless the repo is there and may be read."""
    async with opened(repo_id) as client:
        await client.head()


async def is_public(repo_id: str) -> bool:
    """Whether the Hub shows the repo to everybody; raises CommandError where it does not say."""
    client = HubClient(endpoint(), repo_id, TokenSource(anonymous=True), pauses_s=_PAUSES_S)
    try:
        await client.head()
    except RemoteUnavailable as error:
        if error.reason in ("repo-not-found", "forbidden", "bad-token"):
            return False
        raise refusal(error, repo_id) from error
    finally:
        await client.close()
    return True


@contextlib.contextmanager
def api(repo_id: str) -> Iterator[HfApi]:
    """huggingface_hub's own calls, for what is written. A Hub that cannot be reached leaves as a CommandError."""
    import httpx2
    from huggingface_hub import HfApi, get_session

    get_session().timeout = _SILENCE_S
    try:
        yield HfApi(endpoint=endpoint(), token=login.token(), library_name="neffd")
    except httpx2.TransportError as error:
        raise refusal(RemoteUnavailable("unreachable", type(error).__name__), repo_id) from error


async def pages(client: HubClient, folder: str, *, recursive: bool = False) -> AsyncIterator[list[dict[str, Any]]]:
    """The listing of a folder, page by page; nothing of one that is not there, or has just been removed."""
    try:
        async for page in client.tree(folder, "main", recursive=recursive):
            yield page
    except NotThere:
        return


async def content(client: HubClient, path: str, max_bytes: int, revision: str = "main") -> bytes:
    """A small file; what is longer than `max_bytes` is cut just above. Raises NotThere and RemoteUnavailable."""
    data = bytearray()
    async with client.open_file(revision, path) as stream:
        async for piece in stream.iter_any():
            data += piece
            if len(data) > max_bytes:
                break
    return bytes(data)


def refusal(error: RemoteUnavailable, repo_id: str, not_there: MakeError = no_repo) -> CommandError:
    """What a person is told of a Hub that does not answer the question."""
    if error.reason == "repo-not-found":
        return not_there(repo_id, logged_in=login.token() is not None)
    if error.reason == "bad-token":
        return CommandError("the Hub does not accept the token", NOT_LOGGED_IN, exitcodes.REFUSED)
    if error.reason == "forbidden":
        mend = "accept its terms on its page, or log in as somebody who may: hf auth login"
        return CommandError(f"{repo_id} may not be read with this login", mend, exitcodes.REFUSED)
    if error.reason == "rate-limited":
        wait = f"again in {error.retry_after_s:.0f} s" if error.retry_after_s else "wait"
        return CommandError(
            "the Hub says: too many requests", f"{wait}; a login has a higher limit", exitcodes.UNREACHABLE
        )
    return CommandError(f"{endpoint()} did not answer: {error}", exit_code=exitcodes.UNREACHABLE)


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end; Ctrl-C leaves as KeyboardInterrupt."""
    import asyncio

    return asyncio.run(main)
