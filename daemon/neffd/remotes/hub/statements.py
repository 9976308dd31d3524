"""What entries of a repo say that compiling them took: their `neffd.json`, read beside their files, never waited for.

A trainer wants the files; the seconds are for people. So they are asked for only while few entries are under way (of a
whole run its manifest knows) and requests are plenty, and what has not come when the entry is complete is given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.remotes import provenance
from neffd.remotes.hub.client import HubClient
from neffd.remotes.hub.documents import read_small
from neffd.remotes.provenance import FileDigest, Provenance
from neffd.slots import Asker, Slots
from neffd.tasks import Tasks

# Together with the files' requests less than the client's connections.
_PARALLEL = 24
_KEPT_FREE = 8


class Statements:
    """Args:
    client: of the repo.
    may_waste: whether there is time, and request quota, for what nobody needs.
    tasks: owns the requests.
    """

    def __init__(self, client: HubClient, may_waste: Callable[[], bool], tasks: Tasks) -> None:
        self._client = client
        self._may_waste = may_waste
        self._tasks = tasks
        self._slots = Slots(_PARALLEL, _KEPT_FREE)
        self._has_last = False

    def of(self, name: ModuleName, revision: str, asker: Asker) -> Statement:
        """The statement of one entry; it is asked for now if the last entry had one."""
        statement = Statement(name)
        if self._has_last:
            self._ask(statement, revision, asker)
        return statement

    def described(self, statement: Statement, revision: str, asker: Asker, *, is_there: bool) -> None:
        """The Hub has said what the entry holds."""
        self._has_last = is_there
        if not is_there:
            statement.give_up()
        elif statement.task is None:
            self._ask(statement, revision, asker)

    def _ask(self, statement: Statement, revision: str, asker: Asker) -> None:
        if self._may_waste():
            read = self._read(f"{statement.name}/{provenance.FILE_NAME}", revision, asker)
            statement.task = self._tasks.start(read, name=f"statement-{statement.name.key}", watched=True)

    async def _read(self, path: str, revision: str, asker: Asker) -> bytes | None:
        async with self._slots.hold(asker):
            return await read_small(self._client, revision, path, provenance.MAX_BYTES)


class Statement:
    """One entry's; empty-handed unless `task` brings it in time."""

    def __init__(self, name: ModuleName) -> None:
        self.name = name
        self.task: asyncio.Task[bytes | None] | None = None

    def compile_s(self, digests: Mapping[str, FileDigest]) -> float | None:
        """Seconds, if they have come, and are said of the very NEFF that has these digests."""
        stated = self._stated()
        is_of_it = stated is not None and stated.files.get(xla.NEFF) == digests.get(xla.NEFF)
        return stated.compile_s if stated is not None and is_of_it else None

    def give_up(self) -> None:
        """Wait for nothing more."""
        if self.task is not None:
            self.task.cancel()

    def _stated(self) -> Provenance | None:
        task = self.task
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        content = task.result()
        return None if content is None else provenance.parse(content)
