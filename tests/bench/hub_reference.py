"""The reference case on a local Hub: 100 entries, 400 files, 163 MB, 40 ms a request, up and down.

The rival on the way down is the least a client can do: plain concurrent GETs, 64 in flight, written to disk.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

import aiohttp

from neff.keys import ModuleName
from tests.bench.measure import Figure
from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.hub.process import HubProcess

_REPO = "alice/cache"
_ENTRIES = 100
_LATENCY_S = 0.04
_HLO_BYTES = 130_000
_NEFF_BYTES = 1_500_000
_IN_FLIGHT = 64
_ROUNDS = 3


def bench_hub(folder: Path) -> list[Figure]:
    """Publish from one host, fetch on a second (all at once) and a third (one after another), and plain GETs."""
    names = [entries.module(number) for number in range(_ENTRIES)]
    with HubProcess(folder / "hub") as hub:
        hub.seed_files(_REPO, {}, private=True)
        token_file = folder / "token"
        token_file.write_text(hub.token("alice"))
        remote = {
            "name": "hub",
            "url": f"hf://{_REPO}",
            "mode": "read-write",
            "endpoint": hub.endpoint,
            "token_file": str(token_file),
            "poll_s": 30,
        }
        hub.set(latency_s=_LATENCY_S)
        figures = publish(Daemon(folder / "a", [remote]), hub, names)
        plain_gets(hub, folder / "warm", token_file.read_text())  # the Hub's own caches count for neither side
        rounds = [
            (
                fetch(Daemon(folder / f"b{number}", [remote]), hub, [names]),
                plain_gets(hub, folder / f"plain{number}", token_file.read_text()),
            )
            for number in range(_ROUNDS)
        ]
        in_turn = fetch(Daemon(folder / "c", [remote]), hub, [[name] for name in names])
    at_once_s = statistics.median(at_once[0] for at_once, _ in rounds)
    plain_s = statistics.median(plain for _, plain in rounds)
    return [
        *figures,
        Figure("hub: 100 keys asked at once, median of 3", at_once_s, "s"),
        Figure("hub: requests for them", rounds[0][0][1], ""),
        Figure("hub: plain concurrent GETs of the same, median of 3", plain_s, "s"),
        Figure("hub: neffd against plain GETs", at_once_s / plain_s, "times"),
        Figure("hub: 100 keys asked one after another", in_turn[0], "s"),
        Figure("hub: requests for them one after another", in_turn[1], ""),
    ]


def publish(host: Daemon, hub: HubProcess, names: list[ModuleName]) -> list[Figure]:
    before = len(hub.commits(_REPO))
    with host:
        for number, name in enumerate(names):
            content = entries.files(name, seed=number)
            content["model.hlo_module.pb"] = entries.neff_bytes(number + 10_000, _HLO_BYTES)
            content["model.neff"] = entries.neff_bytes(number, _NEFF_BYTES)
            entries.write(host.cache, name, content)
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
    """Seconds and requests until every name of every question was answered, one question after the other."""
    with host:
        hub.reset_counters()
        began = time.monotonic()
        for names in questions:
            answers = host.ask("prefetch", names=[str(name) for name in names], wait=True)
            ready = [answer for answer in answers if answer.get("state") == "ready"]
            if len(ready) != len(names):
                raise SystemExit(f"not fetched: {answers}\n{host.log}")
        return time.monotonic() - began, hub_requests(hub)


def hub_requests(hub: HubProcess) -> int:
    """Requests on the hub port; contents and CAS are other servers."""
    counted: dict[str, Any] = hub.counters()["requests"]
    content = ("/v1/", "/v2/", "/content", "/xorb", "/lfs")
    return sum(count for route, count in counted.items() if not any(part in route for part in content))


def plain_gets(hub: HubProcess, folder: Path, token: str) -> float:
    """Seconds to GET every file of the repo's entries with 64 requests in flight and write it."""
    paths = [path for path, data in hub.read_files(_REPO).items() if "/MODULE_" in path and data]
    paths = [path for path in paths if not path.endswith("neffd.json")]
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
                    (folder / path).write_bytes(await answer.read())

            began = time.monotonic()
            await asyncio.gather(*map(get, paths))
            return time.monotonic() - began

    return asyncio.run(run())
