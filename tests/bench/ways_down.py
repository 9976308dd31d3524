"""The two ways down for files of real sizes: plain GETs, 64 in flight, against hf_xet in the worker, as one batch.

Both sides are neffd's own, so both write, hash, check and sync what arrives, and both have their connections or their
process already. The local Hub serves contents and chunks from one Python process: what a real line adds in bandwidth
is not seen here, what each way costs in round trips and CPU is.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from neffd.remotes.base import RemoteFile
from neffd.remotes.hub.client import HubClient
from neffd.remotes.hub.files import IncomingFile
from neffd.remotes.hub.tokens import TokenSource
from neffd.remotes.hub.transfer import Transfer
from neffd.remotes.hub.workers import HubWorker
from neffd.remotes.hub.xet_download import XetDownloads
from neffd.tasks import Tasks
from tests.bench.measure import Figure
from tests.hub.process import HubProcess

_REPO = "alice/cache"
_LATENCIES_S = (0.0, 0.04, 0.15)
_IN_FLIGHT = 64
_ROUNDS = 3
# A graph's HLO; NEFFs of small and of large graphs as published caches hold them; one that is out of the ordinary.
_CASES: dict[str, list[int]] = {
    "100 x 20 KB": [20_000] * 100,
    "100 x 130 KB": [130_000] * 100,
    "100 x 1.5 MB": [1_500_000] * 100,
    "12 of 0.7 to 17 MB": [700_000, 1_500_000, 3_000_000, 17_000_000] * 3,
    "1 x 17 MB": [17_000_000],
    "1 x 200 MB": [200_000_000],
}


class _Rank:
    """Somebody waits for it."""

    is_urgent = True


Bring = Callable[[str, IncomingFile], Awaitable[object]]


def bench_ways(folder: Path) -> list[Figure]:
    """Seconds of both ways at each latency, medians, and their ratio."""
    with HubProcess(folder / "hub") as hub:
        for case, sizes_bytes in _CASES.items():
            noise = random.Random(case)
            for number, size_bytes in enumerate(sizes_bytes):
                data = noise.randbytes(size_bytes)
                hub.seed_files(_REPO, {f"{case}/{number}": data}, private=True, xet=True)
        return asyncio.run(_compare(hub, folder))


async def _compare(hub: HubProcess, folder: Path) -> list[Figure]:
    tokens = TokenSource(environ={"HF_TOKEN": await asyncio.to_thread(hub.token, "alice")})
    client = HubClient(hub.endpoint, _REPO, tokens, read_s=60.0)
    worker = HubWorker(folder / "home", hub.endpoint)
    tasks = Tasks()
    revision = await client.head()
    xet = XetDownloads(client.xet_access, worker, worker, tasks)
    gate = asyncio.Semaphore(_IN_FLIGHT)

    async def by_get(path: str, incoming: IncomingFile) -> None:
        async def sink() -> IncomingFile:
            return incoming

        async with gate:
            _, pieces = await Transfer(client, revision, path, sink, _ignore, asyncio.to_thread).run()
        await asyncio.to_thread(incoming.finish, *pieces)

    async def by_xet(_: str, incoming: IncomingFile) -> None:
        await xet.get(revision, incoming, _ignore, _Rank())
        await asyncio.to_thread(incoming.finish)

    figures: list[Figure] = []
    try:
        for case, sizes_bytes in _CASES.items():
            paths = [f"{case}/{number}" for number in range(len(sizes_bytes))]
            files = {item["path"]: _stated(item) for item in await client.paths_info(paths, revision)}
            await asyncio.to_thread(hub.set, latency_s=0)
            for bring in (by_get, by_xet):  # the Hub's own caches count for neither side
                await _seconds(bring, files, folder)
            for latency_s in _LATENCIES_S:
                await asyncio.to_thread(hub.set, latency_s=latency_s)
                rounds = [
                    (await _seconds(by_get, files, folder), await _seconds(by_xet, files, folder))
                    for _ in range(_ROUNDS)
                ]
                gets_s, xets_s = (statistics.median(side) for side in zip(*rounds, strict=True))
                label = f"ways: {case} at {latency_s * 1000:.0f} ms"
                figures += [
                    Figure(f"{label}, plain GETs", gets_s, "s"),
                    Figure(f"{label}, hf_xet", xets_s, "s"),
                    Figure(f"{label}, hf_xet against plain GETs", xets_s / gets_s, "times"),
                ]
    finally:
        await worker.close()
        await tasks.stop(1.0)
        await client.close()
    return figures


async def _seconds(bring: Bring, files: dict[str, RemoteFile], folder: Path) -> float:
    """Until all `files` are written and checked; they are removed again."""
    arriving = {path: IncomingFile(folder / str(number), file) for number, (path, file) in enumerate(files.items())}
    began = time.monotonic()
    await asyncio.gather(*(bring(path, incoming) for path, incoming in arriving.items()))
    taken_s = time.monotonic() - began
    for incoming in arriving.values():
        incoming.close()
        incoming.path.unlink()
    return taken_s


def _stated(item: dict[str, object]) -> RemoteFile:
    lfs, size, xet_hash = item["lfs"], item["size"], item["xetHash"]
    assert isinstance(lfs, dict)
    assert isinstance(size, int)
    return RemoteFile(str(item["path"]), size, str(lfs["oid"]), xet_hash=str(xet_hash))


def _ignore(_: int) -> None:
    pass
