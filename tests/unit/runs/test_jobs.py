"""The runs of a host: who belongs to which, what is written, told, brought and pinned; a database and no network."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from neff.keys import LockId, ModuleName
from neffd import limits
from neffd.fetch.flight import Answer, Flight, Flights
from neffd.metrics import Metrics
from neffd.publish.take import Trust
from neffd.runs import jobs as jobs_module
from neffd.runs import plans, recorder
from neffd.runs.identity import PRIVATE, Identity
from neffd.runs.jobs import Jobs
from neffd.runs.library import Found
from neffd.runs.manifests import Manifest, UsedModule, encode, path_of
from neffd.runs.manifests import union as union_of
from neffd.runs.owners import Owners
from neffd.runs.pending import Pending, PendingBook
from neffd.store.database import Database
from neffd.store.index import Index
from neffd.store.root import CacheRoot
from neffd.tasks import Tasks
from tests.harness import entries
from tests.unit.clock import Clock
from tests.unit.waiting import until

NAMES = [entries.module(number) for number in range(6)]
KEY = "RUN_" + "ab" * 16
INGREDIENTS = {"version": 1, "model": {"id": "org/model", "type": "llama"}, "compiler": entries.NAMESPACE[10:]}
EMPTY = {"modules": 0, "local": 0, "fetched": 0, "prefetched": 0, "compiled": 0, "saved_s": 0.0}
COMES, ABSENT = Answer(True, source="hub", compile_s=60.0), Answer(False, "not-on-remotes")


class Client:
    """A connection."""

    def __init__(self, root: str | None, pid: int = 0, uid: int = 1000) -> None:
        self.root = root
        self.pid = pid
        self.uid = uid
        self._closers: dict[object, Callable[[], None]] = {}

    def on_close(self, callback: Callable[[], None], key: object = None) -> None:
        self._closers[key] = callback

    def close(self) -> None:
        for callback in self._closers.values():
            callback()


class Remote:
    """What remotes know of runs, and the cache directory's fetcher and space."""

    def __init__(self) -> None:
        self.manifests: list[Manifest] = []
        self.offered: list[tuple[Manifest, bool, bool]] = []
        self.offered_of: list[str] = []
        self.may_offer = asyncio.Event()
        self.may_offer.set()
        self.room: int | None = None
        self.asked: list[ModuleName] = []
        self.pinned: list[set[ModuleName]] = []
        self.namespaces: list[str] = []
        self.looked_in: list[str] = []
        self._flights = Flights(Clock())

    async def find(self, namespace: str, key: str, ingredients: object) -> Found:
        self.looked_in.append(namespace)
        return Found([one for one in self.manifests if (one.namespace, one.run_key) == (namespace, key)])

    async def offer(self, manifest: Manifest, *, private: bool, run: str, has_ended: bool) -> None:
        await self.may_offer.wait()
        self.offered.append((manifest, private, has_ended))
        self.offered_of.append(run)

    def resolve(self, name: ModuleName, *, urgent: bool = True, holding: LockId | None = None) -> Answer | Flight:
        self.asked.append(name)
        flight, _ = self._flights.join(name)
        flight.remote, flight.total_bytes = "hub", 1000
        self._flights.land(flight, COMES)
        return flight

    def room_bytes(self, pinned: Any) -> int | None:
        self.pinned.append(set(pinned))
        return self.room


class Place:
    """One cache directory."""

    def __init__(self, root: CacheRoot, remote: Remote, trust: Trust) -> None:
        self.root = root
        self.fetcher = self.space = remote
        self.trust = trust


class Host:
    """The runs of a host, in one life of the daemon after another."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "cache").mkdir()
        self.root = CacheRoot(folder / "cache")
        self.roots = [self.root]
        self.path = str(self.root.path)
        self.clock, self.remote, self.wall = Clock(), Remote(), Clock(1e9)
        self.trust = Trust(frozenset({1000, 1001}), frozenset())
        self.workers = ThreadPoolExecutor(2)

    def open(self) -> Jobs:
        self.tasks, self.owners = Tasks(), Owners()
        self.database = Database(self._folder / "state")
        self.jobs = Jobs(
            self.database,
            Index(self.database),
            Metrics(),
            self.tasks,
            self.workers,
            places=lambda: [Place(root, self.remote, self.trust) for root in self.roots],
            holds=lambda name: False,
            namespaces=self._namespaces,
            refresh=self._refresh,
            library=self.remote,
            sources=[],
            owners=self.owners,
            prefetch=True,
            most_bytes=10**9,
            recent_s=600.0,
            clock=self.clock,
            wall=self.wall,
        )
        return self.jobs

    async def again(self) -> Jobs:
        await self.tasks.stop(5.0)
        await asyncio.to_thread(self.database.close)
        self.open()
        await self.jobs.load()
        return self.jobs

    def greet(self, instance: str = "one", *, pid: int = 0, uid: int = 1000, **fields: Any) -> Client:
        client = Client(self.path, pid, uid)
        self.greet_again(client, instance, **fields)
        return client

    def greet_again(self, client: Client, instance: str, **fields: Any) -> None:
        run = {"key": KEY, "instance": instance, "ingredients": INGREDIENTS, "private": False, **fields}
        self.jobs.greeted(client, {"root": self.path, "run": run})

    def make(self, *numbers: int) -> None:
        for number in numbers:
            entries.write(self.root.path, NAMES[number], entries.files(NAMES[number]))

    def running(self) -> Sequence[dict[str, Any]]:
        shown: list[dict[str, Any]] = self.jobs.status()["running"]
        return shown

    async def _namespaces(self) -> tuple[list[str], list[str]]:
        return self.remote.namespaces, []

    async def _refresh(self, namespaces: object) -> None:
        pass


@pytest.fixture
async def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    monkeypatch.setattr(jobs_module, "_WRITE_EVERY_S", 0.01)
    host = Host(tmp_path)
    host.open()
    yield host
    assert await host.tasks.stop(5.0) == []
    await asyncio.to_thread(host.database.close)
    host.workers.shutdown()


@contextlib.contextmanager
def a_grandchild() -> Iterator[int]:
    """A process that a child of this one has started."""
    script = "import os, sys; os.fork() and os.wait() or (print(os.getpid(), flush=True), sys.stdin.read())"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        yield int(child.stdout.readline())


def rows(host: Host, what: str) -> int:
    return int(host.database.run_blocking(lambda connection: connection.execute(what).fetchone()[0]))


async def test_a_run_is_one_row_however_many_write_at_once(host: Host) -> None:
    client = host.greet()
    host.jobs.used(client, NAMES[:2])
    await asyncio.gather(*(host.jobs.write() for _ in range(5)), *(host.jobs.expected(_identity()) for _ in range(3)))
    assert await asyncio.to_thread(rows, host, "SELECT count(*) FROM runs") == 1
    assert await asyncio.to_thread(rows, host, "SELECT count(*) FROM run_modules") == 2


async def test_a_run_that_ends_before_it_is_written_down_is_one_row(host: Host) -> None:
    host.make(0)
    launcher = host.greet(prefetch=False)
    host.jobs.used(launcher, NAMES[:1])
    await host.jobs.run_ended(launcher)
    await until(lambda: host.remote.offered, "it is told")
    await host.jobs.write()
    assert await asyncio.to_thread(rows, host, "SELECT count(*) FROM runs WHERE ended_at IS NOT NULL") == 1
    assert await asyncio.to_thread(rows, host, "SELECT count(*) FROM runs") == 1


async def test_a_rank_that_is_later_than_its_launcher_is_not_forgotten(host: Host) -> None:
    host.make(0, 1)
    launcher, rank = host.greet(), host.greet()
    host.jobs.used(rank, NAMES[:1])
    assert (await host.jobs.run_ended(launcher))["modules"] == 1
    host.jobs.used(rank, NAMES[1:2])
    with _running(host):
        await until(lambda: len(host.remote.offered) == 2, "what came late is told too")
    manifest, _, has_ended = host.remote.offered[-1]
    assert ([module.key for module in manifest.modules], has_ended) == ([NAMES[0].key, NAMES[1].key], True)
    assert [module.key for module in (await host.jobs.expected(_identity())).modules] == [
        NAMES[0].key,
        NAMES[1].key,
    ]
    assert host.running() == []
    again = host.greet()
    host.jobs.used(again, NAMES[2:3])
    assert [run["modules"] for run in host.running()] == [1], "the same name again is another run"


async def test_a_model_whose_name_is_no_text_keeps_nobodys_runs_from_being_written_down(host: Host) -> None:
    host.make(0, 1)
    odd = host.greet("odd", ingredients={**INGREDIENTS, "model": {"id": "org/\ud800", "type": "llama"}})
    host.jobs.used(odd, NAMES[:1])
    host.jobs.used(host.greet(uid=1001), NAMES[1:2])
    with _running(host):
        await until(lambda: all(run.is_written and not run.changed for run in host.jobs._recorder), "both are written")
        await host.jobs.write()  # what was under way has ended
    assert await asyncio.to_thread(rows, host, "SELECT count(*) FROM run_modules") == 2
    assert host.owners.of(NAMES[0]) == {PRIVATE}, "of which model, nobody can find out"


async def test_a_host_that_tells_no_remote_knows_its_own_runs_of_the_model(host: Host) -> None:
    asked = {**INGREDIENTS, "shapes": {"batch_size": 4}}
    host.jobs.used(host.greet(ingredients={**INGREDIENTS, "shapes": {"batch_size": 1}}), NAMES[:2])
    plan = await host.jobs.plan(Identity("", "RUN_" + "cd" * 16, asked))
    assert (plan["state"], plan["missing"], plan["differs"]) == ("will-compile", 2, ["shapes.batch_size"])
    plan = await host.jobs.plan(Identity("", "RUN_" + "ef" * 16, INGREDIENTS))
    assert (plan["sure"], plan["unsaid"], plan["from"]) == ("same-model", ["shapes.batch_size"], ["this host"])


async def test_a_plan_is_for_one_cache_directory(host: Host, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = CacheRoot(tmp_path / "other")
    host.roots.append(other)
    host.make(0, 1)
    for name in NAMES[1:4]:
        entries.write(other.path, name, entries.files(name))
    used = tuple(UsedModule(name.key, 1000) for name in NAMES[:4])
    host.remote.manifests = [Manifest(entries.NAMESPACE, KEY, INGREDIENTS, used)]
    told = {root: (await host.jobs.plan(_identity(), root))["local"] for root in (host.path, str(other.path), None)}
    assert told == {host.path: 2, str(other.path): 3, None: 3}


async def test_what_a_run_needs_is_brought_where_it_looks(host: Host) -> None:
    """Not for its launcher, which may see another cache directory; once, but again after a restart of the daemon."""
    host.remote.manifests = [Manifest(entries.NAMESPACE, KEY, INGREDIENTS, (UsedModule(NAMES[0].key, 1000),))]
    launcher = Client(None)
    host.greet_again(launcher, "one")
    await _looked(host)
    assert host.remote.asked == []
    ranks = [host.greet("one") for _ in range(3)]
    await until(lambda: host.remote.asked, "it is brought for the first that looks here")
    await _looked(host)
    assert host.remote.asked == [NAMES[0]]
    host.jobs.used(ranks[0], NAMES[1:2])
    await host.jobs.write()
    await host.again()
    host.greet("one")
    await until(lambda: host.remote.asked.count(NAMES[0]) == 2, "what had not come yet is")


async def test_much_that_is_known_keeps_nobody_else_waiting(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five hosts' manifests of 10,000 modules take half a second to be put together."""
    threads = []

    def union(known: Any) -> Any:
        threads.append(threading.current_thread())
        return union_of(known)

    monkeypatch.setattr(plans, "union", union)
    host.remote.manifests = [Manifest(entries.NAMESPACE, KEY, INGREDIENTS, (UsedModule(NAMES[0].key, 1000),))]
    assert list((await host.jobs.expected(_identity())).modules) == [NAMES[0]]
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


async def test_what_runs_used_that_nobody_ended_is_told_all_the_same(host: Host) -> None:
    """Of a host that was away for longer than its runs go on without it, and makes no more entries to ride with."""
    host.jobs.used(host.greet("going on"), NAMES[:1])
    host.jobs.used(host.greet("left"), NAMES[:1])
    await host.jobs.write()
    waiting = PendingBook(host.database)
    for run in ("1000:going on", "1000:left"):
        one = Manifest(entries.NAMESPACE, KEY, INGREDIENTS, (UsedModule(NAMES[0].key),))
        await waiting.save("hub", Pending(run, one, is_private=False, has_ended=False, changed_s=0.0))
    host.wall.pass_s(7 * 3600)
    host.jobs.used(host.greet("going on"), NAMES[1:2])
    await host.jobs.write()
    await host.again()
    loaded = await PendingBook(host.database).load("hub", 0.0)
    assert {one.run: one.has_ended for one in loaded} == {"1000:going on": False, "1000:left": True}


async def test_what_a_run_used_is_told_however_long_that_takes_and_its_launcher_hears_the_sum(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of modules take longer than a launcher waits; when it goes, its question is withdrawn."""
    monkeypatch.setattr(jobs_module, "_ANSWER_S", 0.01, raising=False)
    host.make(0)
    launcher, impatient = host.greet(), host.greet()
    host.jobs.used(launcher, NAMES[:1])
    host.remote.may_offer.clear()
    withdrawn = host.tasks.start(host.jobs.run_ended(impatient), name="asks")
    await until(lambda: not host.running(), "the run has ended")
    withdrawn.cancel()
    assert (await asyncio.wait_for(host.jobs.run_ended(launcher), 10))["modules"] == 1
    host.remote.may_offer.set()
    await until(lambda: host.remote.offered, "it is told")
    assert [has_ended for _, _, has_ended in host.remote.offered] == [True]
    saved = host.jobs.status()["saved_s"]
    await asyncio.gather(*(host.jobs.run_ended(client) for client in (launcher, impatient)))
    assert host.jobs.status()["saved_s"] == saved


async def test_what_a_run_used_is_told_where_the_daemon_is_stopped_meanwhile(host: Host) -> None:
    host.make(0)
    launcher = host.greet()
    host.jobs.used(launcher, NAMES[:1])
    host.remote.may_offer.clear()
    ending = host.tasks.start(host.jobs.run_ended(launcher), name="ends")
    await until(lambda: not host.running(), "the run has ended")
    await host.jobs.write()
    ending.cancel()
    await host.again()
    host.remote.may_offer.set()
    with _running(host):
        await asyncio.sleep(0)  # it has begun
        host.clock.pass_s(recorder.IDLE_S + 1)
        host.jobs._wake.set()
        await until(lambda: any(has_ended for _, _, has_ended in host.remote.offered), "the next life tells of it")
        assert [module.key for module in host.remote.offered[-1][0].modules] == [NAMES[0].key]
        await until(lambda: not host.jobs._ended, "that it was told is written down")
        await host.jobs.write()
    await host.again()
    assert host.running() == [], "and the one after that tells no more of it"


async def test_a_key_alone_is_looked_for_under_compilers_that_were_not_used_here_yet(host: Host) -> None:
    host.make(0)
    newer = entries.NAMESPACE.replace("2.", "3.", 1)
    host.remote.namespaces = [newer, entries.NAMESPACE]
    host.remote.manifests = [Manifest(newer, KEY, INGREDIENTS, (UsedModule(NAMES[1].key),))]
    found = await host.jobs.expected(Identity("", KEY))
    assert (list(found.modules), found.sure) == ([ModuleName(newer, NAMES[1].key)], plans.SAME_KEY)
    assert host.remote.looked_in == [entries.NAMESPACE, newer]


async def test_somebody_else_who_names_a_run_has_one_of_its_own(host: Host) -> None:
    """It neither ends, nor joins, nor makes private what is another user's."""
    host.make(0, 1)
    ours, theirs = 61_616_161, 61_616_162
    host.trust = Trust(frozenset({ours, theirs}), frozenset())
    rank, stranger = host.greet(uid=ours), host.greet(uid=theirs, private=True)
    host.jobs.used(rank, NAMES[:1])
    host.jobs.used(stranger, NAMES[1:2])
    assert await host.jobs.run_ended(stranger) == {**EMPTY, "modules": 1, "local": 1, "names": [str(NAMES[1])]}
    (left,) = host.running()
    assert (left["uid"], left["modules"], left["processes"]) == (ours, 1, 1)
    assert (await host.jobs.run_ended(rank))["names"] == [str(NAMES[0])]
    told = zip(host.remote.offered_of, host.remote.offered, strict=True)
    assert {run: facts[1:] for run, facts in told} == {f"{theirs}:one": (True, True), f"{ours}:one": (False, True)}
    for manifest, _, _ in host.remote.offered:
        assert b"6161616" not in path_of(manifest).encode() + encode(manifest), "other hosts have other users"


async def test_others_are_told_of_trusted_users_runs_alone(host: Host) -> None:
    """Anybody may say that a run of this very key used a module."""
    host.make(0, 1)
    stranger, trusted = 1002, 1000
    for uid in (stranger, trusted):
        host.jobs.used(host.greet(uid=uid), NAMES[uid == stranger :][:1])
    host.clock.pass_s(2 * recorder.OFFER_EVERY_S)
    with _running(host):
        host.jobs.used(host.greet(uid=stranger), NAMES[:1])
        await until(lambda: host.remote.offered and host.running()[0]["withheld"], "both were judged")
    assert host.remote.offered_of == [f"{trusted}:one"]
    assert {run["uid"]: run["withheld"] for run in host.running()} == {stranger: "untrusted-owner", trusted: None}
    host.trust = Trust(frozenset({stranger}), frozenset())
    await host.jobs.run_ended(host.greet(uid=stranger))
    assert host.remote.offered_of[1:] == [f"{stranger}:one"], "by what holds when it is told"


async def test_a_user_who_begins_runs_without_end(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is recorded up to a limit, prepared for up to another, and takes nothing from others."""
    monkeypatch.setattr(recorder, "MAX_RUNS", 2)
    monkeypatch.setattr(limits, "GUESSES_IN_A_ROW", 1)
    await host.again()
    host.remote.manifests = [Manifest(entries.NAMESPACE, KEY, INGREDIENTS, (UsedModule(NAMES[0].key, 1000),))]
    clients = [host.greet(str(number), uid=7) for number in range(6)]
    host.jobs.used(clients[-1], NAMES[:1])
    await until(lambda: host.remote.asked, "the first is prepared for")
    assert [(run["uid"], run["modules"]) for run in host.running()] == [(7, 0)] * 4
    met = {(row["uid"], row["reason"]): row["times"] for row in host.jobs.limits.status()}
    assert met == {(7, limits.RUNS): 2, (7, limits.GUESSES): 3}
    host.greet("one", uid=8)
    await until(lambda: len(host.remote.asked) == 2, "so is another user's")


async def test_who_is_started_as_somebody_else_by_a_process_of_the_run_belongs_to_it(host: Host) -> None:
    """By sudo, setpriv, or the root of a container; not who only says so, and not the other way round."""
    with a_grandchild() as grandchild:
        launcher = host.greet(pid=os.getpid(), uid=0)
        started, stranger = host.greet(pid=grandchild, uid=1000), host.greet(uid=1001)
        host.jobs.used(started, NAMES[:1])
        host.jobs.used(stranger, NAMES[1:2])
        assert {run["uid"]: run["processes"] for run in host.running()} == {0: 2, 1001: 1}
        assert (await host.jobs.run_ended(launcher))["names"] == [str(NAMES[0])]
        again = [
            host.greet(pid=pid, uid=uid) for pid, uid in ((grandchild, 1000), (os.getpid(), 0), (grandchild, 1000))
        ]
        seen = {run["uid"]: run["processes"] for run in host.running()}
        assert (seen, len(again)) == ({0: 1, 1000: 2, 1001: 1}, 3), "its own comes first"


async def test_a_connection_that_greets_again_leaves_its_first_run(host: Host) -> None:
    client = host.greet("one")
    host.greet_again(client, "two")
    assert {run["instance"]: run["processes"] for run in host.running()} == {"one": 0, "two": 1}
    client.close()
    assert {run["instance"]: run["processes"] for run in host.running()} == {"one": 0, "two": 0}


async def test_what_was_compiled_without_a_question_belongs_to_the_run_of_its_process(host: Host) -> None:
    rank, other = host.greet(pid=4711, private=True), host.greet("other", pid=4712)
    host.jobs.told(other, NAMES[1], ABSENT)
    host.jobs.compiled(host.path, NAMES[0], 5.0, 4711)
    host.jobs.compiled(host.path, NAMES[1], 6.0, 4711)
    assert (await host.jobs.run_ended(rank))["compiled"] == 2
    assert (await host.jobs.run_ended(other))["compiled"] == 1
    inner = host.greet("a session in another one", pid=4711)
    host.jobs.told(inner, NAMES[2], ABSENT)
    host.jobs.compiled(host.path, NAMES[2], 6.0, 4711)
    assert (await host.jobs.run_ended(rank))["compiled"] == 2, "the one that asked is meant"
    assert host.owners.of(NAMES[0]) == {PRIVATE}
    assert host.owners.of(NAMES[1]) == {PRIVATE, "org/model"}


async def test_what_is_private_stays_so_over_restarts(host: Host) -> None:
    public, private = host.greet("public"), host.greet("private", private=True)
    host.jobs.used(public, NAMES[:2])
    host.jobs.used(private, NAMES[1:3])
    host.jobs.used(host.greet("late"), NAMES[3:4])
    host.greet("late", private=True)  # a rank was faster than the launcher, which knows more
    await host.jobs.write()
    for _ in range(2):
        assert [PRIVATE in host.owners.of(name) for name in NAMES[:4]] == [False, True, True, True]
        await host.again()


async def test_what_was_saved_is_counted_once(host: Host) -> None:
    host.jobs.told(host.greet("ends"), NAMES[0], COMES)
    ends = host.greet("ends")
    host.jobs.told(host.greet("goes on"), NAMES[1], COMES)
    await host.jobs.run_ended(ends)
    await host.jobs.write()
    assert host.jobs.status()["saved_s"] == 120.0
    await host.again()
    assert host.jobs.status()["saved_s"] == 120.0
    await host.jobs.run_ended(host.greet("goes on"))
    assert host.jobs.status()["saved_s"] == 120.0


async def test_a_run_of_weeks_is_taken_up_after_a_restart(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "_LOOK_EVERY_S", 0.0)
    client = host.greet("server")
    host.jobs.used(client, NAMES[:1])
    await host.jobs.write()
    host.clock.pass_s(7 * 86_400)
    host.wall.pass_s(7 * 86_400)
    with _running(host):
        await until(lambda: _is_heard(host), "that it goes on is written down")
    await host.again()
    assert [(run["instance"], run["modules"]) for run in host.running()] == [("server", 1)]


async def test_what_runs_use_is_pinned_until_a_while_after_their_end(host: Host) -> None:
    client = host.greet()
    host.jobs.used(client, NAMES[:1])
    host.clock.pass_s(86_400)
    assert host.jobs.pinned() == {NAMES[0]}
    await host.jobs.run_ended(client)
    client.close()
    host.clock.pass_s(599)
    assert host.jobs.pinned() == {NAMES[0]}
    host.clock.pass_s(2)
    assert host.jobs.pinned() == set()


async def test_what_is_brought_fits_and_is_pinned(host: Host) -> None:
    modules = tuple(UsedModule(name.key, 1000) for name in NAMES)
    host.remote.manifests = [Manifest(entries.NAMESPACE, KEY, INGREDIENTS, modules)]
    host.remote.room = 3000
    host.jobs.used(host.greet("running"), NAMES[5:])
    await until(lambda: not len(host.tasks), "what a run needs was looked for")
    host.remote.asked.clear()
    host.greet("next")
    await until(lambda: len(host.remote.asked) == 3 and not len(host.tasks), "as much is brought as there is room for")
    assert host.remote.pinned[-1] >= {NAMES[5]}
    assert host.jobs.pinned() == {*NAMES[:3], NAMES[5]}


async def test_nothing_is_brought_for_who_does_not_want_it(host: Host) -> None:
    modules = tuple(UsedModule(name.key, 1000) for name in NAMES)
    host.remote.manifests = [Manifest(entries.NAMESPACE, KEY, INGREDIENTS, modules)]
    client = host.greet(prefetch=False)
    await until(lambda: not len(host.tasks), "nothing goes on")
    assert host.remote.asked == []
    assert host.jobs.is_of(client, KEY)
    assert not host.jobs.is_of(Client(host.path), KEY)


async def test_a_full_disk_ends_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.make(0)
    client = host.greet()
    host.jobs.told(client, NAMES[0], COMES)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(jobs_module, "complete", full)
        assert (await host.jobs.run_ended(client))["fetched"] == 1
    assert host.remote.offered == []


def test_ten_thousand_modules_are_counted_at_once() -> None:
    names = [ModuleName(entries.NAMESPACE, f"MODULE_{number}+abcdef01") for number in range(recorder.MAX_MODULES)]
    expected = plans.Expected({name: UsedModule(name.key) for name in names}, plans.SAME_KEY)
    local = set(names[: len(names) // 2])
    looked: list[ModuleName] = []

    def is_remote(name: ModuleName) -> bool:
        looked.append(name)
        return name == names[-1]

    told = plans.plan(expected, is_local=local.__contains__, is_remote=is_remote)
    assert (told["local"], told["remote"], told["missing"]) == (5_000, 1, 4_999)
    assert looked == names[5_000:], "each once"


def _identity() -> Identity:
    return Identity("", KEY, INGREDIENTS)


async def _looked(host: Host) -> None:
    """All that was begun for runs has ended."""
    await until(lambda: not [one for one in asyncio.all_tasks() if one.get_name().startswith("begin-")], "all is begun")


def _is_heard(host: Host) -> bool:
    (run,) = host.jobs._recorder
    is_under_way = host.jobs._writing.locked()  # it counts as written from the moment at which it is handed over
    return run.is_written and run.heard_s == host.clock() and not is_under_way


@contextlib.contextmanager
def _running(host: Host) -> Any:
    task = host.tasks.start(host.jobs.run(), name="jobs")
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
