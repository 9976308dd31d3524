"""Reading calls: what each answer of the Hub becomes, and where the token goes."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from neffd.remotes.base import RemoteUnavailable
from neffd.remotes.hub.client import MAX_PATHS_PER_REQUEST, HubClient, NotThere
from neffd.remotes.hub.proxies import proxy_for
from neffd.remotes.hub.quotas import FILES, Quotas
from tests.hub import HubServer
from tests.unit.remotes.hub.certificates import self_signed
from tests.unit.remotes.hub.conftest import REPO, TOKEN, Answer, MakeClient, MakeServer

COMMIT = "a" * 40
TREE = "GET /api/{type}/{namespace}/{name}/tree/{revision}/{path}"

Call = Callable[[HubClient], Awaitable[Any]]


async def read_file(client: HubClient, path: str = "file.txt", revision: str = "main") -> bytes:
    async with client.open_file(revision, path) as content:
        return await content.read()


async def list_folder(client: HubClient, path: str = "n", revision: str = "main") -> list[str]:
    return [item["path"] async for page in client.tree(path, revision) for item in page]


CALLS: dict[str, Call] = {
    "head": lambda client: client.head(),
    "tree": list_folder,
    "paths-info": lambda client: client.paths_info(["n/a"], "main"),
    "file": read_file,
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


async def trouble(call: Awaitable[Any]) -> RemoteUnavailable:
    with pytest.raises(RemoteUnavailable) as raised:
        await call
    return raised.value


@pytest.fixture
def seeded(hub: HubServer) -> str:
    return hub.seed_files(REPO, {"file.txt": b"text", "n/a": b"a", "n/b/model.neff": bytes(range(256)) * 90})


async def test_what_is_there(client: HubClient, seeded: str) -> None:
    assert await client.head() == seeded
    assert await list_folder(client) == ["n/a", "n/b"]
    assert {item["path"] for item in await client.paths_info(["n/a", "n/no", "n/b"], seeded)} == {"n/a", "n/b"}
    assert await read_file(client) == b"text"
    assert await read_file(client, "n/b/model.neff", seeded) == bytes(range(256)) * 90


async def test_what_is_not_there(client: HubClient, seeded: str) -> None:
    for call in (list_folder(client, "none"), read_file(client, "none")):
        with pytest.raises(NotThere):
            await call


@pytest.mark.parametrize("call", [CALLS["tree"], CALLS["paths-info"], CALLS["file"]])
async def test_a_revision_that_is_gone_says_nothing_about_what_there_is(
    client: HubClient, hub: HubServer, call: Call, seeded: str
) -> None:
    hub.add_fault(".", status=404, code="RevisionNotFound", times=None)
    assert (await trouble(call(client))).reason == "revision-gone"
    assert (await trouble(client.head())).reason == "revision-gone"


@EVERY_CALL
@pytest.mark.parametrize(
    ("status", "options", "reason", "retry_after_s"),
    [
        (401, {}, "bad-token", None),
        (401, {"code": "RepoNotFound"}, "repo-not-found", None),
        (403, {}, "forbidden", None),
        (403, {"code": "GatedRepo"}, "forbidden", None),
        (404, {}, "repo-not-found", None),
        (404, {"code": "RepoNotFound"}, "repo-not-found", None),
        (400, {}, "bad-answer", None),
        (409, {}, "bad-answer", None),
        (412, {}, "bad-answer", None),
        (413, {}, "bad-answer", None),
        (416, {}, "bad-answer", None),
        (429, {}, "rate-limited", None),
        (429, {"headers": {"Retry-After": "7"}}, "rate-limited", 8),
        (429, {"headers": {"RateLimit": '"api";r=0;t=9'}}, "rate-limited", 10),
        (429, {"headers": {"RateLimit": '"api";r=0;t=9', "Retry-After": "3"}}, "rate-limited", 10),
        (429, {"headers": {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}}, "rate-limited", None),
        (500, {}, "server-error", None),
        (502, {}, "server-error", None),
        (503, {"headers": {"Retry-After": "7"}}, "server-error", 8),
        (504, {}, "server-error", None),
    ],
)
async def test_an_error_and_what_it_is_called(
    hub: HubServer,
    client: HubClient,
    seeded: str,
    call: Call,
    status: int,
    options: dict[str, Any],
    reason: str,
    retry_after_s: float | None,
) -> None:
    hub.add_fault(".", status=status, **options)
    error = await trouble(call(client))
    assert (error.reason, error.retry_after_s) == (reason, retry_after_s)
    await call(client)


@EVERY_CALL
@pytest.mark.parametrize("fault", [{"status": 503}, {"kind": "reset"}], ids=["503", "reset"])
async def test_a_failure_of_a_moment_is_nothing_to_who_asks_again(
    hub: HubServer, make_client: MakeClient, seeded: str, call: Call, fault: dict[str, Any]
) -> None:
    patient = make_client(hub.endpoint, hub.token("alice"), pauses_s=(0.0, 0.0))
    hub.add_fault(".", times=2, **fault)
    await call(patient)
    hub.add_fault(".", times=None, **fault)
    assert (await trouble(call(patient))).reason in ("server-error", "unreachable")


@EVERY_CALL
async def test_a_kept_connection_that_the_server_closes_is_nothing(
    hub: HubServer, client: HubClient, seeded: str, call: Call
) -> None:
    await call(client)
    hub.add_fault(".", kind="reset")
    await call(client)
    (fault,) = hub.faults()
    assert fault["times"] == 0, "the connection was closed, and the call went through all the same"


async def test_what_is_no_failure_of_a_moment_is_asked_once(
    hub: HubServer, make_client: MakeClient, seeded: str
) -> None:
    patient = make_client(hub.endpoint, hub.token("alice"), pauses_s=(0.0, 0.0))
    hub.add_fault(".", status=429, times=1)
    assert (await trouble(patient.head())).reason == "rate-limited"
    assert sum(hub.counters()["requests"].values()) == 1


@EVERY_CALL
@pytest.mark.parametrize(
    ("fault", "reason"),
    [({"kind": "reset"}, "unreachable"), ({"kind": "stall"}, "timeout")],
    ids=["reset", "stall before headers"],
)
async def test_a_connection_that_breaks(
    hub: HubServer, impatient: HubClient, seeded: str, call: Call, fault: dict[str, Any], reason: str
) -> None:
    hub.add_fault(".", times=None, **fault)
    assert (await trouble(call(impatient))).reason == reason
    hub.clear_faults()
    await call(impatient)


@pytest.mark.parametrize("name", ["tree", "paths-info", "file"])
@pytest.mark.parametrize(
    ("kind", "reason"), [("stall-body", "timeout"), ("truncate", "broken-transfer"), ("corrupt", "bad-answer")]
)
async def test_a_body_that_breaks(
    hub: HubServer, impatient: HubClient, seeded: str, name: str, kind: str, reason: str
) -> None:
    hub.add_fault(".", kind=kind, after_bytes=2, times=None)
    if (name, kind) == ("file", "corrupt"):
        assert await read_file(impatient) != b"text"  # found out by who knows the digest
        return
    assert (await trouble(CALLS[name](impatient))).reason == reason


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 100_000, b"\xff\xfe", b'{"a":1}', b"null"])
@pytest.mark.parametrize("name", ["tree", "paths-info"])
async def test_nonsense(make_server: MakeServer, make_client: MakeClient, name: str, body: bytes) -> None:
    server = await make_server(answering(body=body, content_type="application/json"))
    assert (await trouble(CALLS[name](make_client(server.url)))).reason == "bad-answer"


async def test_items_that_are_none_are_left_out(make_server: MakeServer, make_client: MakeClient) -> None:
    server = await make_server(answering(body=b'[1, null, {"path": "n/a"}]'))
    assert await list_folder(make_client(server.url)) == ["n/a"]


async def test_an_answer_without_end(make_server: MakeServer, make_client: MakeClient) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 1_000_000)

    client = make_client((await make_server(endless)).url, read_s=5)
    assert (await trouble(list_folder(client))).reason == "bad-answer"


@pytest.mark.parametrize("commit", ["", "main", "A" * 40, "a" * 41])
async def test_a_head_that_is_no_commit(make_server: MakeServer, make_client: MakeClient, commit: str) -> None:
    server = await make_server(answering(headers={"X-Repo-Commit": commit}))
    assert (await trouble(make_client(server.url).head())).reason == "bad-answer"


async def test_long_listings_and_long_questions(hub: HubServer, client: HubClient) -> None:
    paths = [f"n/{number:04d}" for number in range(2_100)]
    head = hub.seed_files(REPO, dict.fromkeys(paths, b"x"))
    assert await list_folder(client) == paths
    assert hub.counters()["requests"] == {TREE: 3}
    found = await client.paths_info([*paths, "n/no"], head)
    assert [item["path"] for item in found] == paths
    assert MAX_PATHS_PER_REQUEST == 1_000
    assert sum(hub.counters()["requests"].values()) == 3 + 3


async def test_a_listing_that_goes_on_elsewhere(make_server: MakeServer, make_client: MakeClient) -> None:
    elsewhere = await make_server(answering(body=b"[]"))
    server = await make_server(answering(body=b"[]", headers={"Link": f'<{elsewhere.url}/more>; rel="next"'}))
    assert (await trouble(list_folder(make_client(server.url)))).reason == "bad-answer"
    assert elsewhere.requests == []


@pytest.mark.parametrize("following", ["/circle", "mailto:x", "http://[bad", "//", ""])
async def test_a_listing_that_goes_on_in_circles_or_nowhere(
    make_server: MakeServer, make_client: MakeClient, following: str
) -> None:
    server = await make_server(answering(body=b"[]", headers={"Link": f'<{following}>; rel="next"'}))
    assert (await trouble(list_folder(make_client(server.url)))).reason == "bad-answer"
    assert len(server.requests) <= 2


async def test_the_token_stays_at_its_origin(make_server: MakeServer, make_client: MakeClient) -> None:
    store = await make_server(answering(body=b"content"))
    hub = await make_server(redirecting(lambda request: f"{store.url}/content?signature=1"))
    assert await read_file(make_client(hub.url)) == b"content"
    assert hub.tokens == [f"Bearer {TOKEN}"]
    assert store.tokens == [None]


async def test_the_token_does_not_come_back_by_a_detour(make_server: MakeServer, make_client: MakeClient) -> None:
    third = await make_server(answering(body=b"content"))
    second = await make_server(redirecting(lambda request: f"{third.url}/x"))
    hub = await make_server(redirecting(lambda request: f"{second.url}/x"))
    assert await read_file(make_client(hub.url)) == b"content"
    assert (second.tokens, third.tokens) == ([None], [None])


async def test_the_token_follows_on_its_own_origin(make_server: MakeServer, make_client: MakeClient) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path.startswith("/api/resolve-cache"):
            return web.Response(body=b"content")
        return web.Response(status=307, headers={"Location": "/api/resolve-cache/x"})

    hub = await make_server(answer)
    assert await read_file(make_client(hub.url)) == b"content"
    assert hub.tokens == [f"Bearer {TOKEN}"] * 2


async def test_an_endpoint_in_capitals_is_the_same_origin(make_server: MakeServer, make_client: MakeClient) -> None:
    async def answer(request: web.Request) -> web.Response:
        if "resolve-cache" in request.path:
            return web.Response(body=b"content")
        return web.Response(
            status=307, headers={"Location": f"{hub.url.upper()}/resolve-cache/x".replace("HTTP", "http")}
        )

    hub = await make_server(answer)
    client = make_client(hub.url.replace("localhost", "LocalHost"))
    assert await read_file(client) == b"content"
    assert hub.tokens == [f"Bearer {TOKEN}"] * 2


async def test_what_the_hub_says_of_its_quotas_is_noted(make_server: MakeServer, make_client: MakeClient) -> None:
    quotas = Quotas(time.monotonic)
    theirs = {"RateLimit": '"resolvers";r=1;t=60'}
    store = await make_server(answering(body=b"content", headers=theirs))
    hub = await make_server(redirecting(lambda request: f"{store.url}/x"))
    await read_file(make_client(hub.url, quotas=quotas))
    assert quotas.get(FILES) is None, "the store's word is not the Hub's"
    limited = await make_server(answering(status=429, headers={"RateLimit": '"resolvers";r=0;t=60'}))
    await trouble(read_file(make_client(limited.url, quotas=quotas)))
    assert quotas.is_low(FILES, 1)


async def test_without_a_token_none_is_sent(make_server: MakeServer, make_client: MakeClient) -> None:
    hub = await make_server(answering(headers={"X-Repo-Commit": COMMIT}))
    assert await make_client(hub.url, None).head() == COMMIT
    assert hub.tokens == [None]


async def test_a_redirect_from_https_to_http_is_not_followed(
    make_server: MakeServer, make_client: MakeClient, tmp_path: Path
) -> None:
    server_side, client_side = self_signed(tmp_path)
    plain = await make_server(answering(body=b"content"))
    hub = await make_server(redirecting(lambda request: f"{plain.url}/x"), server_side)
    assert (await trouble(read_file(make_client(hub.url, tls=client_side)))).reason == "bad-answer"
    assert (len(hub.requests), plain.requests) == (1, [])


async def test_a_server_that_cannot_prove_its_name(
    make_server: MakeServer, make_client: MakeClient, tmp_path: Path
) -> None:
    server_side, client_side = self_signed(tmp_path)
    hub = await make_server(answering(headers={"X-Repo-Commit": COMMIT}), server_side)
    for call in CALLS.values():
        assert (await trouble(call(make_client(hub.url)))).reason == "tls-failed"
    other_name = hub.url.replace("localhost", "127.0.0.1")
    assert (await trouble(make_client(other_name, tls=client_side).head())).reason == "tls-failed"
    assert hub.requests == []
    assert await make_client(hub.url, tls=client_side).head() == COMMIT


async def test_https_where_there_is_none(make_server: MakeServer, make_client: MakeClient) -> None:
    server = await make_server(answering())
    client = make_client(server.url.replace("http:", "https:"))
    assert (await trouble(client.head())).reason in ("tls-failed", "unreachable")
    assert server.requests == []


@pytest.mark.parametrize(
    "location", ["http://[bad", "ftp://localhost/x", "mailto:x", "http://", "file:///etc/passwd", "http://a b/\x7f"]
)
async def test_a_redirect_that_leads_nowhere(make_server: MakeServer, make_client: MakeClient, location: str) -> None:
    hub = await make_server(redirecting(lambda request: location))
    assert (await trouble(read_file(make_client(hub.url)))).reason in ("bad-answer", "unreachable", "name-not-found")


async def test_redirects_without_end(make_server: MakeServer, make_client: MakeClient) -> None:
    hub = await make_server(redirecting(lambda request: str(request.url)))
    assert (await trouble(read_file(make_client(hub.url)))).reason == "bad-answer"
    assert len(hub.requests) == 5


@pytest.mark.parametrize("status", [401, 403, 404, 500])
async def test_an_error_of_the_store_says_nothing_about_the_repo(
    make_server: MakeServer, make_client: MakeClient, status: int
) -> None:
    store = await make_server(answering(status=status, headers={"X-Error-Code": "EntryNotFound"}))
    hub = await make_server(redirecting(lambda request: f"{store.url}/x"))
    assert (await trouble(read_file(make_client(hub.url)))).reason == "broken-transfer"


async def test_nobody_listens(make_client: MakeClient) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # taken, and nobody listens
        client = make_client(f"http://127.0.0.1:{taken.getsockname()[1]}")
        for call in CALLS.values():
            assert (await trouble(call(client))).reason == "unreachable"


async def test_a_name_that_is_not_found(make_client: MakeClient) -> None:
    client = make_client("http://no-such-name.invalid")
    for call in CALLS.values():
        assert (await trouble(call(client))).reason == "name-not-found"


async def test_a_slow_body_is_waited_for_as_long_as_it_moves(hub: HubServer, impatient: HubClient) -> None:
    hub.seed_files(REPO, {"file.txt": b"x" * 1_500})
    hub.add_fault("GET .*/resolve/", kind="slow", bytes_per_s=1_000)
    assert await read_file(impatient) == b"x" * 1_500  # longer than the second in which something has to come


async def test_who_leaves_a_transfer_leaves_no_connection(hub: HubServer, client: HubClient, seeded: str) -> None:
    hub.add_fault("GET .*/resolve/", kind="stall-body", after_bytes=1)
    reading = asyncio.ensure_future(read_file(client))  # noqa: TID251
    await hub.wait_for_requests("GET /{namespace}/{name}/resolve/{revision}/{path}")
    reading.cancel()
    await asyncio.wait([reading])
    assert reading.cancelled()
    hub.clear_faults()
    assert await read_file(client) == b"text"


def answering(status: int = 200, **options: Any) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, **options)

    return answer


def redirecting(target: Callable[[web.Request], str]) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": target(request)})

    return answer


@pytest.fixture
def proxies(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Sets one of the environment's proxies, and no other."""
    for variable in ("http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    proxy_for.cache_clear()
    yield monkeypatch.setenv
    proxy_for.cache_clear()


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
@pytest.mark.parametrize("form", ["{}", "http://{}", "http://user:word@{}"])
async def test_a_proxy_in_the_forms_that_other_tools_take(
    make_server: MakeServer, make_client: MakeClient, proxies: Callable[[str, str], None], variable: str, form: str
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(headers={"X-Repo-Commit": COMMIT})

    proxy = await make_server(answer)
    proxies(variable, form.format(proxy.url.removeprefix("http://")))
    assert await make_client("http://hub.invalid").head() == COMMIT
    (request,) = proxy.requests
    assert request.headers["Host"] == "hub.invalid"
    assert ("Proxy-Authorization" in request.headers) == ("user" in form)


async def test_what_is_no_proxy_of_http_does_not_stand_in_for_one(
    hub: HubServer, client: HubClient, seeded: str, proxies: Callable[[str, str], None]
) -> None:
    proxies("ALL_PROXY", "socks5://127.0.0.1:1")
    assert await client.head() == seeded
