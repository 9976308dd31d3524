"""The Hub's reading calls over the daemon's own HTTP client: with time-outs, streamed, quota headers read.

Calls and error codes are those of the public Hub API as huggingface_hub 2.x uses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from yarl import URL

from neffd import __version__
from neffd.remotes.base import REVISION_GONE, RemoteUnavailable
from neffd.remotes.hub import proxies
from neffd.remotes.hub.budget import retry_after_s
from neffd.remotes.hub.quotas import Quotas
from neffd.remotes.hub.tokens import TokenSource

if TYPE_CHECKING:
    import aiohttp

MAX_PATHS_PER_REQUEST = 1_000
CONNECT_S = 5.0
READ_S = 10.0
# A page of a listing and a full paths-info are below 1 MB.
_MAX_JSON_BYTES = 16 << 20
_MAX_REDIRECTS = 5
_CONNECTIONS = 128
# A thread is asked to write each piece: larger pieces, fewer hops.
_READ_BUFFER_BYTES = 512 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_CONTENT_RANGE = re.compile(r"bytes (?P<start>\d{1,18})-\d{1,18}/(?P<size>\d{1,18}|\*)")


class NotThere(Exception):
    """The Hub says that a path does not exist at that revision."""


class RangeRefused(Exception):
    """The server does not go on where it was asked to: what it has now is not what we had begun."""


@dataclass(frozen=True)
class FileAnswer:
    """One file on its way.

    Args:
        content: the bytes from `start_bytes` on, to the end.
        start_bytes: 0 where the server does not go on in the middle, whatever it was asked.
        size_bytes: of the whole file; None if it was not told.
    """

    content: aiohttp.StreamReader
    start_bytes: int
    size_bytes: int | None


@dataclass(frozen=True)
class XetAccess:
    """A short-lived permission to read the chunk store: its URL, a token for it, and when that ends (Unix time)."""

    url: str
    token: str
    expires_unix_s: int


class HubClient:
    """Reading calls on one model repo.

    Args:
        endpoint: base URL of the Hub, without a trailing slash.
        repo_id: `org/name`.
        tokens: asked before every call; the token goes to `endpoint` only, never along a redirect to another origin.
        connect_s: how long a connection may take.
        read_s: how long nothing may come over one.
        tls: which servers to trust; None for the system's choice.
        quotas: told what every answer of the Hub says of them.
        pauses_s: before each further try where a server fails for the moment (a 5xx, a connection that it closes); for
            who has no breaker to do so.
    """

    def __init__(
        self,
        endpoint: str,
        repo_id: str,
        tokens: TokenSource,
        *,
        connect_s: float = CONNECT_S,
        read_s: float = READ_S,
        tls: ssl.SSLContext | None = None,
        quotas: Quotas | None = None,
        pauses_s: Sequence[float] = (),
    ) -> None:
        endpoint = str(URL(endpoint)).rstrip("/")  # in the one form that addresses are compared in
        self._api = f"{endpoint}/api/models/{repo_id}"
        self._files = f"{endpoint}/{repo_id}/resolve"
        self._origin = URL(endpoint).origin()
        self._address = (self._origin.scheme, self._origin.raw_host, self._origin.port)
        self._quotas = quotas or Quotas(time.monotonic)
        self._tokens = tokens
        self._pauses_s = pauses_s
        self._limits_s = {"connect": 2 * connect_s, "sock_connect": connect_s, "sock_read": read_s}
        self._tls: ssl.SSLContext | bool = True if tls is None else tls
        self._session: aiohttp.ClientSession | None = None

    async def head(self) -> str:
        """The commit that `main` points to: one HEAD, on the resolver's quota, which is the larger one."""
        async with self._request("HEAD", f"{self._files}/main/.gitattributes", may_miss=True) as answer:
            commit = answer.headers.get("X-Repo-Commit", "")
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise RemoteUnavailable("bad-answer", "no commit in the answer to a head poll")
        return commit

    async def is_private(self) -> bool:
        """Whether the repo says that it is not for everybody. Raises RemoteUnavailable, for strangers as a rule."""
        async with self._request("GET", f"{self._api}?expand=private") as answer:
            told = await _json(answer)
        if not isinstance(told, dict) or type(told.get("private")) is not bool:
            raise RemoteUnavailable("bad-answer", "a repo does not say who may see it")
        return bool(told["private"])

    async def tree(self, path: str, revision: str, *, recursive: bool = False) -> AsyncIterator[list[dict[str, Any]]]:
        """The items of one folder, or of all below it, page by page; raises NotThere where there is no such folder."""
        folder = f"{self._api}/tree/{revision}/{quote(path, safe='')}".rstrip("/")
        url: str | None = f"{folder}?recursive=true" if recursive else folder
        seen: set[str] = set()
        while url is not None:
            seen.add(url)
            async with self._request("GET", url) as answer:
                page = await _json(answer)
                following = _next_page(answer)
            if not isinstance(page, list):
                raise RemoteUnavailable("bad-answer", "a listing is no list")
            yield [item for item in page if isinstance(item, dict)]
            url = following
            if url is not None and (url in seen or _origin_of(url) != self._origin):
                raise RemoteUnavailable("bad-answer", "a listing goes on in circles or at another host")

    async def paths_info(self, paths: Sequence[str], revision: str, *, expand: bool = False) -> list[dict[str, Any]]:
        """What is known of `paths`; those that do not exist are absent. With `expand` also their latest commits."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(paths), MAX_PATHS_PER_REQUEST):
            part = paths[start : start + MAX_PATHS_PER_REQUEST]
            body = urlencode({"paths": part, "expand": str(expand).lower()}, doseq=True).encode()
            url = f"{self._api}/paths-info/{revision}"
            async with self._request("POST", url, headers=_FORM, data=body) as answer:
                items = await _json(answer)
            if not isinstance(items, list):
                raise RemoteUnavailable("bad-answer", "paths-info is no list")
            found += [item for item in items if isinstance(item, dict)]
        return found

    @contextlib.asynccontextmanager
    async def get_file(self, revision: str, path: str, start_bytes: int = 0) -> AsyncIterator[FileAnswer]:
        """One file, or its rest from `start_bytes` on: one request to the Hub, redirected to where the bytes are.

        Raises NotThere, RemoteUnavailable, and RangeRefused where a rest cannot be had.
        """
        url = f"{self._files}/{revision}/{quote(path)}"
        headers = {"Accept-Encoding": "identity"}
        if start_bytes:
            headers["Range"] = f"bytes={start_bytes}-"
        async with self._request("GET", url, headers=headers) as answer:
            yield _file_answer(answer, start_bytes)

    @contextlib.asynccontextmanager
    async def open_file(self, revision: str, path: str) -> AsyncIterator[aiohttp.StreamReader]:
        """The content of one file, see `get_file`."""
        async with self.get_file(revision, path) as answer:
            yield answer.content

    async def xet_access(self, revision: str) -> XetAccess:
        """Permission to read from the chunk store what is at `revision`."""
        async with self._request("GET", f"{self._api}/xet-read-token/{revision}") as answer:
            told = await _json(answer)
        try:
            access = XetAccess(str(told["casUrl"]), str(told["accessToken"]), int(told["exp"]))
            is_safe = URL(access.url).scheme in ("https", self._origin.scheme)
        except (KeyError, TypeError, ValueError, OverflowError):  # the last of a number without end
            is_safe = False
        if not is_safe:
            raise RemoteUnavailable("bad-answer", "no way to the chunk store in the answer to a token request")
        return access

    async def load(self) -> None:
        """Load aiohttp, on a thread: that takes as long as half of the daemon's start."""
        if self._session is None:
            await asyncio.to_thread(importlib.import_module, "aiohttp")

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    @contextlib.asynccontextmanager
    async def _request(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        data: bytes | None = None,
        may_miss: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        await self.load()
        import aiohttp

        try:
            answer = await self._answer(method, url, headers, data)
            async with answer:
                if answer.status == 416 and headers is not None and "Range" in headers:
                    raise RangeRefused("the content is shorter than what there was")
                if self._is_hub(answer.url):
                    _raise_for(answer, may_miss)
                elif answer.status >= 400:  # the store's word, not the Hub's: it knows neither our token nor the repo
                    raise RemoteUnavailable("broken-transfer", f"status {answer.status} where the content is")
                yield answer
        except asyncio.TimeoutError:
            raise RemoteUnavailable("timeout", f"{method} {_shown(url)}") from None
        except aiohttp.ClientPayloadError as error:
            raise RemoteUnavailable("broken-transfer", _shown(str(error))) from None
        except aiohttp.ClientSSLError as error:
            raise RemoteUnavailable("tls-failed", type(error).__name__) from None
        except aiohttp.ClientConnectorDNSError:
            raise RemoteUnavailable("name-not-found", _shown(url)) from None
        except aiohttp.ClientError as error:
            raise RemoteUnavailable("unreachable", type(error).__name__) from None

    async def _answer(
        self, method: str, url: str, headers: dict[str, str] | None, data: bytes | None
    ) -> aiohttp.ClientResponse:
        """The last try's answer, or the first that is no failure of a moment."""
        import aiohttp

        for pause_s in self._pauses_s:
            try:
                answer = await self._follow(method, url, headers, data)
            except aiohttp.ClientConnectorError:  # a server that is not there is not there in a second either
                raise
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                pass
            else:
                if answer.status < 500:
                    return answer
                answer.release()
            await asyncio.sleep(pause_s)
        return await self._follow(method, url, headers, data)

    async def _follow(
        self, method: str, url: str, headers: dict[str, str] | None, data: bytes | None
    ) -> aiohttp.ClientResponse:
        """Send, following redirects by hand: the token must not leave its origin."""
        if self._session is None:
            self._session = self._open_session()
        where = URL(url, encoded=True)
        for _ in range(_MAX_REDIRECTS):
            is_hub = self._is_hub(where)
            ask = partial(
                self._session.request,
                method,
                where,
                headers=self._with_token(headers) if is_hub else headers,
                data=data,
                allow_redirects=False,
                proxy=proxies.proxy_for(where.scheme, where.host or ""),
            )
            answer = await (_asked_twice(ask) if method == "POST" else ask())
            told = answer.headers
            if is_hub:
                self._quotas.note(told.get("RateLimit", ""), told.get("RateLimit-Policy", ""))
            location = told.get("Location")
            is_file_head = method == "HEAD" and "X-Repo-Commit" in told
            if answer.status not in _REDIRECTS or location is None or is_file_head:
                return answer
            answer.release()
            where = _next_url(where, location)
            if where.scheme not in ("https", self._origin.scheme):
                raise RemoteUnavailable("bad-answer", "a redirect leaves https")
        raise RemoteUnavailable("bad-answer", "too many redirects")

    def _open_session(self) -> aiohttp.ClientSession:
        import aiohttp

        return aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, **self._limits_s),
            read_bufsize=_READ_BUFFER_BYTES,
            headers={"User-Agent": f"neffd/{__version__}"},
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=self._tls),
        )

    def _with_token(self, headers: dict[str, str] | None) -> dict[str, str] | None:
        token = self._tokens.get()
        return headers if token is None else {**(headers or {}), "Authorization": f"Bearer {token}"}

    def _is_hub(self, url: URL) -> bool:
        return (url.scheme, (url.raw_host or "").lower(), url.port) == self._address


async def _asked_twice(ask: Callable[[], Awaitable[aiohttp.ClientResponse]]) -> aiohttp.ClientResponse:
    """Once more at once where the server closes the connection, as aiohttp does for all but POSTs; ours only ask."""
    import aiohttp

    try:
        return await ask()
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
        return await ask()


def _file_answer(answer: aiohttp.ClientResponse, asked_bytes: int) -> FileAnswer:
    """Read what the headers say; raises RangeRefused where they speak of another part than was asked."""
    start_bytes, size = 0, answer.headers.get("Content-Length", "")
    if answer.status == 206:
        part = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if part is None or int(part["start"]) != asked_bytes:
            raise RangeRefused("another part than was asked")
        start_bytes, size = asked_bytes, part["size"]
    return FileAnswer(answer.content, start_bytes, int(size) if size.isdecimal() else None)


def _origin_of(url: str) -> URL | None:
    """Scheme, host and port; None for what a server should not have sent."""
    try:
        return URL(url).origin()
    except ValueError:
        return None


def _next_page(answer: aiohttp.ClientResponse) -> str | None:
    try:
        link = answer.links.get("next")
    except ValueError:
        raise RemoteUnavailable("bad-answer", "a listing goes on nowhere") from None
    return None if link is None else str(link.get("url"))


def _next_url(url: URL, location: str) -> URL:
    with contextlib.suppress(ValueError):
        following = url.join(URL(location, encoded=True))
        if location.isprintable() and following.host and following.port:
            return following
    raise RemoteUnavailable("bad-answer", "a redirect leads nowhere")


def _raise_for(answer: aiohttp.ClientResponse, may_miss: bool) -> None:
    """Turn an error answer into its outcome."""
    status, code = answer.status, answer.headers.get("X-Error-Code", "")
    if status < 400:
        return
    if status == 404 and code == "EntryNotFound":
        if may_miss:
            return
        raise NotThere(code)
    if status == 404 and code == "RevisionNotFound":  # says nothing about what the repo holds now
        raise RemoteUnavailable(REVISION_GONE, "no such branch or commit, or the history was rewritten")
    if status == 429:
        raise RemoteUnavailable("rate-limited", retry_after_s=_retry_after_s(answer))
    if code == "GatedRepo" or status == 403:
        raise RemoteUnavailable("forbidden", f"{status} {code}", retry_after_s=_retry_after_s(answer))
    if code == "RepoNotFound" or status == 404:
        raise RemoteUnavailable("repo-not-found", "it is not there, or the token may not see it")
    if status == 401:
        raise RemoteUnavailable("bad-token", "the Hub does not accept the token")
    reason = "server-error" if status >= 500 else "bad-answer"
    raise RemoteUnavailable(reason, f"status {status}", retry_after_s=_retry_after_s(answer))


def _retry_after_s(answer: aiohttp.ClientResponse) -> float | None:
    return retry_after_s(answer.headers.get("RateLimit", ""), answer.headers.get("Retry-After", ""))


async def _json(answer: aiohttp.ClientResponse) -> Any:
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > _MAX_JSON_BYTES:
            raise RemoteUnavailable("bad-answer", "a longer answer than there can be")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise RemoteUnavailable("bad-answer", "not JSON") from None


def _shown(url: str) -> str:
    """A URL for a log: without its query, where signatures are."""
    return url.partition("?")[0]
