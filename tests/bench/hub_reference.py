"""The reference case on a local Hub: 100 entries, 400 files, 163 MB, 40 ms a request, up and down.

The rival on the way down is the least a client can do: plain concurrent GETs of all files, 64 in flight, written to
disk. Daemons are at rest when they are asked: a service has long finished its own start.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import statistics
import time
from pathlib import Path
from typing import Any

import aiohttp

from neff.keys import ModuleName
from neffd.store import fsops
from tests.bench.measure import Figure
from tests.harness import entries
from tests.harness.daemon import Daemon, RawClient
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess

_REPO = "alice/cache"
_ENTRIES = 100
LATENCY_S = 0.04
_HLO_BYTES = 130_000
_NEFF_BYTES = 1_500_000
_IN_FLIGHT = 64
_ROUNDS = 5
_RANKS = 32
# As by default: the status pages are served.
_DEFAULTS = {"http": "127.0.0.1:0"}
# Measured once on such a Hub, for comparison.
_REFERENCE = [
    Figure("reference: optimum-neuron 0.4.5, one rank", 40.6, "s"),
    Figure("reference: requests of it", 900, ""),
    Figure("reference: optimum-neuron 0.4.5, eight ranks", 42.0, "s"),
    Figure("reference: requests of them", 4_400, ""),
    Figure("reference: optimum-neuron 0.4.5, unknown keys, one rank", 22.0, "s"),
    Figure("reference: requests of it for unknown keys", 500, ""),
    Figure("reference: optimum-neuron 0.4.5, unknown keys, eight ranks", 24.5, "s"),
    Figure("reference: requests of them for unknown keys", 4_051, ""),
    Figure("reference: huggingface_hub's snapshot_download", 5.9, "s"),
    Figure("reference: snapshot_download with 64 workers", 4.2, "s"),
]


def bench_hub(folder: Path) -> list[Figure]:
    """Publish from one host, fetch on a second (all at once) and a third (one after another), and plain GETs."""
    names = [entries.module(number) for number in range(_ENTRIES)]
    with HubProcess(folder / "hub") as hub:
        remote = remote_of(hub, folder)
        hub.set(latency_s=LATENCY_S)
        figures = publish(Daemon(folder / "a", [remote]), hub, names)
        figures += at_once(folder, remote, hub, names)
        in_turn = [[name] for name in names]
        in_turn_s, requests = fetch(Daemon(folder / "c", [remote], _DEFAULTS), hub, in_turn)
        calm = {**_DEFAULTS, "runs": {"prefetch": False}}
        alone_s, alone_requests = fetch(Daemon(folder / "e", [remote], calm), hub, in_turn)
        figures += [
            Figure("hub: 100 keys asked one after another, prefetched meanwhile", in_turn_s, "s"),
            Figure("hub: requests for them", requests, ""),
            Figure("hub: the same without prefetching", alone_s, "s"),
            Figure("hub: requests for them", alone_requests, ""),
        ]
        figures += unknown_keys(Daemon(folder / "d", [{**remote, "mode": "read"}], calm), hub, names[0])
    return figures + _REFERENCE


def remote_of(hub: HubProcess, folder: Path) -> dict[str, Any]:
    """A new private repo as a remote."""
    hub.seed_files(_REPO, {}, private=True)
    token_file = folder / "token"
    token_file.write_text(hub.token("alice"))
    return {
        "name": "hub",
        "url": f"hf://{_REPO}",
        "mode": "read-write",
        "endpoint": hub.endpoint,
        "token_file": str(token_file),
        "poll_s": 30,
    }


def fill(host: Daemon, names: list[ModuleName]) -> None:
    """Write entries of the reference's sizes into the host's cache directory."""
    for number, name in enumerate(names):
        content = entries.files(name, seed=number)
        content["model.hlo_module.pb"] = entries.neff_bytes(number + 10_000, _HLO_BYTES)
        content["model.neff"] = entries.neff_bytes(number, _NEFF_BYTES)
        entries.write(host.cache, name, content)


def at_once(folder: Path, remote: dict[str, Any], hub: HubProcess, names: list[ModuleName]) -> list[Figure]:
    """Both sides in turn, several times."""
    token = str(hub.token("alice"))
    plain_gets(hub, folder / "warm", token)  # the Hub's own caches count for neither side
    ours, plain, careful = list[tuple[float, int]](), list[float](), list[float]()
    for number in range(_ROUNDS):
        ours.append(fetch(Daemon(folder / f"b{number}", [remote], _DEFAULTS), hub, [names]))
        plain.append(plain_gets(hub, folder / f"plain{number}", token))
        careful.append(plain_gets(hub, folder / f"careful{number}", token, is_careful=True))
    ours_s, plain_s = statistics.median(seconds for seconds, _ in ours), statistics.median(plain)
    return [
        Figure(f"hub: 100 keys asked at once, median of {_ROUNDS}", ours_s, "s"),
        Figure("hub: requests for them", ours[0][1], ""),
        Figure(f"hub: plain concurrent GETs of the same, median of {_ROUNDS}", plain_s, "s"),
        Figure("hub: the same GETs, hashed and synced to disk", statistics.median(careful), "s"),
        Figure("hub: neffd against plain GETs", ours_s / plain_s, "times"),
    ]


def publish(host: Daemon, hub: HubProcess, names: list[ModuleName]) -> list[Figure]:
    before = len(hub.commits(_REPO))
    with host:
        fill(host, names)
        hub.reset_counters()
        began = time.monotonic()
        answer = host.ask("flush", timeout_s=300)[-1]
        taken_s = time.monotonic() - began
    if answer["pending"] or answer["parked"]:
        raise SystemExit(f"not published: {answer}\n{host.log}")
    return [
        Figure("hub: 100 entries published, settling included", taken_s, "s"),
        Figure("hub: commits for them", len(hub.commits(_REPO)) - before, ""),
        Figure("hub: requests for them up", hub_requests(hub), ""),
    ]


def fetch(host: Daemon, hub: HubProcess, questions: list[list[ModuleName]]) -> tuple[float, int]:
    """Seconds and requests until a trainer had every name of every question, one question after the other."""
    with host, contextlib.closing(trainer(host)) as client:
        at_rest(host)
        hub.reset_counters()
        began = time.monotonic()
        for names in questions:
            answers = client.ask("resolve", namespace=entries.NAMESPACE, keys=[name.key for name in names])
            ready = [answer for answer in answers if answer.get("state") == "ready"]
            if len(ready) != len(names):
                raise SystemExit(f"not fetched: {answers}\n{host.log}")
        return time.monotonic() - began, hub_requests(hub)


def unknown_keys(host: Daemon, hub: HubProcess, known: ModuleName) -> list[Figure]:
    """Keys that nobody has, while the namespace's listing is at hand: all at once by many ranks, and in turn by one."""
    keys = [entries.module(number).key for number in range(1_000, 1_000 + _ENTRIES)]
    with host, contextlib.ExitStack() as clients:
        ranks = [clients.enter_context(contextlib.closing(trainer(host))) for _ in range(_RANKS)]
        ranks[0].ask("resolve", namespace=known.namespace, keys=[known.key])
        eventually(lambda: host.status()["remotes"][0]["catalog"]["namespaces"], "the listing")
        hub.reset_counters()
        began = time.monotonic()
        for rank in ranks:
            rank.send({"id": 1, "op": "resolve", "namespace": known.namespace, "keys": keys})
        for rank in ranks:
            while not rank.receive().get("done"):
                pass
        at_once_s, at_once_requests = time.monotonic() - began, hub_requests(hub)
        hub.reset_counters()
        began = time.monotonic()
        for key in keys:
            ranks[0].ask("resolve", namespace=known.namespace, keys=[key])
        in_turn_s, requests = time.monotonic() - began, hub.counters()["requests"]
    heads = sum(count for route, count in requests.items() if route.startswith("HEAD "))
    return [
        Figure(f"hub: 100 unknown keys asked at once by {_RANKS} ranks", at_once_s, "s"),
        Figure("hub: requests for them", at_once_requests, ""),
        Figure("hub: 100 unknown keys asked one after another", in_turn_s, "s"),
        Figure("hub: head checks for them", heads, ""),
        Figure("hub: other requests for them", sum(requests.values()) - heads, ""),
    ]


def at_rest(host: Daemon) -> None:
    """Until it has found out what it may do on its remotes, by a process that loads huggingface_hub."""
    writable = [remote for remote in host.config["remotes"] if remote["mode"] == "read-write"]
    eventually(lambda: sum(remote["can_write"] for remote in host.status()["remotes"]) == len(writable), "at rest", 30)


def trainer(host: Daemon) -> RawClient:
    """A connection as a trainer opens it."""
    return RawClient(host.socket, {"root": str(host.cache)}, timeout_s=60)


def hub_requests(hub: HubProcess) -> int:
    """Requests on the hub port; contents and CAS are other servers."""
    counted: dict[str, Any] = hub.counters()["requests"]
    content = ("/v1/", "/v2/", "/content", "/xorb", "/lfs")
    return sum(count for route, count in counted.items() if not any(part in route for part in content))


def plain_gets(hub: HubProcess, folder: Path, token: str, *, is_careful: bool = False) -> float:
    """Seconds to GET every file of the repo's entries with 64 requests in flight and write it, the empty ones too.

    Args:
        is_careful: hash and sync each file too, on threads: the least that neffd must do.
    """
    paths = [path for path in hub.read_files(_REPO) if "/MODULE_" in path and not path.endswith("neffd.json")]
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)

    async def run() -> float:
        gate = asyncio.Semaphore(_IN_FLIGHT)
        connector = aiohttp.TCPConnector(limit=_IN_FLIGHT)
        async with aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {token}"}) as session:

            async def get(path: str) -> None:
                url = f"{hub.endpoint}/{_REPO}/resolve/main/{path}"
                async with gate, session.get(url) as answer:
                    answer.raise_for_status()
                    content = await answer.read()
                    if is_careful:
                        await asyncio.to_thread(_write_careful, folder / path, content)
                    else:
                        (folder / path).write_bytes(content)

            began = time.monotonic()
            await asyncio.gather(*map(get, paths))
            return time.monotonic() - began

    return asyncio.run(run())


def _write_careful(path: Path, content: bytes) -> None:
    hashlib.sha256(content).digest()
    fsops.write_synced(path, content)
