"""The document behind `neff why`: names and their beginnings, what is known from where, and what comes nearest."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neff import protocol
from neff.keys import ModuleName
from neffd.care.failures import Failure
from neffd.care.history import Asker, History
from neffd.care.story import Stories
from neffd.care.verdict import Kept
from neffd.fetch.flight import Answer
from neffd.layouts import xla
from neffd.publish.journal import Journal, Taken
from neffd.remotes.provenance import FileDigest, Provenance
from neffd.store.database import Database
from neffd.store.index import LOCAL, Index
from neffd.store.root import CacheRoot, FileFacts
from tests.harness import entries

NAME, OTHER = entries.module(1), entries.module(2)


class Listing:
    """A remote's catalog, complete."""

    def __init__(self, *names: ModuleName, is_fresh: bool = True) -> None:
        self.names = set(names)
        self.is_fresh = is_fresh

    trouble = None

    def knows(self, namespace: str, key: str) -> bool:
        return ModuleName(namespace, key) in self.names

    def knows_absent(self, namespace: str, key: str) -> bool:
        return self.is_fresh and not self.knows(namespace, key)

    def keys_starting(self, start: str, most: int) -> list[tuple[str, str]]:
        return [(name.namespace, name.key) for name in sorted(self.names) if name.key.startswith(start)][:most]


class Failed:
    """What is known of failed entries."""

    def __init__(self) -> None:
        self.all: dict[ModuleName, Kept] = {}
        self.counts: dict[ModuleName, int] = {}

    def kept(self, name: ModuleName) -> Kept | None:
        return self.all.get(name)

    def retried(self, name: ModuleName) -> int:
        return self.counts.get(name, 0)


@dataclass
class Place:
    root: CacheRoot
    failed: Any


class Host:
    def __init__(self, root: CacheRoot, database: Database, workers: ThreadPoolExecutor) -> None:
        self.root, self.database = root, database
        self.failed = Failed()
        self.listings: list[tuple[str, Listing]] = []
        self.history = History(database)
        self.stories = Stories(
            self.history,
            database,
            workers,
            places=lambda: [Place(root, self.failed)],
            listings=lambda: self.listings,
        )

    async def matches(self, text: str) -> list[str]:
        story = await self.stories.why(text)
        return [story["name"]] if "name" in story else story["matches"]


@pytest.fixture
def host(root: CacheRoot, database: Database, workers: ThreadPoolExecutor) -> Host:
    return Host(root, database, workers)


async def test_a_name_that_nobody_has_heard_of(host: Host) -> None:
    host.listings = [("team", Listing()), ("away", Listing(is_fresh=False))]
    story = await host.stories.why(str(NAME))
    assert story == {
        "name": str(NAME),
        "known": False,
        "here": [{"root": str(host.root.path), "state": "absent"}],
        "remotes": [
            {"name": "team", "holds": False, "trouble": None},
            {"name": "away", "holds": None, "trouble": None},
        ],
        "events": [],
        "nearest": {"other_flags": [], "other_compilers": []},
    }


@pytest.mark.parametrize("source", ["event", "entry", "remote", "index"])
async def test_a_name_is_known_from_wherever_it_is_noted(host: Host, source: str) -> None:
    if source == "event":
        host.history.note("/cache", NAME, "compiled")
        await host.history.flush()
    elif source == "entry":
        entries.write(host.root.path, NAME, entries.files(NAME))
    elif source == "remote":
        host.listings = [("team", Listing(NAME))]
    else:
        index, neff = Index(host.database), FileFacts(1, 1, 1, 0, 0)
        await host.database.run(lambda connection: index.insert(connection, host.root.path, NAME, LOCAL, neff, None))
    for text in (str(NAME), NAME.key, NAME.key[len("MODULE_") :], NAME.key[:-3], f"{NAME.namespace}/{NAME.key[:-3]}"):
        story = await host.stories.why(text)
        assert (story.get("name"), story["known"]) == (str(NAME), True), text


async def test_beginnings_of_several_names(host: Host) -> None:
    old = ModuleName(entries.OLD_NAMESPACE, NAME.key)
    host.listings = [("team", Listing(NAME, OTHER, old))]
    assert await host.matches(NAME.key) == sorted([str(old), str(NAME)])
    assert await host.matches("MODULE_1") == sorted(map(str, [old, NAME, OTHER]))
    assert await host.matches(f"{entries.NAMESPACE}/{NAME.key[:-3]}") == [str(NAME)]
    assert await host.matches("MOD") == []
    assert len(await host.matches("MODULE_1")) == 3
    for number in range(70, 95):
        host.history.note("/cache", ModuleName(entries.NAMESPACE, f"MODULE_{number}+00000000"), "compiled")
    await host.history.flush()
    story = await host.stories.why("MODULE_")
    assert story["matches"] == sorted(story["matches"])
    assert (len(story["matches"]), story["more"]) == (20, 8)


async def test_what_is_in_index_and_journal(host: Host, tmp_path: Path) -> None:
    entries.write(host.root.path, NAME, entries.files(NAME))
    journal = Journal(host.database, Index(host.database))
    made = Provenance({"model.neff": FileDigest(1, "0" * 64)}, compile_s=12.5)
    taken = Taken(host.root.path, NAME, tmp_path / "pinned", made, FileFacts(1, 1, 1, 0, 0), LOCAL)

    def insert() -> Any:
        return journal.insert_blocking(taken, ["team", "public"])

    item = await host.stories._in_worker(insert)
    await journal.park(item, "public", "public-repo")
    host.listings = [("team", Listing()), ("public", Listing())]
    story = await host.stories.why(NAME.key)
    (here,) = story["here"]
    assert (here["state"], here["origin"], here["compile_s"]) == ("ready", "local", 12.5)
    team, public = story["remotes"]
    assert (team["parked"], public["parked"]) == (None, "public-repo")
    assert team["waiting_since"] > 1e9
    assert "nearest" not in story


async def test_what_was_delivered_is_there_though_the_listing_is_older(host: Host) -> None:
    host.listings = [("team", Listing()), ("public", Listing())]
    host.history.note("", NAME, "delivered", remote="team", outcome="stored")
    host.history.note("", NAME, "delivered", remote="public", outcome="public-repo")
    story = await host.stories.why(str(NAME))
    assert [remote["holds"] for remote in story["remotes"]] == [True, False]


async def test_failures_that_stay_and_that_were_set_aside(host: Host) -> None:
    entries.write(host.root.path, NAME, {"model.hlo_module.pb": b"x", xla.FAILURE_LOG: b"x"})
    host.failed.all[NAME] = Kept(Failure("compiler-error", False, "[NCC_1] no"), "diagnosed", 1, "rm model.log")
    host.failed.counts[OTHER] = 2
    (here,) = (await host.stories.why(str(NAME)))["here"]
    failure = {"reason": "compiler-error", "text": "[NCC_1] no", "kept": "diagnosed", "retried": 1}
    assert (here["state"], here["failure"]) == ("failed", {**failure, "hint": "rm model.log"})
    (here,) = (await host.stories.why(str(OTHER)))["here"]
    assert here["retried"] == 2


async def test_the_nearest_keys(host: Host) -> None:
    hlo = NAME.key.partition("+")[0]
    here, there = ModuleName(NAME.namespace, f"{hlo}+aaaaaaaa"), ModuleName(NAME.namespace, f"{hlo}+bbbbbbbb")
    elsewhere = ModuleName("neuronxcc-2.21.1.0+abc", NAME.key)
    entries.write(host.root.path, NAME, {"compile_flags.json": json.dumps(["-a", "-b"]).encode()})
    entries.write(host.root.path, here, {**entries.files(here), "compile_flags.json": json.dumps(["-a"]).encode()})
    host.listings = [("team", Listing(there, elsewhere, OTHER))]
    story = await host.stories.why(str(NAME))
    assert story["nearest"] == {
        "other_flags": [{"name": str(here), "only_asked": ["-b"], "only_other": []}, {"name": str(there)}],
        "other_compilers": [elsewhere.namespace],
    }


async def test_a_long_story_fits_into_a_line(host: Host) -> None:
    hlo = NAME.key.partition("+")[0]
    others = [ModuleName(NAME.namespace, f"{hlo}+{number:08x}") for number in range(50)]
    flags = json.dumps([f"--{'x' * 300}{number}" for number in range(150)]).encode()
    for name in (NAME, *others):
        entries.write(host.root.path, name, {"compile_flags.json": flags[:-1] + f', "{name}"]'.encode()})
    job = {f"VARIABLE_{number}": "x" * 200 for number in range(16)}
    for pid in range(60):
        host.history.asked("/cache", NAME, Asker(pid, pid, job), Answer(False, "failed-before", text="x" * 200))
    story = await host.stories.why(str(NAME))
    assert len(story["events"]) == 50
    protocol.encode({"id": 1, "why": story, "done": True})


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=50
)
@given(
    text=st.text(min_size=1, max_size=40) | st.from_regex(r"(neuronxcc-[0-9.]+/)?MODULE_?[0-9a-f+%/_]*", fullmatch=True)
)
async def test_any_text_is_answered(host: Host, text: str) -> None:
    story = await host.stories.why(text)
    assert story["known"] is False
