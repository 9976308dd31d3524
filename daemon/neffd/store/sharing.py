"""Owners and modes: what neffd creates in a cache directory must never hinder a user who could write there before.

New folders and files take owner, group, mode and default ACL from the folder above them, as far as we are allowed to.
Where that is not enough, nothing is created and the answer names the command that would help.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shlex
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

_ACL_DEFAULT = "system.posix_acl_default"
_ACL_ACCESS = "system.posix_acl_access"
# An ACL attribute is a version of four bytes, then rules of tag, permissions and uid or gid (linux/posix_acl_xattr.h).
_ACL_RULE = struct.Struct("<HHI")
_WRITE, _SEARCH = 0o2, 0o1
_MOST_USERS = 1_000
# Groups that clients' processes were seen in, by uid.
_seen: dict[int, frozenset[int]] = {}


class _Tag(IntEnum):
    OWNER = 0x01
    USER = 0x02
    OWNING_GROUP = 0x04
    GROUP = 0x08
    MASK = 0x10
    OTHERS = 0x20


_MASKED = (_Tag.USER, _Tag.OWNING_GROUP, _Tag.GROUP)


class CannotShare(Exception):
    """Something could not be placed without hindering another user, or not at all.

    Args:
        detail: what is in the way, one line.
        hint: the command that mends it.
    """

    def __init__(self, detail: str, hint: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint


def learn_groups(uid: int, pid: int) -> None:
    """Note which groups a client's process is in: no account of this host may say so (`--group-add` of a container)."""
    try:
        # The process's name is cut after 15 bytes, within a letter perhaps.
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return
    said = {name: words.split() for name, _, words in (line.partition(":") for line in lines)}
    (_, effective_uid, *_), (_, effective_gid, *_) = said["Uid"], said["Gid"]
    if int(effective_uid) == uid and (uid in _seen or len(_seen) < _MOST_USERS):
        groups = frozenset(int(gid) for gid in (effective_gid, *said["Groups"]))
        _seen[uid] = _seen.get(uid, frozenset()) | groups


def inherit(path: Path, parent: Path, children: Iterable[Path] | None = None) -> None:
    """Give `path` (a folder with files, a folder, or a file) what a child of `parent` should have.

    Args:
        children: what is in the folder, where that is known.
    """
    above = parent.stat()
    default_acl = _acl(parent, _ACL_DEFAULT)
    for child in (path, *(_children(path) if children is None else children)):
        _inherit_one(child, above, default_acl)


def check_harmless(path: Path, parent: Path, top: Path | None = None) -> None:
    """Raise CannotShare if somebody who may write in `parent` could not write in, or to, `path`.

    The command that it names is about `top` and all below it, `parent` if that is not given.
    """
    if not _writers(path).cover(_writers(parent)):
        raise CannotShare(
            f"what uid {os.geteuid()} makes in {parent} could not be written by everybody who may write there",
            share_command(top or parent, parent),
        )


def share_command(directory: Path, *below: Path) -> str:
    """The command with which an administrator lets daemon and trainers share `directory`.

    Args:
        below: folders in it whose writers are to keep their rights too.
    """
    daemon = _user_name(os.geteuid())
    above = []
    for folder in (directory, *below):
        with contextlib.suppress(OSError):  # not there, or not to be seen
            above.append(_writers(folder))
    users = frozenset[int]().union(*(writers.users for writers in above)) - {0, os.geteuid()}
    groups = frozenset[int]().union(*(writers.groups for writers in above))
    rules = [f"u:{daemon}:rwX", f"d:u:{daemon}:rwX"]
    rules += [f"d:u:{_user_name(uid)}:rwX" for uid in sorted(users)]
    rules += [f"d:g:{_group_name(gid)}:rwX" for gid in sorted(groups)]
    rules += ["d:o::rwX"] if any(writers.everybody for writers in above) else []
    return f"setfacl -R {' '.join(f'-m {rule}' for rule in rules)} {shlex.quote(str(directory))}"


@dataclass(frozen=True)
class _Writers:
    """Who, apart from root, may write: by owner, group and mode, or by the ACL in their place."""

    users: frozenset[int]
    groups: frozenset[int]
    everybody: bool

    def cover(self, others: _Writers) -> bool:
        """Whether all of `others` are among these."""
        if self.everybody:
            return True
        users_kept = all(
            uid == 0 or uid in self.users or not self.groups.isdisjoint(groups_of(uid)) for uid in others.users
        )
        return users_kept and others.groups <= self.groups and not others.everybody


def _writers(path: Path) -> _Writers:
    facts = path.stat()
    needed = _WRITE | _SEARCH if stat.S_ISDIR(facts.st_mode) else _WRITE
    users, groups, everybody = set(), set(), False
    rules = _access_rules(path, facts)
    mask = next((permitted for tag, permitted, _ in rules if tag is _Tag.MASK), 0o7)
    for tag, permitted, number in rules:
        if tag in _MASKED:
            permitted &= mask
        if permitted & needed != needed:
            continue
        if tag in (_Tag.OWNER, _Tag.USER):
            users.add(facts.st_uid if tag is _Tag.OWNER else number)
        elif tag in (_Tag.OWNING_GROUP, _Tag.GROUP):
            groups.add(facts.st_gid if tag is _Tag.OWNING_GROUP else number)
        elif tag is _Tag.OTHERS:
            everybody = True
    return _Writers(frozenset(users), frozenset(groups), everybody)


def _access_rules(path: Path, facts: os.stat_result) -> list[tuple[_Tag, int, int]]:
    """Tag, permission bits, and uid or gid where the tag names one."""
    acl = _acl(path, _ACL_ACCESS)
    if acl is not None:
        return [(_Tag(tag), permitted, number) for tag, permitted, number in _ACL_RULE.iter_unpack(acl[4:])]
    mode = facts.st_mode
    return [
        (_Tag.OWNER, mode >> 6 & 0o7, 0),
        (_Tag.OWNING_GROUP, mode >> 3 & 0o7, 0),
        (_Tag.OTHERS, mode & 0o7, 0),
    ]


def _inherit_one(path: Path, above: os.stat_result, default_acl: bytes | None) -> None:
    """What is as it should be is left alone: most files are, and each call costs as much as the look."""
    facts = path.stat()
    if (facts.st_uid, facts.st_gid) != (above.st_uid, above.st_gid):
        facts = _take_owner(path, above)
    is_directory = stat.S_ISDIR(facts.st_mode)
    mode = stat.S_IMODE(above.st_mode)
    if facts.st_gid != above.st_gid:
        # What the group above may do would be given to the wrong one: that one is anybody.
        mode = mode & ~(stat.S_IRWXG | stat.S_ISGID) | (mode & stat.S_IRWXO) << 3
    if not is_directory:
        mode &= 0o666
    if stat.S_IMODE(facts.st_mode) != mode:
        path.chmod(mode)
    if default_acl is None:
        return
    os.setxattr(path, _ACL_ACCESS, default_acl)
    if is_directory:
        os.setxattr(path, _ACL_DEFAULT, default_acl)
    else:
        path.chmod(path.stat().st_mode & 0o666)


def _children(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except NotADirectoryError:
        return []


def _take_owner(path: Path, above: os.stat_result) -> os.stat_result:
    """As far as we may; the facts that came of it."""
    with contextlib.suppress(OSError):  # root may, unless a mount squashes it
        if os.geteuid() == 0:
            os.chown(path, above.st_uid, -1, follow_symlinks=False)
    with contextlib.suppress(OSError):
        os.chown(path, -1, above.st_gid, follow_symlinks=False)
    return path.stat()


def _acl(path: Path, kind: str) -> bytes | None:
    try:
        return os.getxattr(path, kind)
    except OSError:
        return None


def groups_of(uid: int) -> frozenset[int]:
    """The groups of a user: by its account, and those that processes of it were seen in. Blocking."""
    seen = _seen.get(uid, frozenset())
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return seen
    return seen.union(os.getgrouplist(user.pw_name, user.pw_gid))


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
