"""Errors as the Hub answers them: a JSON body, and the same text in headers that clients read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web


class HubError(Exception):
    """An answer other than success.

    Args:
        status: HTTP status.
        message: goes into the body as `error` and into `X-Error-Message`.
        code: goes into `X-Error-Code`; clients choose their exception by it.
        headers: further headers.
        body: further members of the JSON body.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})
        self.body = dict(body or {})

    def response(self) -> web.Response:
        headers = {"X-Error-Message": self.message, **self.headers}
        if self.code:
            headers["X-Error-Code"] = self.code
        return web.json_response({**self.body, "error": self.message}, status=self.status, headers=headers)


def bad_request(message: str) -> HubError:
    return HubError(400, message)


def unrouted() -> HubError:
    return HubError(404, "Sorry, we can't find the page you are looking for.")


def repo_not_found(*, anonymous: bool) -> HubError:
    """The same answer for a missing repo and for a private one that the caller may not see."""
    return HubError(401 if anonymous else 404, "Repository not found", "RepoNotFound")


def revision_not_found(revision: str) -> HubError:
    return HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def entry_not_found(message: str = "Entry not found", commit: str | None = None) -> HubError:
    headers = {"X-Repo-Commit": commit} if commit else {}
    return HubError(404, message, "EntryNotFound", headers=headers)
