"""A model of what a file system has on disk when the power fails, and the replay of a recorded trace up to there.

What every file system promises, and all that a program may rely on: the content of a file is on disk once `fsync` of
that file has returned, an entry of a folder once `fsync` of that folder has. Of what was done since the last sync, any
part may be there. Two kinds of disk differ in the rest:

`JOURNALLED` (ext4, XFS, btrfs): changes of folders reach the disk in their order, so that what is left is all up to a
moment; a sync of a file or folder takes with it what was done before to its own names.

`STRICT` (no more than POSIX says): each folder has a moment of its own. A sync of a file says nothing of its name. A
rename from one folder to another is two changes, one in each: either may be lost without the other.

In both, writes since a file's last sync are all there, none, cut off, or some of them, with zeroes between. Modes,
owners and times are not modelled.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from tests.faults.power_trace import Event, Op

_SECTOR_BYTES = 512
_BLOCK_BYTES = 4096
_SYNCS = (Op.SYNC, Op.SYNC_ALL)


class Disk(Enum):
    """How folders reach the disk."""

    JOURNALLED = "journalled"
    STRICT = "strict"


@dataclass(eq=False)
class Node:
    """A file or folder as the trace knows it: its content before the trace, and what was done to it, by event."""

    is_folder: bool
    inode: int
    content: bytes = b""
    changes: list[tuple[int, Event]] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """One change of one name: `child` None where it goes. Steps of the same event happen together, if in one folder."""

    event: int
    folder: Node
    name: str
    child: Node | None


class Recording:
    """A trace, understood: which node each event is about.

    Args:
        home: the folder that was recorded.
        events: what was done below it since the snapshot was made.
        base: the nodes by path, as `snapshot` saw them; all of that is on disk.
        ignored: names in `home` that do not matter.
    """

    def __init__(
        self, home: Path, events: Sequence[Event], base: Mapping[str, Node], ignored: frozenset[str] = frozenset()
    ) -> None:
        self.home = home
        self.events = events
        self.base = dict(base)
        self.steps: list[Step] = []
        self.syncs: list[tuple[int, Node | None]] = []
        self._paths = dict(base)
        self._nodes = {node.inode: node for node in base.values()}
        for number, event in enumerate(events):
            if event.path[len(str(home)) + 1 :].split("/")[0] not in ignored or event.op is Op.MARK:
                self._understand(number, event)

    def marks(self, cut: int) -> list[str]:
        """What was noted among the first `cut` events."""
        return [event.data.decode() for event in self.events[:cut] if event.op is Op.MARK]

    def cuts_after(self, *ops: Op) -> list[int]:
        """The moments right after an event of these kinds, the very beginning and the end among them."""
        found = [number + 1 for number, event in enumerate(self.events) if event.op in ops]
        return sorted({0, *found, len(self.events)})

    def _understand(self, number: int, event: Event) -> None:
        if event.op in (Op.CREATE, Op.MKDIR):
            node = self._nodes[event.inode] = Node(event.op is Op.MKDIR, event.inode)
            self._name(number, event.path, node)
        elif event.op in (Op.WRITE, Op.TRUNCATE):
            self._nodes[event.inode].changes.append((number, event))
        elif event.op is Op.SYNC:
            self.syncs.append((number, self._nodes[event.inode]))
        elif event.op is Op.SYNC_ALL:
            self.syncs.append((number, None))
        elif event.op is Op.LINK:
            self._name(number, event.to, self._paths[event.path])
        elif event.op is Op.REMOVE:
            self._name(number, event.path, None)
        elif event.op is Op.RENAME:
            self._rename(number, event)

    def _rename(self, number: int, event: Event) -> None:
        moved = {path: node for path, node in self._paths.items() if f"{path}/".startswith(f"{event.path}/")}
        self._name(number, event.path, None)
        self._name(number, event.to, moved[event.path])
        for path, node in moved.items():
            self._paths.pop(path, None)
            self._paths[event.to + path[len(event.path) :]] = node

    def _name(self, number: int, path: str, node: Node | None) -> None:
        parent, _, name = path.rpartition("/")
        self.steps.append(Step(number, self._paths[parent], name, node))
        if node is None:
            self._paths.pop(path)
        else:
            self._paths[path] = node


def snapshot(home: Path) -> dict[str, Node]:
    """Everything below `home`, and itself, by path."""
    found = {str(home): Node(True, home.stat().st_ino)}
    for path in sorted(home.rglob("*")):
        facts = path.lstat()
        content = b"" if path.is_dir() else path.read_bytes() if path.is_file() else None
        if content is not None:
            found[str(path)] = Node(path.is_dir(), facts.st_ino, content)
    return found


@dataclass(frozen=True)
class Choice:
    """Which part of what was not synced is on disk: decided by `chance`, or none of it where that is None."""

    disk: Disk
    chance: random.Random | None = None

    def moment(self, least: int, steps: Sequence[Step]) -> int:
        """How far these steps are on disk, of which all before `least` are: none more, all, or up to one of them."""
        moments = [least, *(step.event + 1 for step in steps if step.event >= least)]
        if self.chance is None:
            return least
        return self.chance.choice((least, moments[-1], self.chance.choice(moments)))


def after_power_loss(recording: Recording, cut: int, choice: Choice) -> dict[str, tuple[Node, bytes | None]]:
    """What is on disk when the power fails after the first `cut` events: nodes by path, with the content of files."""
    kept = _kept_steps(recording, cut, choice)
    folders: dict[Node, dict[str, Node]] = {node: {} for node in recording.base.values() if node.is_folder}
    for path, node in recording.base.items():
        parent, _, name = path.rpartition("/")
        if parent in recording.base:
            folders[recording.base[parent]][name] = node
    for step in kept:
        names = folders.setdefault(step.folder, {})
        if step.child is None:
            names.pop(step.name, None)
        else:
            if step.child.is_folder:  # it has one name at a time
                for others in folders.values():
                    for name in [name for name, child in others.items() if child is step.child]:
                        del others[name]
            names[step.name] = step.child
    contents: dict[Node, bytes] = {}
    found: dict[str, tuple[Node, bytes | None]] = {}

    def walk(path: str, node: Node) -> None:
        if node.is_folder:
            found[path] = (node, None)
            for name, child in folders.get(node, {}).items():
                walk(f"{path}/{name}", child)
            return
        if node not in contents:
            contents[node] = _content(recording, node, cut, choice)
        found[path] = (node, contents[node])

    walk(str(recording.home), recording.base[str(recording.home)])
    return found


def _kept_steps(recording: Recording, cut: int, choice: Choice) -> list[Step]:
    steps = [step for step in recording.steps if step.event < cut]
    syncs = [(number, node) for number, node in recording.syncs if number < cut]
    if choice.disk is Disk.JOURNALLED:
        last = -1
        for number, node in syncs:
            concerned = (
                step.event
                for step in steps
                if step.event < number and (node is None or node in (step.folder, step.child))
            )
            last = max(last, *concerned, -1)
        moment = choice.moment(last + 1, steps)
        return [step for step in steps if step.event < moment]
    moments: dict[Node, int] = {}
    for step in steps:
        if step.folder not in moments:
            synced = max((number for number, node in syncs if node is step.folder or node is None), default=0)
            moments[step.folder] = choice.moment(synced, [other for other in steps if other.folder is step.folder])
    return [step for step in steps if step.event < moments[step.folder]]


def _content(recording: Recording, node: Node, cut: int, choice: Choice) -> bytes:
    synced = max((number for number, of in recording.syncs if number < cut and (of is node or of is None)), default=-1)
    certain = [event for number, event in node.changes if number < synced]
    doubtful = [event for number, event in node.changes if synced <= number < cut]
    content = bytearray(node.content)
    for event in certain:
        _apply(content, event)
    if choice.chance is None or not doubtful:
        return bytes(content)
    chance = choice.chance
    fate: Callable[[bytearray, list[Event], random.Random], None] = chance.choice(
        (_all, _none, _cut_off, _some, _zeroes)
    )
    fate(content, doubtful, chance)
    return bytes(content)


def _apply(content: bytearray, event: Event) -> None:
    if event.op is Op.TRUNCATE:
        del content[event.at :]
        content.extend(bytes(event.at - len(content)))
        return
    content.extend(bytes(max(0, event.at - len(content))))
    content[event.at : event.at + len(event.data)] = event.data


def _all(content: bytearray, doubtful: list[Event], chance: random.Random) -> None:
    for event in doubtful:
        _apply(content, event)


def _none(content: bytearray, doubtful: list[Event], chance: random.Random) -> None:
    pass


def _cut_off(content: bytearray, doubtful: list[Event], chance: random.Random) -> None:
    """A part of the last write that arrives, whole sectors of it."""
    count = chance.randrange(len(doubtful))
    _all(content, doubtful[:count], chance)
    event = doubtful[count]
    sectors = len(event.data) // _SECTOR_BYTES
    if event.op is Op.WRITE and sectors:
        arrived = event.data[: chance.randint(0, sectors) * _SECTOR_BYTES]
        _apply(content, Event(event.op, event.path, at=event.at, data=arrived))


def _some(content: bytearray, doubtful: list[Event], chance: random.Random) -> None:
    """In any order: a write beyond one that is lost leaves zeroes between."""
    _all(content, [event for event in doubtful if chance.random() < 0.5], chance)


def _zeroes(content: bytearray, doubtful: list[Event], chance: random.Random) -> None:
    """The length arrives, the bytes from some block on do not."""
    before = bytes(content)
    _all(content, doubtful, chance)
    begin = chance.randrange(0, max(1, len(content)), _BLOCK_BYTES)
    for position in range(begin, len(content)):
        content[position] = before[position] if position < len(before) else 0


_FATES: tuple[Callable[[bytearray, list[Event], random.Random], None], ...] = (_all, _none, _cut_off, _some, _zeroes)


def build(state: Mapping[str, tuple[Node, bytes | None]]) -> dict[int, Path]:
    """Make the files and folders of `state`, whose top must not exist; returns the path of each by its old inode.

    Blocks of zeroes become holes, as what never reached the disk is one.
    """
    paths: dict[int, Path] = {}
    made: dict[Node, Path] = {}
    for text, (node, content) in state.items():
        path = Path(text)
        if node in made:
            os.link(made[node], path)
        elif content is None:
            path.mkdir(mode=0o700)
        else:
            made[node] = path
            with path.open("xb") as file:
                for at in range(0, len(content), _BLOCK_BYTES):
                    block = content[at : at + _BLOCK_BYTES]
                    if block.strip(b"\0"):
                        file.seek(at)
                        file.write(block)
                file.truncate(len(content))
        paths.setdefault(node.inode, path)
    return paths
