"""Which cache repo a command is about, by its arguments or by what this user has set."""

from __future__ import annotations

from neff import exitcodes
from neff.hubrepo import custom_repo, misnamed
from neffd.commands.errors import CommandError


def chosen(given: str | None) -> str | None:
    """The named repo, else the environment's, else the saved one, else None.

    Raises CommandError where something else than a repo's name was set: a trainer goes on without, but here another
    repo would be read, or written, than was meant. Its text is not told: a URL can hold a token.
    """
    if given is not None:
        return given
    if where := misnamed():
        mend = "OWNER/NAME alone, without an address; or name the repo in the command"
        raise CommandError(f"{where} does not hold the name of a repo", mend, exitcodes.USAGE)
    return custom_repo()
