"""Owners and modes: what neffd creates in a cache directory must never hinder a user who could write there before.

New folders and files take owner, group, mode and default ACL from the folder above them, as far as we are allowed to.
Where that is not enough, nothing is created and the answer names the command that would help.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from pathlib import Path

_ACL_DEFAULT = "system.posix_acl_default"
_ACL_ACCESS = "system.posix_acl_access"


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


def inherit(path: Path, parent: Path) -> None:
    """Give `path` (a folder with files, a folder, or a file) what a child of `parent` should have."""
    above = parent.stat()
    default_acl = _default_acl(parent)
    for child in [path, *path.iterdir()] if path.is_dir() else [path]:
        _inherit_one(child, above, default_acl)


def check_harmless(path: Path, parent: Path) -> None:
    """Raise CannotShare if somebody who may write in `parent` could not write in the folder `path`."""
    above, child = parent.stat(), path.stat()
    if _default_acl(parent) is not None or child.st_mode & above.st_mode & stat.S_IWOTH:
        return
    group_kept = not above.st_mode & stat.S_IWGRP or (child.st_gid == above.st_gid and child.st_mode & stat.S_IWGRP)
    if group_kept and (child.st_uid == above.st_uid or _may_write_as_group(above.st_uid, child)):
        return
    raise CannotShare(
        f"a folder made in {parent} by uid {os.geteuid()} could not be written by"
        f" uid {above.st_uid} and group {above.st_gid}",
        share_command(parent),
    )


def share_command(directory: Path) -> str:
    """The command with which an administrator lets daemon and trainers share `directory`."""
    user = _user_name(os.geteuid())
    return f"setfacl -R -m u:{user}:rwX -m d:u:{user}:rwX -m d:u:{_user_name(directory.stat().st_uid)}:rwX {directory}"


def _inherit_one(path: Path, above: os.stat_result, default_acl: bytes | None) -> None:
    is_directory = path.is_dir()
    if os.geteuid() == 0:
        os.chown(path, above.st_uid, above.st_gid, follow_symlinks=False)
    else:
        with contextlib.suppress(OSError):
            os.chown(path, -1, above.st_gid, follow_symlinks=False)
    # A mode for a group that we could not give away would open the folder to the wrong group.
    mode = stat.S_IMODE(above.st_mode)
    if path.stat().st_gid != above.st_gid:
        mode &= ~(stat.S_IRWXG | stat.S_ISGID)
    path.chmod(mode if is_directory else mode & 0o666)
    if default_acl is not None:
        with contextlib.suppress(OSError):
            os.setxattr(path, _ACL_ACCESS, default_acl)
            if is_directory:
                os.setxattr(path, _ACL_DEFAULT, default_acl)


def _default_acl(directory: Path) -> bytes | None:
    try:
        return os.getxattr(directory, _ACL_DEFAULT)
    except OSError:
        return None


def _may_write_as_group(uid: int, child: os.stat_result) -> bool:
    if uid == 0:
        return True
    if not child.st_mode & stat.S_IWGRP:
        return False
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return False
    return child.st_gid in os.getgrouplist(user.pw_name, user.pw_gid)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
