"""What a command refuses to do, for a person: what happened, and the command that mends it."""

from __future__ import annotations

from neff import exitcodes
from neff.protocol import safe_text

NOT_LOGGED_IN = "hf auth login   (or set HF_TOKEN)"
SET_REPO = "neff set NAME   (a repo that exists), neff create   (a new one), or CUSTOM_CACHE_REPO=NAME"


class CommandError(Exception):
    """Ends a command.

    Args:
        message: what happened, and with what.
        mend: the command that helps; may be empty.
        exit_code: of the process.
    """

    def __init__(self, message: str, mend: str = "", exit_code: int = exitcodes.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend
        self.exit_code = exit_code

    def lines(self) -> list[str]:
        """For stderr."""
        said = f"neff: {safe_text(self.message)}"
        return [said, f"  mend it: {self.mend}"] if self.mend else [said]


def not_logged_in(what: str) -> CommandError:
    return CommandError(f"not logged in to the Hub: {what} needs a token", NOT_LOGGED_IN, exitcodes.REFUSED)


def none_set(what: str) -> CommandError:
    return CommandError(f"no cache repo is set: {what}", SET_REPO, exitcodes.REFUSED)


def no_repo(repo_id: str, *, logged_in: bool) -> CommandError:
    """The Hub tells a repo that is not there and one that may not be seen by the same answer."""
    mend = f"neff create -n {repo_id}   (if it is to be yours)" if logged_in else NOT_LOGGED_IN
    return CommandError(f"the repo {repo_id} {_unseen(logged_in)}", mend, exitcodes.NOT_FOUND)


def no_model(name: str, *, logged_in: bool) -> CommandError:
    """As `no_repo`; nobody makes a cache repo of a model."""
    mend = f"{NOT_LOGGED_IN}, or name a folder with its config.json"
    return CommandError(f"the model {name} {_unseen(logged_in)}", mend, exitcodes.NOT_FOUND)


def _unseen(logged_in: bool) -> str:
    return "is not there, or this login may not see it" if logged_in else "is not there, or is private"


def no_write_access(repo_id: str, why: str = "") -> CommandError:
    return CommandError(
        f"no write access to {repo_id}{f': {why}' if why else ''}",
        "hf auth login   (with a token that may write), or neff create   (a repo of your own)",
        exitcodes.REFUSED,
    )
