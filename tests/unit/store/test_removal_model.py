"""Removal among trainers, downloads and restarts: a state machine on real files beside a model of them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from neff.keys import ModuleName
from neffd.layouts import xla
from neffd.store.database import Database
from neffd.store.index import Evicted, Index
from neffd.store.place import Placement, Placer
from neffd.store.removal import Removal, Remover
from neffd.store.root import PART_SUFFIX, CacheRoot
from tests.harness import entries

NAMES = [entries.module(1), entries.module(2, entries.OLD_NAMESPACE)]
_NAMES = st.sampled_from(NAMES)


class Machine(RuleBasedStateMachine):
    """`whole` is what each ready entry must hold, `working` what a trainer that compiles has put there."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="neffd-removal-"))
        (self.folder / "cache").mkdir()
        self.root = CacheRoot(self.folder / "cache")
        self.whole: dict[ModuleName, dict[str, bytes]] = {}
        self.working: dict[ModuleName, bytes] = {}
        self.begun: dict[ModuleName, Evicted] = {}
        self.versions = 0
        self.open()

    def open(self) -> None:
        self.database = Database(self.folder / "state")
        self.index = Index(self.database)
        self.remover, self.placer = Remover(self.root, self.index), Placer(self.root, self.index)

    def teardown(self) -> None:
        self.database.close()
        shutil.rmtree(self.folder)

    def _content(self, name: ModuleName) -> dict[str, bytes]:
        self.versions += 1
        return entries.files(name, seed=self.versions)

    @rule(name=_NAMES)
    def trainer_begins(self, name: ModuleName) -> None:
        """It found no ready entry: inputs, and from 2.15 on the lock."""
        if name in self.whole or name in self.working:
            return
        self.versions += 1
        self.working[name] = b"traced %d" % self.versions
        folder = self.root.entry(name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.hlo_module.pb").unlink(missing_ok=True)
        (folder / "model.hlo_module.pb").write_bytes(self.working[name])
        if name.namespace == entries.NAMESPACE:
            (folder / xla.LOCK).touch()

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def trainer_finishes(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.working)))
        content = {**self._content(name), "model.hlo_module.pb": self.working.pop(name)}
        entries.write(self.root.path, name, {file: content[file] for file in content if file != "model.hlo_module.pb"})
        (self.root.entry(name) / xla.LOCK).unlink(missing_ok=True)
        self.whole[name] = content

    @rule(name=_NAMES)
    def download_arrives(self, name: ModuleName) -> None:
        content = self._content(name)
        staged = self.root.new_folder("fetch")
        for file, data in content.items():
            (staged / (file + PART_SUFFIX)).write_bytes(data)
        before = entries.read(self.root.path, name).get("model.hlo_module.pb")
        placement = self.placer.place(name, staged, asker_holds_lock=False)
        shutil.rmtree(staged, ignore_errors=True)
        if name in self.whole:
            assert placement is Placement.ALREADY_READY
        elif name in self.working and name.namespace == entries.NAMESPACE:
            assert placement is Placement.LOCKED
        else:
            assert placement is Placement.PLACED
            self.working.pop(name, None)
            self.whole[name] = content | ({"model.hlo_module.pb": before} if before is not None else {})

    @rule(names=st.sets(_NAMES, min_size=1))
    def eviction_begins(self, names: set[ModuleName]) -> None:
        seen = {name: neff for name in names if (neff := self.root.inspect(name).neff) is not None}
        gone, kept = self.remover.unmark(seen)
        assert {entry.name for entry in gone} == seen.keys() & self.whole.keys()
        assert kept.keys() == seen.keys() - self.whole.keys()
        for entry in gone:
            del self.whole[entry.name]
            self.begun[entry.name] = entry

    @precondition(lambda self: self.begun)
    @rule(data=st.data())
    def eviction_ends(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.begun)))
        outcome = self.remover.finish(self.begun.pop(name))
        is_wanted = name in self.whole or name in self.working
        assert outcome is (Removal.LEFT if is_wanted else Removal.REMOVED)
        assert self.root.entry(name).exists() == is_wanted

    @rule()
    def daemon_restarts(self) -> None:
        self.database.close()
        self.open()
        begun = {entry.name: entry for entry in self.index.unfinished_evictions(self.root.path)}
        assert begun == self.begun

    @invariant()
    def what_is_ready_is_whole_and_work_is_kept(self) -> None:
        for name in NAMES:
            content = entries.read(self.root.path, name)
            assert self.root.is_ready(name) == (name in self.whole)
            if name in self.whole:
                assert content == self.whole[name]
            if name in self.working:
                assert content["model.hlo_module.pb"] == self.working[name]


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
