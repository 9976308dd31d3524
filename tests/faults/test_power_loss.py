"""The power fails at every moment of a recorded day: nothing promised is lost, nothing torn is ready or pushed.

POWER_CUTS is how many moments are tried beside those right after a sync or a rename (default 60 a kind of disk),
POWER_SEED chooses them and what is left; it is in the output.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from neff.keys import ModuleName
from tests.faults import power_scene, preload
from tests.faults.power_check import check, lose_power
from tests.faults.power_model import Choice, Disk, Recording, after_power_loss, build, snapshot
from tests.faults.power_scene import FETCHED, OWN, Scene
from tests.faults.power_trace import Event, Op
from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess

pytestmark = pytest.mark.skipif(preload.compiler() is None, reason="no C compiler here")

_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The day, recorded once; in memory where that can be: the disk of the model is slow enough."""
    place = _MEMORY if os.access(_MEMORY, os.W_OK) else tmp_path_factory.mktemp("day")
    scratch = Path(tempfile.mkdtemp(prefix="neffd-power-", dir=place))
    with HubProcess(tmp_path_factory.mktemp("hub")) as hub:
        yield power_scene.record(scratch, hub)
    shutil.rmtree(scratch)


@pytest.mark.parametrize("disk", Disk)
def test_after_every_sync_and_rename_nothing_more_is_on_disk(scene: Scene, disk: Disk) -> None:
    for cut in scene.recording.cuts_after(Op.SYNC, Op.RENAME):
        _check_after_power_loss(scene, cut, Choice(disk), f"{disk.value}, after {cut} events")


@pytest.mark.timeout(3600)  # POWER_CUTS may be large
@pytest.mark.parametrize("disk", Disk)
def test_any_part_of_what_was_not_synced_is_on_disk(scene: Scene, disk: Disk) -> None:
    seed = int(os.environ.get("POWER_SEED", random.SystemRandom().randrange(10**6)))
    print(f"POWER_SEED={seed}")
    chance = random.Random(seed)
    for number in range(int(os.environ.get("POWER_CUTS", "60"))):
        cut = chance.randint(0, len(scene.recording.events))
        _check_after_power_loss(scene, cut, Choice(disk, chance), f"{disk.value}, cut {number} of seed {seed}")


def _check_after_power_loss(scene: Scene, cut: int, choice: Choice, what: str) -> None:
    lose_power(scene, cut, choice)
    try:
        check(scene, cut)
    except Exception as error:
        raise AssertionError(f"{what}: {error}") from error


@pytest.mark.parametrize("mark", ["journal-inserted", "entry-renamed", "eviction-unmarked"])
def test_the_next_daemon_goes_on_from_there(scene: Scene, mark: str) -> None:
    """A whole one, on what is left at some moment after the first `mark`, under another boot id."""
    seed = int(os.environ.get("POWER_SEED", random.SystemRandom().randrange(10**6)))
    print(f"POWER_SEED={seed}")
    chance = random.Random(seed)
    first = next(number for number, event in enumerate(scene.recording.events) if event.data == mark.encode())
    cut = first + 1 + chance.randrange(20)
    lose_power(scene, cut, Choice(Disk.JOURNALLED, chance))
    made = scene.recording.marks(cut).count("journal-inserted")
    host = scene.host
    host.start_as(("-m", "tests.faults.rebooted_daemon"), BOOT_ID="after")
    try:
        assert host.ask("flush", timeout_s=20)[-1] == {"id": 1, "pending": 0, "parked": [], "done": True}
        there = [name for name in OWN if (scene.shared / str(name) / "neffd.json").exists()]
        assert len(there) >= made
        for name in there:
            assert entries.shared(entries.read(scene.shared, name)) == power_scene.content(name)
        for name in [*there, *FETCHED]:
            eventually(
                functools.partial(_is_fetched, host, name), f"{name} is ready"
            )  # a busy Hub may take two questions
            assert entries.read(host.cache, name).items() >= _outputs(power_scene.content(name)).items()
        assert "is damaged" not in host.log
        assert "Traceback" not in host.log
    finally:
        host.kill()


def _is_fetched(host: Daemon, name: ModuleName) -> bool:
    answers = host.ask("prefetch", names=[str(name)], wait=True)
    return bool([answer["state"] for answer in answers if "state" in answer][-1] == "ready")


def _outputs(content: dict[str, bytes]) -> dict[str, bytes]:
    return {file: data for file, data in content.items() if not file.endswith((".pb", ".json"))}


class TestModel:
    """The disk of these tests, on traces made by hand: what it has to lose it loses."""

    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        (tmp_path / "disk" / "old").mkdir(parents=True)
        return tmp_path / "disk"

    def _left(self, home: Path, events: list[Event], choice: Choice) -> dict[str, bytes | None]:
        recording = Recording(home, events, snapshot(home))
        state = after_power_loss(recording, len(events), choice)
        return {path[len(str(home)) + 1 :]: content for path, (_, content) in state.items() if path != str(home)}

    def _write(self, path: Path, inode: int, data: bytes) -> list[Event]:
        return [Event(Op.CREATE, str(path), inode=inode), Event(Op.WRITE, str(path), inode=inode, data=data)]

    @pytest.mark.parametrize(
        ("disk", "left"),
        [(Disk.JOURNALLED, {"old": None, "new": b"data"}), (Disk.STRICT, {"old": None})],
    )
    def test_a_synced_file_has_its_name_only_where_names_are_journalled(
        self, home: Path, disk: Disk, left: dict[str, bytes | None]
    ) -> None:
        events = [*self._write(home / "new", 1, b"data"), Event(Op.SYNC, str(home / "new"), inode=1)]
        assert self._left(home, events, Choice(disk)) == left

    @pytest.mark.parametrize("disk", Disk)
    def test_a_synced_folder_has_its_names_and_not_their_content(self, home: Path, disk: Disk) -> None:
        sync = Event(Op.SYNC, str(home), inode=home.stat().st_ino)
        events = [*self._write(home / "new", 1, b"data"), sync, Event(Op.REMOVE, str(home / "new"))]
        assert self._left(home, events, Choice(disk)) == {"old": None, "new": b""}

    def test_what_is_left_of_a_journal_is_all_up_to_a_moment(self, home: Path) -> None:
        names = [home / "old" / "a", home / "b", home / "old" / "c", home / "d"]
        events = [Event(Op.CREATE, str(path), inode=number) for number, path in enumerate(names, start=1)]
        seen = {frozenset(self._left(home, events, Choice(Disk.JOURNALLED, random.Random(seed)))) for seed in range(99)}
        order = ["old/a", "b", "old/c", "d"]
        assert seen == {frozenset(["old", *order[:count]]) for count in range(5)}

    def test_a_strict_disk_keeps_later_names_and_loses_earlier_ones(self, home: Path) -> None:
        events = [Event(Op.CREATE, str(home / "old" / "a"), inode=1), Event(Op.CREATE, str(home / "b"), inode=2)]
        seen = {frozenset(self._left(home, events, Choice(Disk.STRICT, random.Random(seed)))) for seed in range(99)}
        assert frozenset(["old", "b"]) in seen

    def test_content_is_whole_cut_off_holed_or_gone(self, home: Path) -> None:
        data = bytes([1]) * 10_000
        events = [*self._write(home / "new", 1, data), Event(Op.SYNC, str(home), inode=home.stat().st_ino)]
        seen = {self._left(home, events, Choice(Disk.STRICT, random.Random(seed)))["new"] for seed in range(99)}
        assert {b"", data} < seen
        assert any(content and len(content) < len(data) for content in seen), "cut off"
        assert any(content and len(content) == len(data) and content[-1] == 0 for content in seen), "zeroes"

    def test_a_file_with_two_names_is_one_file_again(self, home: Path) -> None:
        link = Event(Op.LINK, str(home / "new"), str(home / "old" / "pinned"))
        events = [*self._write(home / "new", 1, b"data"), link, Event(Op.SYNC_ALL, str(home))]
        recording = Recording(home, events, snapshot(home))
        state = after_power_loss(recording, len(events), Choice(Disk.STRICT))
        shutil.rmtree(home)
        build(state)
        assert (home / "new").samefile(home / "old" / "pinned")
        assert (home / "new").read_bytes() == b"data"
