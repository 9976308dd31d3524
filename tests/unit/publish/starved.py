"""A collector in a user namespace with hardly any inotify watches or instances; run by test_lookout.py.

`unshare -Ur python -m tests.unit.publish.starved LIMIT FOLDER`, LIMIT being a name below /proc/sys/user.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from neffd.publish import canary, lookout
from neffd.publish.journal import Journal
from neffd.store.database import Database
from neffd.store.index import Index
from neffd.store.root import CacheRoot
from tests.harness import entries
from tests.unit.publish.conftest import collecting


async def starve(limit: Path, home: Path) -> None:
    lookout._LOOK_EVERY_S = lookout._BLIND_SCAN_S = canary.EVERY_S = 0.1
    database = Database(home / "state")
    index = Index(database)
    limit.write_text("0")
    root = CacheRoot(home / "cache")
    entries.write(root.path, entries.module(1), entries.files(entries.module(1)))
    async with collecting(root, index, Journal(database, index)) as host:
        await host.until(lambda: ("no-events", f"sysctl fs.inotify.{limit.name[4:]}") in short(host.problems), "said")
        entries.write(root.path, entries.module(2), entries.files(entries.module(2)))
        await host.until(lambda: host.taken == 2, "scans find it")
        lookout._BLIND_SCAN_S = 60.0
        entries.write(root.path, entries.module(4), entries.files(entries.module(4)))
        host.collector.look_soon(entries.module(4))
        await host.until(lambda: host.taken == 3, "who made it says so")
        lookout._BLIND_SCAN_S = 0.1
        limit.write_text("1000")
        await host.until(lambda: "no-events" in host.healed, "there are some again")
        scans = host.scans("periodic")
        entries.write(root.path, entries.module(3), entries.files(entries.module(3)))
        await host.until(lambda: host.taken == 4, "events find it")
        assert host.scans("periodic") <= scans + 1, "the pause between scans is the long one again"
    database.close()


def short(problems: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(reason, hint.partition("=")[0].replace("max_user_", "inotify_")) for reason, hint in problems]


if __name__ == "__main__":
    asyncio.run(starve(Path("/proc/sys/user") / sys.argv[1], Path(sys.argv[2])))
