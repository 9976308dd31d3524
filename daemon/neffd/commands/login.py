"""Whose token the Hub would be shown; costs nothing to import."""

from __future__ import annotations

from neffd.remotes.hub.tokens import TokenSource


def token() -> str | None:
    """The token of the environment or of the login."""
    return TokenSource().get()
